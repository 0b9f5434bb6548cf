"""Neuron apoptosis: redundant neurons leave while the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_apoptosis.callbacks.scheduled_surgery import ScheduledSurgery
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.schedules import Constant, Logarithmic
from keras_apoptosis.selection.candidate import Candidate
from keras_apoptosis.selection.levels import LEVELS
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.selection.similarity import (
    IncomingSimilarity,
    OutgoingSimilarity,
)
from keras_apoptosis.statistics.streaming import lasting
from keras_apoptosis.surgery import Removal, shrink
from keras_apoptosis.surgery.plan import parameters_after
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.utils.checks import check_choice, check_count, check_share


class NeuronApoptosis(ScheduledSurgery):
    """Removes redundant neurons and channels while a model trains.

    After Siegel, Daily and Vishnu, "Adaptive neuron apoptosis for
    accelerating deep learning on large scale systems". At a quarter of the
    training, and then at logarithmically spaced times, units that others can
    stand in for are removed; the rest of the training runs on the smaller
    model, faster.

    Two metrics say which:

    - `"reconstruction"` (ours) keeps the units whose activations, on a
      sample, best explain what the next layers receive, until the
      unexplained part is at most `tolerance` of it, and replaces the others
      by least squares.
    - `"weights"` (the paper's, section V) merges units whose incoming
      weights are nearly parallel: `‖v₂ − α v₁‖ < ‖v₂‖ / factor`. With usual
      initial weights next to nothing is, as weights of standard deviation
      0.05 drown what training adds; it wants small initial weights (a
      standard deviation of 0.001) and L2 regularization (1e-3).

    Args:
        level: How aggressive: `"very_conservative"`, `"conservative"`,
            `"normal"`, `"aggressive"` or `"very_aggressive"`.
        metric: `"reconstruction"` or `"weights"`.
        data: Training sample for `"reconstruction"`: arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or a
            generator of batches (of which `samples` are kept). Callbacks do
            not see the data of `fit`, so it has to be given; 4,000 samples
            will do.
        factor: Instead of a level, for `"weights"`: float > 1, or a schedule
            such as `ka.schedules.LinearDegree(2.0, 1.5)`.
        tolerance: Instead of a level, for `"reconstruction"`: float between
            0 and 1, or a schedule.
        schedule: When. Defaults to `ka.schedules.Logarithmic()`.
        synapses: `"incoming"`, or `"outgoing"` for sigmoid units (section
            IV-E, proposition 1.2). Only for `"weights"`.
        layers: Names of layers or groups to which it is limited.
        exclude: Names of layers or groups to leave alone.
        min_units: How many units every group keeps.
        round_to: Widths stay multiples of this, such as 8, which hardware
            may like better.
        min_gain: Float from 0 to 1. An event that would remove less than
            this share of the parameters is skipped: it is not worth the
            retrace of the training step.
        samples: How many samples of `data` to use at most.
        batch_size: How many of them to run at once.
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`.
        seed: Seed of the criterion's random projection.
        verbose: Whether to print what events did; `"auto"` follows `fit`.

    Attributes:
        history: A list with one `Event` for each event so far. `fit`'s own
            logs get `parameters`, `units/<group>`, and in epochs with an
            event `neuron_apoptosis_seconds` and `neuron_apoptosis_residual`.

    Raises:
        ValueError: If an argument is out of range, or, when training begins,
            if the model has no unit that may leave.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.compile("adam", "mse")
    >>> apoptosis = ka.callbacks.NeuronApoptosis("normal", data=x)
    >>> _ = model.fit(
    ...     x, x[:, :1], epochs=4, callbacks=[apoptosis], verbose=0
    ... )
    >>> model.layers[0].units < 64
    True
    """

    def __init__(
        self,
        level: str = "normal",
        *,
        metric: str = "reconstruction",
        data: Any = None,
        factor: Any = None,
        tolerance: Any = None,
        schedule: Any = None,
        synapses: str = "incoming",
        layers: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_units: int = 1,
        round_to: int = 1,
        min_gain: float = 0.1,
        samples: int = 4096,
        batch_size: int = 512,
        total_epochs: int | None = None,
        seed: int = 0,
        verbose: bool | str = "auto",
    ):
        super().__init__(
            Logarithmic() if schedule is None else schedule,
            layers=layers,
            exclude=exclude,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        check_choice("level", level, LEVELS)
        check_choice("metric", metric, ("reconstruction", "weights"))
        check_choice("synapses", synapses, ("incoming", "outgoing"))
        check_count("min_units", min_units)
        check_count("round_to", round_to)
        check_share("min_gain", min_gain)
        self.metric = metric
        self.min_gain = min_gain
        if metric == "reconstruction":
            if data is None:
                raise ValueError(
                    "The metric 'reconstruction' judges units on training "
                    "samples, and callbacks do not see the data of `fit`. "
                    "Pass some, as `data=x_train[:4000]`, or use "
                    "`metric='weights'`. Received: data=None"
                )
            if factor is not None or synapses != "incoming":
                raise ValueError(
                    "`factor` and `synapses` belong to `metric='weights'`; "
                    f"'reconstruction' takes `tolerance`. Received: {factor=}"
                    f", {synapses=}"
                )
            self.degree = _degree(
                "tolerance", tolerance, LEVELS[level].tolerance, 0.0, 1.0
            )
            self.criterion = Reconstruction(
                lasting(data, samples),
                samples,
                batch_size,
                min_units,
                round_to,
                seed,
            )
        else:
            if tolerance is not None:
                raise ValueError(
                    "`tolerance` belongs to `metric='reconstruction'`; "
                    f"'weights' takes `factor`. Received: {tolerance=}"
                )
            self.degree = _degree(
                "factor", factor, LEVELS[level].factor, 1.0, np.inf
            )
            rule = (
                IncomingSimilarity
                if synapses == "incoming"
                else OutgoingSimilarity
            )
            self.criterion = rule(min_units, round_to)

    def degree_at(self, event: int, events: int, progress: float) -> float:
        return self.degree(event / (events - 1) if events > 1 else 0.0)

    def operate(self, degree: float) -> tuple[Report | None, str]:
        analysis = analyse(self.model)
        numbers = [number for number, _ in self.numbered_groups()]
        draft, reasons = self._draft(analysis, numbers, degree)
        before = self.model.count_params()
        if not draft:
            return None, "; ".join(reasons)
        after = parameters_after(analysis, _removal(analysis, draft))
        gain = 1 - after / before
        if gain < self.min_gain:
            return None, (
                f"it would remove {gain:.1%} of the parameters, less than "
                f"min_gain={self.min_gain:.0%}"
            )
        return self._carry_out(analysis, draft), ""

    def _draft(
        self, analysis: Analysis, numbers: list[int], degree: float
    ) -> tuple[dict[int, Candidate], list[str]]:
        """What would go by the model as it is, and why groups lose nothing."""
        measured = self.criterion.measure(analysis, numbers)
        found, reasons = {}, []
        for number in numbers:
            candidate = self.criterion.choose(
                analysis, number, degree, measured
            )
            if candidate.removed.size:
                found[number] = candidate
            else:
                name = analysis.groups[number].name
                reasons.append(f"'{name}': {candidate.reason}")
        return found, reasons

    def _carry_out(
        self, analysis: Analysis, draft: dict[int, Candidate]
    ) -> Report:
        if not self.criterion.one_by_one:
            return shrink(self.model, _removal(analysis, draft))
        reports: list[Report] = []
        for number, candidate in draft.items():
            if reports:  # What groups before it changed, it has to see.
                analysis = analyse(self.model)
                candidate = self.criterion.refit(analysis, number, candidate)
            removal = _removal(analysis, {number: candidate})
            reports.append(shrink(self.model, removal))
        return Report(
            groups=tuple(g for report in reports for g in report.groups),
            parameters_before=reports[0].parameters_before,
            parameters_after=reports[-1].parameters_after,
            notes=tuple(n for report in reports for n in report.notes),
        )


def _removal(analysis: Analysis, candidates: dict[int, Candidate]) -> Removal:
    names = {n: analysis.groups[n].name for n in candidates}
    return Removal(
        {names[n]: each.removed for n, each in candidates.items()},
        {names[n]: each.replacements for n, each in candidates.items()},
    )


def _degree(
    name: str, given: Any, level: float, low: float, high: float
) -> Any:
    """A schedule of the degree: what is given, or the level's constant."""
    if given is None:
        return Constant(level)
    if callable(given):
        return given
    if not isinstance(given, (int, float)) or not low < given < high:
        raise ValueError(
            f"Expected `{name}` to be a number above {low:g} and below "
            f"{high:g}, or a schedule. Received: {name}={given}"
        )
    return Constant(float(given))

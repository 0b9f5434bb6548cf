"""Neuron apoptosis: removes redundant neurons while a model trains."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_apoptosis.callbacks.outcome import Skip
from keras_apoptosis.callbacks.pruning_callback import PruningCallback
from keras_apoptosis.graph import Analysis
from keras_apoptosis.schedules import Constant, Logarithmic, ValueSchedule
from keras_apoptosis.selection.candidate import Candidate, removal_of
from keras_apoptosis.selection.levels import LEVELS
from keras_apoptosis.selection.price import Limit
from keras_apoptosis.selection.ranking import (
    Ranking,
    RankingByReconstruction,
    Refitting,
)
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.selection.similarity import (
    IncomingSimilarity,
    OutgoingSimilarity,
)
from keras_apoptosis.surgery import Removal
from keras_apoptosis.utils.checks import check_choice, check_count, check_that


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class NeuronApoptosis(PruningCallback):
    """Removes redundant neurons and channels while a model trains.

    After Siegel, Daily and Vishnu, "Adaptive neuron apoptosis for
    accelerating deep learning on large scale systems". At a quarter of the
    training, and then at logarithmically spaced times, units that others can
    replace are removed. The rest of the training runs on the smaller model,
    faster.

    Two metrics tell which units are redundant:

    - `"reconstruction"` (ours) keeps the units whose activations, on a
      sample, best explain what the next layers receive, until the
      unexplained part is at most `tolerance` of it, and replaces the others
      by least squares.
    - `"weights"` (the paper's, section V) merges units whose incoming
      weights are nearly parallel: `‖v₂ − α v₁‖ < ‖v₂‖ / factor`. With usual
      initial weights almost nothing merges, since weights of standard
      deviation 0.05 outweigh what training adds; it needs small initial
      weights (a standard deviation of 0.001) and L2 regularization (1e-3).

    Args:
        level: How aggressive: `"very_conservative"`, `"conservative"`,
            `"normal"`, `"aggressive"` or `"very_aggressive"`.
        metric: `"reconstruction"` or `"weights"`.
        data: Training sample for `"reconstruction"`: arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or a
            generator of batches (of which `samples` are kept). Callbacks do
            not see the data of `fit`, so it has to be given; 4,000 samples
            are enough. `"weights"` needs none; with some, the residuals of
            its events are measured, and otherwise estimated from weights
            (`ka.selection.error_bound`).
        factor: Instead of a level, for `"weights"`: float above 1, or a
            schedule such as `ka.schedules.LinearDegree(2.0, 1.5)`.
        tolerance: Instead of a level, for `"reconstruction"`: float between
            0 and 1, or a schedule.
        schedule: When to prune. Defaults to `ka.schedules.Logarithmic()`.
        synapses: `"incoming"`, or `"outgoing"` for sigmoid units (section
            IV-E, proposition 1.2). Only for `"weights"`.
        layers: Limits pruning to some groups or layers; see
            `PruningCallback`.
        exclude: Groups or layers to leave as they are.
        target: Instead of a level or a tolerance, for `"reconstruction"`: one
            of `ka.targets`, or several; see `PruningCallback`.
        limit: A `ka.Limit`, if pruning may cost only so much; see
            `PruningCallback`.
        min_units: Integer of at least 1: how many units every group keeps.
        round_to: Integer of at least 1: the number of kept units is rounded
            up to a multiple of it, such as 8, which hardware may prefer.
        min_gain: Number from 0 to below 1: an event that would remove less
            than this share of the parameters is skipped.
        samples: Integer of at least 1: how many samples of `data` to use.
        batch_size: Integer of at least 1: how many of them to run at once.
        recalibrate: Whether to compute moving statistics anew, from `data`;
            see `PruningCallback`.
        prune_non_trainable: Whether layers with `trainable=False` may lose
            units, too; see `PruningCallback`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes, such as those
            of a residual stream; see `ka.shrink`.
        total_epochs: Epochs of the whole training, if it is spread over
            several calls of `fit`.
        seed: Integer, the seed of the criterion's random projection.
        verbose: 0, 1, 2 or `"auto"`; see `PruningCallback`.

    Attributes:
        history: A list with one `Event` for each event so far. `fit`'s logs
            get `parameters`, `units/<group>`, `neuron_apoptosis_seconds` and
            `neuron_apoptosis_residual`, the largest of the epoch.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
            if the model has no unit that can be pruned.

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
        layers: Any = None,
        exclude: Any = (),
        target: Any = None,
        limit: Limit | None = None,
        min_units: int = 1,
        round_to: int = 1,
        min_gain: float = 0.1,
        samples: int = 4096,
        batch_size: int = 512,
        recalibrate: bool = True,
        prune_non_trainable: bool = False,
        prune_normalized: bool = False,
        total_epochs: int | None = None,
        seed: int = 0,
        verbose: bool | int | str = "auto",
    ):
        super().__init__(
            Logarithmic() if schedule is None else schedule,
            layers=layers,
            exclude=exclude,
            target=target,
            limit=limit,
            min_units=min_units,
            round_to=round_to,
            min_gain=min_gain,
            recalibrate=recalibrate,
            prune_non_trainable=prune_non_trainable,
            prune_normalized=prune_normalized,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        check_choice("level", level, LEVELS)
        check_choice("metric", metric, ("reconstruction", "weights"))
        check_choice("synapses", synapses, ("incoming", "outgoing"))
        check_count("samples", samples)
        check_count("batch_size", batch_size)
        check_count("seed", seed, least=0)
        check_that(
            "schedule",
            schedule,
            self.schedule.sparsity_at(0) is None,
            "one that only says when, since `level`, `tolerance` or `factor` "
            "say how much",
        )
        if target is not None and not (
            metric == "reconstruction" and tolerance is None
        ):
            raise ValueError(
                "A target says how much to prune, and needs units that are "
                "ranked: use `metric='reconstruction'` without a `tolerance`. "
                f"Received: {target=}, {metric=}, {tolerance=}"
            )
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
            self._degree = _degree(
                "tolerance", tolerance, LEVELS[level].tolerance, 0.0, 1.0
            )
        else:
            if tolerance is not None:
                raise ValueError(
                    "`tolerance` belongs to `metric='reconstruction'`; "
                    f"'weights' takes `factor`. Received: {tolerance=}"
                )
            self._degree = _degree(
                "factor", factor, LEVELS[level].factor, 1.0, np.inf
            )
        self.level = level
        self.metric = metric
        self.data = self.keep(data, samples)
        self.factor = factor
        self.tolerance = tolerance
        self.synapses = synapses
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed

    @property
    def criterion(self) -> Any:
        """The rule that chooses the units."""
        if self.metric == "reconstruction":
            return Reconstruction(
                self.data,
                self.samples,
                self.batch_size,
                self.min_units,
                self.round_to,
                self.seed,
            )
        incoming = self.synapses == "incoming"
        rule = IncomingSimilarity if incoming else OutgoingSimilarity
        return rule(
            self.min_units,
            self.round_to,
            self.data,
            self.samples,
            self.batch_size,
        )

    def ranking(self) -> Ranking:
        return RankingByReconstruction(self.criterion)

    def amount_at(self, event: int, progress: float) -> float:
        events = len(self._trigger.times)
        position = event / (events - 1) if events > 1 else 0.0
        return self._degree(progress if not events else position)

    def prune(self, analysis: Analysis, amount: float) -> Removal | Skip:
        criterion = self.criterion
        numbers = [number for number, _ in self.numbered_groups(analysis)]
        measured = criterion.measure(analysis, numbers)
        found: dict[int, Candidate] = {}
        reasons = []
        for number in numbers:
            candidate = criterion.choose(analysis, number, amount, measured)
            if candidate.removed.size:
                found[number] = candidate
            else:
                name = analysis.groups[number].name
                reasons.append(f"'{name}': {candidate.reason}")
        if not found:
            return Skip("; ".join(reasons))
        return removal_of(analysis, found)

    def prune_less(
        self, analysis: Analysis, amount: float, share: float
    ) -> Removal | Skip:
        # The larger the factor of the weights' rule, the less merges.
        less = share if self.metric == "reconstruction" else 1 / share
        return self.prune(analysis, amount * less)

    def refitting(self) -> Refitting | None:
        if self.metric == "weights":
            return None
        return self.ranking().refitting()

    def measures(self, analysis: Analysis) -> dict[str, float]:
        residuals = [0.0]
        for event in self.history[::-1]:
            if event.epoch != self._progress.epoch - 1:
                break
            residuals += event.residuals.values()
        return {"neuron_apoptosis_residual": max(residuals)}


def _degree(
    name: str, given: Any, level: float, low: float, high: float
) -> ValueSchedule:
    """Returns a schedule: the one that is given, or a constant."""
    if given is None:
        return Constant(level)
    if isinstance(given, ValueSchedule):
        return given
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    check_that(
        name,
        given,
        number and low < given < high,
        f"a number above {low:g} and below {high:g}, or a schedule",
    )
    return Constant(float(given))

"""Records what becomes of every unit while a model trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.criteria.unit_saliency import penalties
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits, UnitScores
from keras_apoptosis.statistics.streaming import sample_of
from keras_apoptosis.statistics.unit_weights import (
    incoming_kernels,
    incoming_weights,
    outgoing_kernels,
    per_unit,
)
from keras_apoptosis.utils.checks import check_choice
from keras_apoptosis.utils.tables import table

# What the columns of the thesis' figures 3.1 to 3.7 show.
TITLES = {
    "penalty": "mean replacement penalty",
    "saliency": "mean replacement saliency",
    "output_gradient": "gradient at the unit, L1",
    "weight_gradient": "gradient of incoming weights, L1",
    "incoming": "incoming weights, L1",
    "outgoing": "outgoing weights, L1",
}


@dataclasses.dataclass(frozen=True, eq=False)
class UnitRecord:
    """What units were like at one moment.

    Args:
        step: Steps of the whole training that were done.
        loss: Mean loss on the sample.
        measures: For each measure, by name, and each group shape `(units,)`:
            `saliency` and, where asked for, `penalty` are definitions 3.1.2
            and 3.1.1, summed over the sample; `output_gradient` is the
            absolute gradient of each sample's loss with respect to the unit,
            summed likewise; `weight_gradient` is the L1 norm of the gradient
            of the mean loss by the incoming weights, `incoming` and
            `outgoing` are those of the weights.
        histograms: For each group and unit that was asked for, counts and
            edges as of `np.histogram`, of the unit's values on the sample.
    """

    step: int
    loss: float
    measures: Mapping[str, UnitScores]
    histograms: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]


class UnitMonitor(keras.callbacks.Callback):
    """Records saliencies, norms, gradients and histograms of units.

    After Evci, "Detecting dead weights and units in neural networks", 2018,
    chapter 3. All but the penalty take two passes over the sample, one of
    them with gradients, whatever the number of units.

    Args:
        data: Labelled sample, `(x, y)` or batches of that; 1,000 samples will
            do. Not the data on which the model is judged in the end.
        every: Steps between two records; the first is made before training,
            one more after the last step. `None` for one an epoch.
        at: `"pre"` to look at units before their activation, as the thesis
            does, `"post"` after it.
        groups: Names of the groups to watch; all that may leave by default.
        penalty: Whether to measure the mean replacement penalty as well: a
            pass over the sample for each unit.
        histograms: For groups, by name, indices of units whose values are to
            be counted.
        bins: Bins of the histograms.
        samples: How many samples of `data` to use at most.
        batch_size: How many of them to run at once.

    Attributes:
        records: A list of `UnitRecord`, one for each moment so far.

    Raises:
        ValueError: If an argument is out of range, or, when training begins,
            if the model has no such groups.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].bias.assign([0.0, 0.0, 0.0, -99.0])
    >>> model.compile("adam", "mse")
    >>> monitor = ka.callbacks.UnitMonitor((x, x[:, :1]))
    >>> _ = model.fit(x, x[:, :1], verbose=0, callbacks=[monitor])
    >>> [record.step for record in monitor.records]
    [0, 2]
    >>> print(monitor.report())
     group    units   dead   frozen   dead and frozen
     ─────...
     hidden       4      1        1                 1
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int | None = None,
        at: str = "pre",
        groups: Iterable[str] | None = None,
        penalty: bool = False,
        histograms: Mapping[str, Sequence[int]] | None = None,
        bins: int = 50,
        samples: int = 1000,
        batch_size: int = 500,
    ):
        super().__init__()
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(
                "Expected `every` to be an integer of at least 1, or None. "
                f"Received: {every=}"
            )
        check_choice("at", at, ("pre", "post"))
        self.every = every
        self.at = at
        self.groups = None if groups is None else tuple(groups)
        self.penalty = penalty
        self.histograms = dict(histograms or {})
        self.bins = bins
        self.batch_size = batch_size
        self.records: list[UnitRecord] = []
        self._sample = sample_of(data, samples)
        self._step = 0
        self._units: ReplacedUnits | None = None
        self._derivatives: WeightDerivatives | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._units = None
        self._check(analyse(self.model))
        if not self.records:
            self.record()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        before, self._step = self._step, self._step + batch - self._first + 1
        if self.every and before // self.every < self._step // self.every:
            self.record()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.every is None:
            self.record()

    def on_train_end(self, logs: Any = None) -> None:
        if self.records[-1].step < self._step:
            self.record()
        self._units = self._derivatives = None

    def record(self) -> UnitRecord:
        """Records the units as they are now."""
        model = self.model
        units, derivatives = self._measuring(model)
        data, size = self._sample, self.batch_size
        means = units.means(data, size)
        saliency = dict.fromkeys(units.groups, 0.0)
        gradient = dict.fromkeys(units.groups, 0.0)
        for slopes, sums in units.slopes(data, means, size):
            for name in units.groups:
                saliency[name] = saliency[name] + abs(slopes[name]).sum(0)
                gradient[name] = gradient[name] + abs(sums[name]).sum(0)
        analysis = units.analysis
        gradients = {
            id(weight): gradient
            for weight, gradient in zip(
                derivatives.weights,
                derivatives.gradients(data, size),
                strict=True,
            )
        }
        measures = {
            "saliency": saliency,
            "output_gradient": gradient,
            "weight_gradient": per_unit(
                analysis,
                [
                    (
                        analysis.trace.axes[id(weight)][axis],
                        np.moveaxis(gradients[id(weight)], axis, 0),
                    )
                    for weight, axis, _ in incoming_weights(analysis)
                ],
                np.abs,
            ),
            "incoming": per_unit(analysis, incoming_kernels(analysis), np.abs),
            "outgoing": per_unit(analysis, outgoing_kernels(analysis), np.abs),
        }
        if self.penalty:
            measures["penalty"] = penalties(units, data, means, size)
        record = UnitRecord(
            self._step,
            float(units.losses(data, means, {}, size).mean()),
            {
                name: {group: each[group] for group in units.groups}
                for name, each in measures.items()
            },
            self._histograms(units),
        )
        self.records.append(record)
        return record

    def series(self, measure: str, group: str) -> np.ndarray:
        """A measure over the training.

        Args:
            measure: Name of a measure; see `UnitRecord`.
            group: Name of a group.

        Returns:
            Shape `(records, units)`.

        Raises:
            ValueError: If units left the group meanwhile, so that columns
                would mean others.
        """
        rows = [record.measures[measure][group] for record in self.records]
        if len({row.size for row in rows}) > 1:
            raise ValueError(
                f"Units left group '{group}' while it was watched; see "
                "`records`. Received: records of "
                f"{[row.size for row in rows]} units"
            )
        return np.stack(rows)

    def report(self, tolerance: float = 0.01) -> str:
        """Counts dead and frozen units in the last record, as a table.

        A unit is dead if its penalty (where it was measured, else its
        saliency) is next to nothing, and frozen if its gradient is
        (definitions 3.2.2 and 3.2.1, which set no threshold).

        Args:
            tolerance: Number of at least 0: next to nothing is at most this
                share of the mean over the group.

        Returns:
            The table.
        """
        measures = self.records[-1].measures
        rows = []
        for name, gradient in measures["output_gradient"].items():
            judged = measures.get("penalty", measures["saliency"])[name]
            dead = judged <= tolerance * judged.mean()
            frozen = gradient <= tolerance * gradient.mean()
            both = int((dead & frozen).sum())
            rows.append(
                (name, dead.size, int(dead.sum()), int(frozen.sum()), both)
            )
        return table(
            ("group", "units", "dead", "frozen", "dead and frozen"), rows
        )

    def _check(self, analysis: Analysis) -> None:
        names = [each.name for each in analysis.groups if each.removable]
        for name in (*(self.groups or ()), *self.histograms):
            if name not in names:
                raise ValueError(
                    f"Expected names of groups that may leave: "
                    f"{', '.join(names) or '(none)'}. Received: '{name}'"
                )
        if self.groups is None:
            self.groups = tuple(names)

    def _measuring(
        self, model: keras.Model
    ) -> tuple[ReplacedUnits, WeightDerivatives]:
        """What is compiled for the model, anew once units left."""
        sizes = [weight.shape for weight in model.trainable_variables]
        if self._units is None or sizes != self._sizes:
            self._sizes = sizes
            analysis = analyse(model)
            self._units = ReplacedUnits(analysis, self.at, groups=self.groups)
            self._derivatives = WeightDerivatives(model)
        return self._units, self._derivatives

    def _histograms(self, units: ReplacedUnits) -> dict:
        found: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
        points = [p for p in units.points if p.group in self.histograms]
        if not points:
            return found
        wanted = set().union(*(point.tensors for point in points))
        tensors = units.analysis.graph.run(self._sample[0], wanted)
        for point in points:
            values = np.concatenate(
                [ops.convert_to_numpy(each) for each in point.values(tensors)]
            )
            found[point.group] = {
                unit: np.histogram(values[:, unit], self.bins)
                for unit in self.histograms[point.group]
            }
        return found

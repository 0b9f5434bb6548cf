"""Records what becomes of every unit while a model trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.criteria.unit_saliency import penalties
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.named_groups import named_groups
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits, UnitScores
from keras_apoptosis.statistics.streaming import sample_of
from keras_apoptosis.statistics.unit_weights import (
    incoming_kernels,
    incoming_weights,
    outgoing_kernels,
    per_unit,
)
from keras_apoptosis.utils.checks import check_choice, check_count, check_size
from keras_apoptosis.utils.names import check_names
from keras_apoptosis.utils.tables import table


@dataclasses.dataclass(frozen=True, eq=False)
class UnitRecord:
    """Measures of units at one moment of the training.

    Args:
        step: Steps of the whole training that were done.
        loss: Mean loss on the sample.
        measures: For each measure, by name, and each group shape `(units,)`:
            `saliency` and, on request, `penalty` are definitions 3.1.2
            and 3.1.1, summed over the sample; `output_gradient` is the
            absolute gradient of each sample's loss with respect to the unit,
            summed likewise; `weight_gradient` is the L1 norm of the gradient
            of the mean loss by the incoming weights, `incoming` and
            `outgoing` are those of the weights.
        histograms: For each requested group and unit, counts and edges as
            `np.histogram` returns them, of the unit's values on the sample.
    """

    step: int
    loss: float
    measures: Mapping[str, UnitScores]
    histograms: Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]


class UnitMonitor(keras.callbacks.Callback):
    """Records saliencies, norms, gradients and histograms of units.

    After Evci, "Detecting dead weights and units in neural networks", 2018,
    chapter 3. All measures but the penalty take two passes over the sample,
    one of them with gradients, for any number of units.

    Args:
        data: A labelled sample, `(x, y)` or batches of that; 1,000 samples
            are enough. Do not use the test data.
        every: Steps between two records. One more record is made before the
            training, and one after the last step. `None` for one per epoch.
        at: `"pre"` to measure units before their activation, as the thesis
            does, `"post"` to measure them after it.
        layers: Names of groups or layers, layers, patterns such as `"conv*"`,
            or a list of those: what to record. All prunable groups by default.
        exclude: Likewise, what to leave out.
        penalty: Whether to measure the mean replacement penalty as well: a
            pass over the sample for each unit.
        histograms: For groups, by name, indices of units whose values are
            counted.
        bins: Integer > 0. Number of bins of the histograms.
        samples: Integer > 0, the maximum number of samples of `data`.
        batch_size: Integer > 0. How many samples to run at once.

    Attributes:
        records: A list of `UnitRecord`, one for each moment so far.

    Raises:
        ValueError: If an argument is out of range, or, when training begins,
            if a name is unknown or not that of a prunable group.

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
     group    units   dead   without gradient   both
     ─────...
     hidden       4      1                  1      1
    """

    def __init__(
        self,
        data: Any,
        *,
        every: int | None = None,
        at: str = "pre",
        layers: Any = None,
        exclude: Any = (),
        penalty: bool = False,
        histograms: Mapping[str, Sequence[int]] | None = None,
        bins: int = 50,
        samples: int = 4096,
        batch_size: int = 512,
    ):
        super().__init__()
        if every is not None:
            check_count("every", every)
        check_choice("at", at, ("pre", "post"))
        check_count("bins", bins)
        check_count("samples", samples)
        check_count("batch_size", batch_size)
        self.every = every
        self.at = at
        self.layers = check_names("layers", layers)
        self.exclude = check_names("exclude", exclude) or ()
        self.penalty = penalty
        self.histograms = dict(histograms or {})
        self.bins = bins
        self.batch_size = batch_size
        self.records: list[UnitRecord] = []
        self._sample = sample_of(data, samples)
        self._step = self._first = 0
        self._compiled: tuple[ReplacedUnits, WeightDerivatives] | None = None
        self._sizes: list[tuple[int, ...]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._compiled = None
        names = self._names(analyse(self.model))
        for name in self.histograms:
            if name not in names:
                raise ValueError(
                    "Expected histograms of recorded groups: "
                    f"{', '.join(names)}. Received: '{name}'"
                )
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
        self._compiled = None

    def record(self) -> UnitRecord:
        """Records the units as they are now."""
        units, derivatives = self._prepared()
        data, size = self._sample, self.batch_size
        means = units.means(data, size)
        saliency: dict[str, Any] = dict.fromkeys(units.groups, 0.0)
        gradient: dict[str, Any] = dict.fromkeys(units.groups, 0.0)
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
        measures: dict[str, UnitScores] = {
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
        """Returns a measure over the training.

        Args:
            measure: Name of a measure; see `UnitRecord`.
            group: Name of a group.

        Returns:
            Shape `(records, units)`.

        Raises:
            ValueError: If units of the group were removed meanwhile: columns
                would be different units.
        """
        rows = [record.measures[measure][group] for record in self.records]
        if len({row.size for row in rows}) > 1:
            raise ValueError(
                f"Units of group '{group}' were removed between records, so "
                "there is no common array; see `records`. Received: records of "
                f"{[row.size for row in rows]} units"
            )
        return np.stack(rows)

    def report(self, threshold: float = 0.01) -> str:
        """Counts the dead units in the last record, and those without gradient.

        A unit is dead if its penalty (its saliency, where the penalty was not
        measured) is negligible, and without gradient ("frozen" in the thesis)
        if its gradient is (definitions 3.2.2 and 3.2.1, which set no
        threshold).

        Args:
            threshold: Number of at least 0: negligible is at most this share
                of the mean over the group.

        Returns:
            The table.
        """
        check_size("threshold", threshold)
        measures = self.records[-1].measures
        rows = []
        for name, gradient in measures["output_gradient"].items():
            judged = measures.get("penalty", measures["saliency"])[name]
            dead = judged <= threshold * judged.mean()
            still = gradient <= threshold * gradient.mean()
            counts = (int(each.sum()) for each in (dead, still, dead & still))
            rows.append((name, dead.size, *counts))
        return table(
            ("group", "units", "dead", "without gradient", "both"), rows
        )

    def _names(self, analysis: Analysis) -> list[str]:
        found = named_groups(analysis, self.layers, self.exclude)
        return [group.name for _, group in found]

    def _prepared(self) -> tuple[ReplacedUnits, WeightDerivatives]:
        """Returns what is compiled for the model, as long as it keeps units."""
        model = self.model
        sizes = [tuple(each.shape) for each in model.trainable_variables]
        if self._compiled is None or sizes != self._sizes:
            analysis = analyse(model)
            names = self._names(analysis)
            units = ReplacedUnits(analysis, self.at, groups=names)
            self._compiled = units, WeightDerivatives(model)
            self._sizes = sizes
        return self._compiled

    def _histograms(
        self, units: ReplacedUnits
    ) -> dict[str, dict[int, tuple[np.ndarray, np.ndarray]]]:
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

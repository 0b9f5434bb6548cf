"""Units that are inactive on a sample: those that demon pruning removes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.saturation import Gate, silent_groups
from keras_apoptosis.statistics.probe import Point, post_points
from keras_apoptosis.statistics.streaming import batches
from keras_apoptosis.surgery import Removal, Replacement
from keras_apoptosis.utils.checks import check_size


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """What units of some groups did at most.

    Args:
        peaks: For each group, by its index, how far each unit went at most
            from rest, at any of its gates: shape `(units,)`. Behind a leaky
            activation only positive values count.
        means: For each group and each of its observation points, by name, the
            mean of each unit there: what stands in for it once it is gone.
    """

    peaks: Mapping[int, np.ndarray]
    means: Mapping[int, Mapping[str, np.ndarray]]

    def dead(self, tolerance: float) -> dict[int, np.ndarray]:
        """For each group, by its index, which units are inactive."""
        return {n: peaks <= tolerance for n, peaks in self.peaks.items()}


def inactive_units(
    model: keras.Model,
    data: Any,
    tolerance: float = 0.01,
    *,
    constant: bool = True,
    samples: int = 512,
    batch_size: int = 256,
) -> Removal:
    """Finds the units that are inactive on data, to shrink a model by them.

    A unit is inactive if what its activation returns is at most `tolerance`
    in absolute value for every sample and position (Demon pruning, section 2,
    footnote 1). Of a leaky activation it is enough that it is never positive
    beyond that (appendix F.7). What replaces the unit is its mean where its
    consumers read it, after normalizations and poolings.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        data: Training samples: arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a `DataLoader` or a generator of batches.
        tolerance: Number, at least 0: the paper's ε.
        constant: Whether a unit that stays within `tolerance` of some
            constant is inactive as well, as one behind a normalization whose
            scale is gone; the paper counts zero only.
        samples: How many samples of `data` to use at most; the paper uses 512
            of CIFAR-10 and 2,048 of ImageNet (appendix F.3).
        batch_size: How many of them to run at once.

    Returns:
        The removal, for `ka.shrink` or `ka.rebuild`. Of a group of which
        nothing would be left, the most active unit stays.

    Raises:
        ValueError: If the tolerance is out of range, or the model or the data
            is no use.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, activation="gelu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].bias.assign([1.0, -9.0, 1.0])
    >>> data = np.random.default_rng(0).uniform(size=(20, 2))
    >>> ka.selection.inactive_units(model, data)["hidden"].tolist()
    [1]
    """
    check_size("tolerance", tolerance)
    analysis = analyse(model)
    gates = silent_groups(analysis)
    activity = measure(analysis, gates, data, samples, batch_size, constant)
    return removal_of(
        analysis, activity, spared(activity, activity.dead(tolerance))
    )


def measure(
    analysis: Analysis,
    gates: Mapping[int, Sequence[Gate]],
    data: Any,
    samples: int = 512,
    batch_size: int = 256,
    constant: bool = True,
) -> Activity:
    """Measures units on a sample, in one pass.

    Args:
        analysis: The model's units.
        gates: The groups to measure, by index, with their gates.
        data: The data; see `ka.unit_statistics`.
        samples: How many samples to use at most.
        batch_size: How many of them to run at once.
        constant: Whether to measure units from the constant that they are
            nearest to, where that is nearer than zero.

    Returns:
        What the units did.

    Raises:
        ValueError: If units are not finite.
    """
    points: list[Point] = []
    same: dict[tuple[int, str], str] = {}
    for number, each in gates.items():
        points += [_point(analysis, number, gate) for gate in each]
        plain = {gate.source for gate in each if gate.side == "zero"}
        seen = [o for o in analysis.groups[number].observations if o.measurable]
        for point, observation in zip(
            post_points(analysis, number), seen, strict=True
        ):
            # Mostly the point is the gate: then one measurement is enough.
            if len(observation.sources) == 1 and plain >= {
                *observation.sources
            }:
                name = _name(observation.sources[0])
                same[number, observation.name] = name
            else:
                points.append(point)
    extents: dict[tuple[str, str], _Extent] = {}
    wanted = {key for point in points for key in point.tensors}
    for batch in batches(data, batch_size=batch_size, limit=samples):
        tensors = analysis.graph.run(batch, wanted)
        for point in points:
            extent = extents.setdefault((point.group, point.name), _Extent())
            for values in point.values(tensors):
                extent.update(values)
    for extent in extents.values():
        extent.pool()
    peaks, means = {}, {}
    for number, each in gates.items():
        group = analysis.groups[number]
        found = [extents[group.name, _name(gate.source)] for gate in each]
        peaks[number] = np.max([e.reach(constant) for e in found], 0)
        means[number] = {
            o.name: extents[group.name, same.get((number, o.name), o.name)].mean
            for o in group.observations
            if o.measurable
        }
    return Activity(peaks, means)


def recorded(
    analysis: Analysis, gates: Mapping[int, Sequence[Gate]]
) -> Activity:
    """What the layers' own statistics say, without another pass.

    Args:
        analysis: The model's units.
        gates: The groups to look at, by index, with their gates.

    Returns:
        What the units did since the statistics were last reset.

    Raises:
        ValueError: If a layer keeps none, or they do not tell.
    """
    peaks, means = {}, {}
    for number, each in gates.items():
        group = analysis.groups[number]
        rows = []
        for gate in each:
            layer = gate.step.operation
            if getattr(layer, "statistics_max_abs", None) is None:
                raise ValueError(
                    f"Layer '{gate.step.path}' keeps no statistics, so "
                    "whether its units are inactive takes training samples. "
                    "Pass some, as `data=x_train[:512]`, or convert the model "
                    "by `ka.make_prunable(model, track_statistics=True)`. "
                    f"Received: data=None and {type(layer).__name__} "
                    f"'{gate.step.path}'"
                )
            if gate.side == "negative":
                raise ValueError(
                    f"The statistics of layer '{gate.step.path}' do not tell "
                    "whether its leaky units are ever positive. Pass training "
                    "samples, as `data=x_train[:512]`. Received: data=None"
                )
            peak = ops.convert_to_numpy(layer.statistics_max_abs.value)
            # Over the data of all workers: each counts what it sees.
            peak = collectives.all_reduce_max(peak, f"statistics.{peak.size}")
            rows.append(peak[gate.places].max(0))
        ends = {gate.source for gate in each}
        away = [o.name for o in group.observations if not ends >= {*o.sources}]
        if away:
            raise ValueError(
                f"Units of group '{group.name}' are read at '{away[0]}', of "
                "which no layer keeps statistics: what a dead unit is there "
                "takes training samples. Pass some, as `data=x_train[:512]`, "
                "or leave the group out by `exclude`. Received: data=None"
            )
        peaks[number] = np.max(rows, 0)
        zeros = np.zeros(group.size)
        means[number] = {o.name: zeros for o in group.observations}
    return Activity(peaks, means)


def spared(
    activity: Activity, dead: Mapping[int, np.ndarray], min_units: int = 1
) -> dict[int, np.ndarray]:
    """The dead units that may leave, so that no group goes empty.

    Args:
        activity: What the units did.
        dead: For each group, by its index, which units are dead.
        min_units: How many units every group keeps: the most active.

    Returns:
        For each group, by its index, the indices of those that may leave,
        the least active first.
    """
    found = {}
    for number, which in dead.items():
        units = np.flatnonzero(which)
        order = np.argsort(activity.peaks[number][units], kind="stable")
        room = max(0, which.size - min_units)
        found[number] = units[order][:room]
    return found


def removal_of(
    analysis: Analysis,
    activity: Activity,
    going: Mapping[int, Iterable[int]],
) -> Removal:
    """A removal of units, with the constants that stand in for them.

    Args:
        analysis: The model's units.
        activity: What the units did.
        going: For each group, by its index, the units that leave.

    Returns:
        The removal.
    """
    removed, replacements = {}, {}
    for number, units in going.items():
        units = np.sort(np.asarray(units, int))
        if units.size:
            group = analysis.groups[number]
            removed[group.name] = units
            replacements[group.name] = {
                point.name: Replacement(
                    constant=activity.means[number][point.name][units]
                )
                for point in group.observations
                if point.shifts and point.name in activity.means[number]
            }
    return Removal(removed, replacements)


class _Extent:
    """How far units reach over observations, and their means."""

    def __init__(self):
        self.count = 0
        self.low = self.high = self.total = np.zeros(())

    def update(self, values: Any) -> None:
        """Takes in values of shape `(observations, units)`."""
        values = ops.cast(values, "float32")
        low, high, total = (
            ops.convert_to_numpy(reduce(values, axis=0)).astype("float64")
            for reduce in (ops.min, ops.max, ops.sum)
        )
        if not np.isfinite(total).all():
            raise ValueError(
                "Expected finite activations. Received: NaN or infinite sums "
                f"in {int((~np.isfinite(total)).sum())} units"
            )
        first = not self.count
        self.low = low if first else np.minimum(self.low, low)
        self.high = high if first else np.maximum(self.high, high)
        self.total = self.total + total
        self.count += values.shape[0]

    def pool(self) -> None:
        """Takes in what all other workers have seen, on each of them."""
        self.low = -collectives.all_reduce_max(-self.low, "low")
        self.high = collectives.all_reduce_max(self.high, "high")
        self.total = collectives.all_reduce_sum(self.total, "total")
        self.count = int(
            collectives.all_reduce_sum(np.array(self.count), "count")
        )

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    def reach(self, constant: bool) -> np.ndarray:
        """The largest distance from zero, or from the nearest constant."""
        from_zero = np.maximum(np.abs(self.low), np.abs(self.high))
        around = (self.high - self.low) / 2
        return np.minimum(from_zero, around) if constant else from_zero


def _name(source: int) -> str:
    return f"gate {source}"


def _point(analysis: Analysis, number: int, gate: Gate) -> Point:
    source = analysis.trace.sources[gate.source]
    compute = ops.relu if gate.side == "negative" else None
    part = (source.tensor, source.units.axis, gate.places, compute)
    name = analysis.groups[number].name
    return Point(name, _name(gate.source), [part])

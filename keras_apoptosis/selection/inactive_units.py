"""Finds units that are inactive on a sample: demon pruning removes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.graph.saturation import Gate, silent_groups
from keras_apoptosis.selection.limits import lowest_within_limits
from keras_apoptosis.selection.replacements import constant_replacements
from keras_apoptosis.statistics.extent import Extent
from keras_apoptosis.statistics.probe import Point, post_points
from keras_apoptosis.statistics.streaming import batches
from keras_apoptosis.surgery import Removal
from keras_apoptosis.utils.checks import check_size


@dataclasses.dataclass(frozen=True, eq=False)
class Activity:
    """The activity of the units of some groups.

    Args:
        peaks: For each group, by its index, the largest distance of each unit
            from rest, at any of its activations: shape `(units,)`. Behind a
            leaky activation only positive values count.
        means: For each group and each of its observations, by name, the mean
            of each unit there: the constant that replaces it.
    """

    peaks: Mapping[int, np.ndarray]
    means: Mapping[int, Mapping[str, np.ndarray]]

    def dead(self, threshold: float) -> dict[int, np.ndarray]:
        """Returns for each group, by its index, which units are inactive."""
        return {n: peaks <= threshold for n, peaks in self.peaks.items()}


def inactive_units(
    model: keras.Model,
    data: Any,
    threshold: float = 0.01,
    *,
    constant: bool = True,
    samples: int | None = 4096,
    batch_size: int = 512,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> Removal:
    """Finds the units that are inactive on data, as a removal.

    A unit is inactive if its activation is at most `threshold` in absolute
    value for every sample and position (Demon pruning, section 2, footnote
    1). Behind a leaky activation a unit is inactive if its activation is
    never above `threshold` (appendix F.7). Removed units are replaced by
    their means at the inputs of their consumers, after normalizations and
    poolings.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        data: Training samples: arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a `DataLoader` or a generator of batches.
        threshold: Number, at least 0: ε in the paper.
        constant: Whether a unit that stays within `threshold` of some
            constant is inactive as well, as one behind a normalization with a
            scale of zero; the paper counts zero only.
        samples: Integer > 0, the maximum number of samples; `None` for all.
            The paper uses 512 of CIFAR-10 and 2,048 of ImageNet (appendix
            F.3).
        batch_size: Integer > 0. How many samples of an array to run at once.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`; say so to
            `ka.shrink` as well.
        prune_normalized: Likewise for units over which a LayerNormalization
            or GroupNormalization normalizes; see `ka.shrink`.

    Returns:
        The removal, for `ka.shrink` or `ka.rebuild`. At least one unit of
        each group is kept: the most active one.

    Raises:
        ValueError: If an argument is out of range, or the model or the data
            cannot be used.

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
    check_size("threshold", threshold)
    analysis = analyse(model, Allowed(prune_non_trainable, prune_normalized))
    gates = silent_groups(analysis)
    activity = measure(analysis, gates, data, samples, batch_size, constant)
    return removal_of(
        analysis, activity, spared(activity, activity.dead(threshold))
    )


def measure(
    analysis: Analysis,
    gates: Mapping[int, Sequence[Gate]],
    data: Any,
    samples: int | None = 4096,
    batch_size: int = 512,
    constant: bool = True,
) -> Activity:
    """Measures the activity of units on a sample, in one pass.

    Args:
        analysis: The model's units.
        gates: The groups to measure, by index, with the activations that
            their units pass.
        data: See `inactive_units`.
        samples: See `inactive_units`.
        batch_size: See `inactive_units`.
        constant: See `inactive_units`.

    Returns:
        The activity of the units.

    Raises:
        ValueError: If activations are not finite.
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
    extents: dict[tuple[str, str], Extent] = {}
    wanted = {key for point in points for key in point.tensors}
    for batch in batches(data, batch_size=batch_size, samples=samples):
        tensors = analysis.graph.run(batch, wanted)
        for point in points:
            extent = extents.setdefault((point.group, point.name), Extent())
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
    """Reads the activity of units from the statistics that layers keep.

    Args:
        analysis: The model's units.
        gates: See `measure`.

    Returns:
        The activity of the units since the statistics were last reset.

    Raises:
        ValueError: If a layer keeps no statistics, or if its statistics
            cannot decide whether a unit is inactive.
    """
    peaks, means = {}, {}
    for number, each in gates.items():
        group = analysis.groups[number]
        rows = []
        for gate in each:
            layer = None if gate.step is None else gate.step.operation
            path = analysis.trace.sources[gate.source].path
            largest = getattr(layer, "statistics_max_abs", None)
            if largest is None:
                raise ValueError(
                    f"Layer '{path}' keeps no statistics, so "
                    "training samples are needed to find its inactive units. "
                    "Pass some, as `data=x_train[:512]`, or convert the model "
                    "by `ka.make_prunable(model, track_statistics=True)`. "
                    f"Received: data=None and {_kind(layer)} '{path}'"
                )
            if gate.side == "negative":
                raise ValueError(
                    f"The statistics of layer '{path}' do not show "
                    "whether units behind its leaky activation are ever "
                    "positive. Pass training samples, as "
                    "`data=x_train[:512]`. Received: data=None"
                )
            peak = collectives.all_reduce_state(largest, largest=True)
            rows.append(peak[gate.places].max(0))
        ends = {gate.source for gate in each}
        away = [o.name for o in group.observations if not ends >= {*o.sources}]
        if away:
            raise ValueError(
                f"Consumers read units of group '{group.name}' at "
                f"'{away[0]}', and no layer keeps statistics there, so "
                "training samples are needed to replace dead units. Pass "
                "some, as `data=x_train[:512]`, or leave the group out by "
                "`exclude`. Received: data=None"
            )
        peaks[number] = np.max(rows, 0)
        zeros = np.zeros(group.size)
        means[number] = {o.name: zeros for o in group.observations}
    return Activity(peaks, means)


def _kind(layer: Any) -> str:
    return "a function inside" if layer is None else type(layer).__name__


def spared(
    activity: Activity,
    dead: Mapping[int, np.ndarray],
    min_units: int = 1,
    round_to: int = 1,
) -> dict[int, np.ndarray]:
    """Returns the dead units that may be removed: enough units remain.

    Args:
        activity: The activity of the units.
        dead: For each group, by its index, which units are dead.
        min_units: How many units to keep in every group: the most active.
        round_to: The number of kept units is a multiple of it.

    Returns:
        For each group, by its index, the indices of the units that may be
        removed, the least active first.
    """
    found = {}
    for number, which in dead.items():
        units = np.flatnonzero(which)
        order = lowest_within_limits(
            activity.peaks[number][units], which.size, min_units, round_to
        )
        found[number] = units[order]
    return found


def removal_of(
    analysis: Analysis,
    activity: Activity,
    chosen: Mapping[int, Iterable[int]],
) -> Removal:
    """Composes the removal of units, replaced by their means.

    Args:
        analysis: The model's units.
        activity: The activity of the units.
        chosen: For each group, by its index, the units to remove.

    Returns:
        The removal.
    """
    groups = analysis.groups
    removed = {
        groups[number].name: np.sort(np.asarray(units, int))
        for number, units in chosen.items()
    }
    removed = {name: units for name, units in removed.items() if units.size}
    means = {groups[n].name: points for n, points in activity.means.items()}
    return Removal(removed, constant_replacements(groups, removed, means))


def _name(source: int) -> str:
    return f"gate {source}"


def _point(analysis: Analysis, number: int, gate: Gate) -> Point:
    source = analysis.trace.sources[gate.source]
    compute = ops.relu if gate.side == "negative" else None
    part = (source.tensor, source.units.axis, gate.places, compute)
    name = analysis.groups[number].name
    return Point(name, _name(gate.source), [part])

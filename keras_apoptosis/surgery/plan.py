"""Works out a removal in numbers, before anything changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_apoptosis.graph import Analysis, Observation, Step
from keras_apoptosis.graph.trace import Consumer
from keras_apoptosis.surgery.absorption import absorber_of, response_to
from keras_apoptosis.surgery.removal import Removal, Replacement


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The model after a removal, in numbers.

    Args:
        values: New value of each weight that changes, by `id`.
        kept: For each weight that shrinks, by `id`, and each of its axes the
            positions that stay.
        config: For each layer that shrinks, by `id`, the new config entries.
        shapes: New shape of each tensor of the graph that shrinks, by key.
        notes: What could not be done exactly, for people.
    """

    values: dict[int, np.ndarray]
    kept: dict[int, dict[int, np.ndarray]]
    config: dict[int, dict[str, Any]]
    shapes: dict[int, tuple]
    notes: tuple[str, ...]


def check(analysis: Analysis, removal: Removal) -> None:
    """Says what of a removal does not fit a model.

    Raises:
        ValueError: If a group does not exist, is frozen, has fewer units,
            would be left empty, or a replacement does not fit it.
    """
    if not isinstance(removal, Removal):
        raise ValueError(
            f"Expected a `ka.Removal`. Received: removal={removal} "
            f"(of type {type(removal)})"
        )
    groups = {group.name: group for group in analysis.groups}
    for name in removal:
        if name not in groups:
            raise ValueError(
                f"The model has no unit group '{name}'. Its groups: "
                f"{', '.join(groups)}. Received: removal={removal}"
            )
        group, gone = groups[name], removal[name]
        if not group.removable:
            raise ValueError(
                f"Units of group '{name}' cannot leave: {group.reason}. "
                f"Received: removal={removal}"
            )
        if gone[-1] >= group.size:
            raise ValueError(
                f"Group '{name}' has {group.size} units. Received: an index "
                f"of {gone[-1]}"
            )
        if gone.size == group.size:
            raise ValueError(
                f"Group '{name}' would be left without units. Keep at least "
                f"one. Received: {gone.size} removed of {group.size}"
            )
        points = {each.name for each in group.observations}
        for point in removal.points(name):
            if point not in points:
                raise ValueError(
                    f"Group '{name}' is not judged at '{point}' but at: "
                    f"{', '.join(sorted(points))}. Received: '{point}'"
                )
        stays = group.size - gone.size
        for point in points:
            given = removal.replacement(name, point).arrays()
            for key, shape in (
                ("mixing", (gone.size, stays)),
                ("incoming", (stays, group.size)),
            ):
                if key in given and given[key].shape != shape:
                    raise ValueError(
                        f"Expected `{key}` of group '{name}' to have shape "
                        f"{shape}. Received: shape {given[key].shape}"
                    )


def make_plan(analysis: Analysis, removal: Removal) -> Plan:
    """Works out what a removal makes of a model.

    Args:
        analysis: The model's units.
        removal: What goes; must have passed `check`.

    Returns:
        The plan. The model is only read.
    """
    trace = analysis.trace
    draft = _Draft(analysis)
    for number, group in enumerate(analysis.groups):
        if group.name in removal:
            draft.replace(number, removal)
    stays = _staying(analysis, removal)
    kept = _kept(analysis, stays)
    for key, axes in kept.items():
        value = draft.value(trace.variables[key])
        for axis, positions in axes.items():
            value = np.take(value, positions, axis)
        draft.values[key] = value
    config = {
        layer: {
            name: size.value(stays(size.labels)) for name, size in sizes.items()
        }
        for layer, sizes in trace.sizes.items()
        if any(stays(s.labels).size < s.labels.size for s in sizes.values())
    }
    shapes = {}
    for key, units in trace.units.items():
        count = stays(units.labels).size
        if count < units.labels.size:
            shape = list(trace.graph.tensors[key].shape)
            shape[units.axis] = count
            shapes[key] = tuple(shape)
    return Plan(draft.finished(), kept, config, shapes, tuple(draft.notes))


def parameters_after(analysis: Analysis, removal: Removal) -> int:
    """Counts the parameters a model would have after a removal."""
    count = analysis.graph.model.count_params()
    variables = analysis.trace.variables
    for key, axes in _kept(analysis, _staying(analysis, removal)).items():
        shape = list(variables[key].shape)
        count -= math.prod(shape)
        for axis, positions in axes.items():
            shape[axis] = positions.size
        count += math.prod(shape)
    return count


def _staying(
    analysis: Analysis, removal: Removal
) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the positions that stay of an axis with given labels."""
    gone = np.zeros(analysis.group_of.size + 1, bool)  # The last is FIXED.
    for number, group in enumerate(analysis.groups):
        if group.name in removal:
            mine = np.flatnonzero(analysis.group_of == number)
            out = np.isin(analysis.index_of[mine], removal[group.name])
            gone[mine[out]] = True
    return lambda labels: np.flatnonzero(~gone[labels])


def _kept(
    analysis: Analysis, stays: Callable[[np.ndarray], np.ndarray]
) -> dict[int, dict[int, np.ndarray]]:
    """Positions that stay, for each weight and axis that loses some."""
    kept: dict[int, dict[int, np.ndarray]] = {}
    for key, axes in analysis.trace.axes.items():
        for axis, labels in axes.items():
            positions = stays(labels)
            if positions.size < labels.size:
                kept.setdefault(key, {})[axis] = positions
    return kept


class _Draft:
    """Weights as they become, in double precision."""

    def __init__(self, analysis: Analysis):
        self.analysis = analysis
        self.values: dict[int, np.ndarray] = {}
        self.variables: dict[int, Any] = {}
        self.notes: list[str] = []

    def value(self, variable: Any) -> np.ndarray:
        """The value of a weight so far."""
        self.variables[id(variable)] = variable
        if id(variable) not in self.values:
            self.values[id(variable)] = ops.convert_to_numpy(variable.value)
        return self.values[id(variable)]

    def change(self, variable: Any) -> np.ndarray:
        """The value of a weight so far, in double precision, to write in."""
        value = self.value(variable).astype("float64")
        self.values[id(variable)] = value
        return value

    def finished(self) -> dict[int, np.ndarray]:
        return {
            key: value.astype(
                ops.convert_to_numpy(self.variables[key].value).dtype
            )
            for key, value in self.values.items()
        }

    def replace(self, number: int, removal: Removal) -> None:
        """Lets consumers (and producers) absorb what replaces a group."""
        group = self.analysis.groups[number]
        gone = removal[group.name]
        stay = np.setdiff1d(np.arange(group.size), gone)
        for observation in group.observations:
            given = removal.replacement(group.name, observation.name)
            seen: set[int] = set()
            for consumer, places in observation.consumers:
                # Calls that share a weight share the replacement as well.
                if id(consumer.kernel) not in seen:
                    seen.add(id(consumer.kernel))
                    self._absorb(
                        observation, consumer, places, given, gone, stay
                    )
        incoming = given.arrays().get("incoming")
        if incoming is not None:
            self._average_incoming(number, incoming, stay)

    def _absorb(
        self,
        observation: Observation,
        consumer: Consumer,
        places: np.ndarray,
        given: Replacement,
        gone: np.ndarray,
        stay: np.ndarray,
    ) -> None:
        arrays = given.arrays()
        constant = arrays.get("constant", np.zeros(gone.size))
        mixing = arrays.get("mixing")
        if constant.any():
            full = np.zeros(gone.size + stay.size)
            full[gone] = constant
            self._absorb_constant(observation, consumer, places, full)
        if mixing is not None and mixing.any():
            mask = getattr(consumer.step.operation, "kernel_mask", None)
            kernel = self.change(consumer.kernel)
            if mask is not None:
                kernel *= self.value(mask)
            rows = np.moveaxis(kernel, consumer.axis, 0)
            for place in places:  # One entry a position after `Flatten`.
                gain = np.tensordot(mixing.T, rows[place[gone]], 1)
                rows[place[stay]] += gain
            if mask is not None:
                # What a kept unit takes over would be lost behind the mask.
                change = self.change(mask)
                np.maximum(change, kernel != 0, out=change)

    def _absorb_constant(
        self,
        observation: Observation,
        consumer: Consumer,
        places: np.ndarray,
        constants: np.ndarray,
    ) -> None:
        kernel = self.value(consumer.kernel).astype("float64")
        mask = getattr(consumer.step.operation, "kernel_mask", None)
        if mask is not None:
            kernel = kernel * self.value(mask)
        shift, uneven = response_to(
            constants, self.analysis, observation, consumer, places, kernel
        )
        name = consumer.step.path
        if uneven:
            self.notes.append(
                f"'{name}' sees the replaced constant unevenly at its "
                f"borders: it is exact on average, off by {uneven:.3g} RMS"
            )
        absorber = absorber_of(self.analysis.graph, consumer.step)
        if absorber is None:
            self.notes.append(
                f"'{name}' has no bias that could take the constant part of "
                f"the replacement: dropped, {np.sqrt(np.mean(shift**2)):.3g} "
                "RMS of its output"
            )
        for variable, sign in absorber or ():
            self.change(variable)[...] += sign * shift

    def _average_incoming(
        self, number: int, incoming: np.ndarray, stay: np.ndarray
    ) -> None:
        analysis = self.analysis
        for step in _producers(analysis, number):
            for variable in step.operation.trainable_weights:
                for axis, labels in analysis.trace.axes.get(
                    id(variable), {}
                ).items():
                    if analysis.member(labels, number).any():
                        rows = np.moveaxis(self.change(variable), axis, 0)
                        place = analysis.positions(labels, number)[0]
                        rows[place[stay]] = np.tensordot(
                            incoming, rows[place], 1
                        )


def _producers(analysis: Analysis, number: int) -> list[Step]:
    return [
        block.step
        for block in analysis.trace.blocks
        if analysis.group_of[block.start] == number
    ]

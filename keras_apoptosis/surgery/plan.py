"""Works out a removal in numbers, before anything changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_apoptosis.graph import Analysis
from keras_apoptosis.surgery.draft import Draft
from keras_apoptosis.surgery.removal import Removal


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The model after a removal, in numbers.

    Args:
        values: New value of each weight that changes, by `id`.
        kept: For each weight that shrinks, by `id`, and each of its axes the
            positions that stay.
        config: For each layer that shrinks, by `id`, the new config entries,
            by their path in its config.
        shapes: New shape of each tensor of the graph that shrinks, by key.
        notes: What could not be done exactly, for people.
    """

    values: dict[int, np.ndarray]
    kept: dict[int, dict[int, np.ndarray]]
    config: dict[int, dict[tuple, Any]]
    shapes: dict[int, tuple]
    notes: tuple[str, ...]


def make_plan(analysis: Analysis, removal: Removal) -> Plan:
    """Works out what a removal makes of a model.

    Args:
        analysis: The model's units.
        removal: What goes; must have passed `check`.

    Returns:
        The plan. The model is only read.
    """
    trace = analysis.trace
    draft = Draft(analysis)
    for number, group in enumerate(analysis.groups):
        if group.name in removal:
            draft.replace(number, removal)
    stays = _staying(analysis, removal)
    kept = _kept(analysis, stays)
    for scale in trace.scales.values():
        part = stays(scale.labels).size / scale.labels.size
        if part < 1:
            draft.change(scale.variable)[...] *= part**scale.power
    for key, axes in kept.items():
        draft.cut(trace.variables[key], axes)
    shapes = {}
    for key, axes in trace.units.items():
        shape = list(trace.graph.tensors[key].shape)
        for axis, units in axes.items():
            shape[axis] = stays(units.labels).size
        if tuple(shape) != tuple(trace.graph.tensors[key].shape):
            shapes[key] = tuple(shape)
    reached = {
        id(step.operation)
        for step in trace.graph.steps
        if not shapes.keys().isdisjoint(step.inputs)
    }
    config = {
        layer: {
            name: size.value(stays(size.labels)) for name, size in sizes.items()
        }
        for layer, sizes in trace.sizes.items()
        if layer in reached
        or any(stays(s.labels).size < s.labels.size for s in sizes.values())
    }
    notes = [*draft.notes, *_readings(analysis, removal)]
    return Plan(draft.finished(), kept, config, shapes, tuple(notes))


def work_after(analysis: Analysis, removal: Removal) -> float:
    """Counts the multiplications of a forward pass after a removal."""
    stays = _staying(analysis, removal)
    return sum(
        each.factor * math.prod(stays(labels).size for labels in each.axes)
        for each in analysis.trace.work
    )


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


def _readings(analysis: Analysis, removal: Removal) -> list[str]:
    """What is read as a mean, though the removal means zero."""
    found = {}
    for number, group in enumerate(analysis.groups):
        if group.name in removal:
            for each in analysis.trace.consumers:
                if (
                    each.mean
                    and analysis.member(each.units.labels, number).any()
                ):
                    found[
                        f"'{each.path}' takes the units that left '"
                        f"{group.name}' as the mean of those that stay"
                    ] = None
    return list(found)


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

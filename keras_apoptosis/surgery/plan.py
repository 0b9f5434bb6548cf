"""Works out a removal in numbers, before anything changes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import parameters_of
from keras_apoptosis.backend.arguments import ARGUMENTS
from keras_apoptosis.graph import Analysis
from keras_apoptosis.surgery.draft import Change, Draft
from keras_apoptosis.surgery.removal import Removal


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The model after a removal, in numbers.

    Args:
        changes: The variables that change, with their new values: weights,
            and copies that optimizers keep of them.
        kept: For each weight that shrinks, by `id`, and each of its axes the
            positions that stay.
        config: For each layer that shrinks, by `id`, the new config entries,
            by their path in its config.
        arguments: For each function that is told other places, by `id`, the
            new arguments of its call, by their path in them.
        shapes: New shape of each tensor of the graph that shrinks, by key.
        notes: What could not be done exactly, for people.
    """

    changes: tuple[Change, ...]
    kept: dict[int, dict[int, np.ndarray]]
    config: dict[int, dict[tuple, Any]]
    arguments: dict[int, dict[tuple, Any]]
    shapes: dict[int, tuple]
    notes: tuple[str, ...]

    @functools.cached_property
    def values(self) -> dict[int, np.ndarray]:
        """New value of each weight that changes, by `id`, without copies."""
        return {
            each.key: each.typed()
            for each in self.changes
            if each.key == id(each.variable)
        }

    def shapes_of(self, layer: keras.Layer) -> list[tuple]:
        """Returns the shapes that the weights of a layer are to have."""
        return [
            self.values[id(v)].shape if id(v) in self.values else tuple(v.shape)
            for v in layer.variables
        ]


def make_plan(
    analysis: Analysis,
    removal: Removal,
    copies: Iterable[Mapping[int, keras.Variable]] = (),
) -> Plan:
    """Computes what a removal makes of a model.

    Args:
        analysis: The model's units.
        removal: The removal; must have passed `check`.
        copies: Sets of copies of weights to change alike, by `id` of the
            weight.

    Returns:
        The plan. The model is only read.
    """
    trace = analysis.trace
    stays = _staying(analysis, removal)
    kept = _kept(analysis, stays)
    drafts = [Draft(analysis), *(Draft(analysis, each) for each in copies)]
    for draft in drafts:
        for number, group in enumerate(analysis.groups):
            if group.name in removal:
                draft.replace(number, removal)
        for scale in trace.scales.values():
            part = stays(scale.labels).size / scale.labels.size
            if part < 1:
                draft.change(scale.variable)[...] *= part**scale.power
        for key, axes in kept.items():
            if not draft.copies or key in draft.copies:
                draft.cut(trace.variables[key], axes)
    shapes = {}
    for key, groups in trace.units.items():
        shape = list(trace.graph.tensors[key].shape)
        for axis, units in groups.items():
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
    arguments = {
        key: {path[1:]: new[path] for path in [*new] if path[0] == ARGUMENTS}
        for key, new in config.items()
    }
    config = {
        key: {
            path: value for path, value in new.items() if path[0] != ARGUMENTS
        }
        for key, new in config.items()
    }
    weights, *others = drafts
    notes = [*weights.notes, *_readings(analysis, removal)]
    for each in others:
        notes.extend(_differences(weights.shifts, each.shifts))
    changes = tuple(change for draft in drafts for change in draft.finished())
    _check_finite(changes)
    return Plan(changes, kept, config, arguments, shapes, tuple(notes))


def _check_finite(changes: Iterable[Change]) -> None:
    """Checks that no weight overflows the type of its variable."""
    for each in changes:
        with np.errstate(over="ignore"):
            finite = np.isfinite(each.typed()).all()
        # What training has spoiled before is not the replacement's fault.
        if not finite and np.isfinite(backend.peek(each.variable)).all():
            raise ValueError(
                "Expected a replacement with which all weights can be held in "
                f"their type. Received: one that makes {each.variable.path} "
                f"as large as {np.abs(each.value).max():.3g}, beyond "
                f"{each.variable.dtype}"
            )


def work_after(
    analysis: Analysis,
    removal: Removal | None = None,
    input_shape: Any = None,
) -> float:
    """Counts the multiplications of a forward pass, or those after a removal.

    Where the model's inputs leave lengths open and `input_shape` gives none,
    it counts those for each position of the input. They are `nan` where they
    cannot be counted.
    """
    stays = _staying(analysis, removal or Removal({}))
    return sum(
        each.factor * math.prod(stays(labels).size for labels in each.axes)
        for each in analysis.work(input_shape)
    )


def parameters_after(analysis: Analysis, removal: Removal | None = None) -> int:
    """Counts the parameters of a model, or those after a removal."""
    count = parameters_of(analysis.graph.model)
    variables = analysis.trace.variables
    stays = _staying(analysis, removal or Removal({}))
    for key, axes in _kept(analysis, stays).items():
        shape = list(variables[key].shape)
        count -= math.prod(shape)
        for axis, positions in axes.items():
            shape[axis] = positions.size
        count += math.prod(shape)
    return count


def _differences(
    weights: Mapping[str, np.ndarray], copies: Mapping[str, np.ndarray]
) -> list[str]:
    """Says where copies of weights cannot take a constant by themselves."""
    notes = []
    for name, shift in copies.items():
        error = float(np.sqrt(np.mean((shift - weights[name]) ** 2)))
        if error:
            notes.append(
                f"what takes the constant part of the replacement at '{name}' "
                "serves the weights and their average alike: it is exact for "
                f"the weights, off by {error:.3g} RMS for the average"
            )
    return notes


def _readings(analysis: Analysis, removal: Removal) -> list[str]:
    """Lists what is read as a mean, though the removal means zero."""
    found: dict[str, None] = {}
    readers = [each for each in analysis.trace.consumers if each.mean]
    for number, group in enumerate(analysis.groups):
        if group.name in removal:
            for each in readers:
                if analysis.member(each.units.labels, number).any():
                    found[
                        f"'{each.path}' takes the units that left '"
                        f"{group.name}' as the mean of those that stay"
                    ] = None
    return list(found)


def _staying(
    analysis: Analysis, removal: Removal
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from an axis' labels to the positions that stay."""
    # One flag for each unit, group after group.
    starts = np.cumsum([0, *(group.size for group in analysis.groups)])
    out = np.zeros(starts[-1], bool)
    for start, group in zip(starts, analysis.groups, strict=False):
        if group.name in removal:
            out[start + removal[group.name]] = True
    unit_of = starts[analysis.group_of] + analysis.index_of
    stay = ~np.append(out[unit_of], False)  # The last is FIXED.
    return lambda labels: np.flatnonzero(stay[labels])


def _kept(
    analysis: Analysis, stays: Callable[[np.ndarray], np.ndarray]
) -> dict[int, dict[int, np.ndarray]]:
    """Returns the positions that stay, for each weight and axis that is cut."""
    kept: dict[int, dict[int, np.ndarray]] = {}
    for key, axes in analysis.trace.axes.items():
        for axis, labels in axes.items():
            positions = stays(labels)
            if positions.size < labels.size:
                kept.setdefault(key, {})[axis] = positions
    return kept

"""Regularizers and constraints that take a weight or output whole only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_apoptosis.backend.arguments import is_array
from keras_apoptosis.backend.gradients import no_gradients
from keras_apoptosis.graph.trace import Trace


def hold_whole(trace: Trace) -> None:
    """Keeps units where a user's regularizer or constraint fails with fewer.

    Such as one that makes a matrix of known size of its argument. It is tried
    on one entry less. Those that hold arrays are left out: arrays with an
    entry per unit are cut with the weights.

    Args:
        trace: The trace.
    """
    for part, what, shape, axis, labels in _parts(trace):
        own = type(part).__module__.startswith("keras.")
        if own or any(is_array(value) for value in vars(part).values()):
            continue
        fewer = tuple(
            size - 1 if place == axis else size
            for place, size in enumerate(shape)
        )
        if fewer[axis] and not _takes(part, fewer):
            kind = type(part).__name__
            trace.hold(labels, f"{kind} of '{what}'", "fails with fewer")


def _parts(trace: Trace) -> Iterator[tuple[Any, str, tuple, int, Any]]:
    """Parts, of what, its shape, and its axes of units with their labels."""
    for key, axes in trace.axes.items():
        variable = trace.variables[key]
        for part in (variable.regularizer, variable.constraint):
            for axis, labels in axes.items() if part is not None else ():
                yield part, variable.path, tuple(variable.shape), axis, labels
    for step in trace.graph.steps:
        part = getattr(step.operation, "activity_regularizer", None)
        for key in step.outputs if part is not None else ():
            shape = trace.graph.tensors[key].shape
            for axis, units in trace.units.get(key, {}).items():
                sizes = (1, *(1 if n is None else n for n in shape[1:]))
                yield part, step.path, sizes, axis, units.labels


def _takes(part: Any, shape: tuple[int, ...]) -> bool:
    constrains = isinstance(part, keras.constraints.Constraint)
    try:
        with keras.StatelessScope(), no_gradients():
            made = part(ops.ones(shape))
    except Exception:  # Whatever its code objects to.
        return False
    return not constrains or tuple(made.shape) == shape

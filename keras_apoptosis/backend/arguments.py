"""Changes the arguments that Keras recorded of a function's call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_apoptosis.backend.layers import set_attributes

# Begins the path of a setting that is an argument of a call; on from there
# the path leads through the arguments by position and those by name.
ARGUMENTS = "arguments"


class Along(NamedTuple):
    """End of a path: which positions along an axis of an array stay."""

    axis: int


def is_array(value: Any) -> bool:
    """Returns whether an argument is an array of numbers that can be cut."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and np.asarray(value).dtype.kind in "biuf"
    if isinstance(value, (keras.KerasTensor, keras.Variable)):
        return False
    return isinstance(value, np.ndarray) or ops.is_tensor(value)


def like(value: Any, array: np.ndarray) -> Any:
    """Returns an array as a list, an array or a tensor, as `value` is."""
    if isinstance(value, (list, tuple)):
        return type(value)(array.tolist())
    if isinstance(value, np.ndarray):
        return array.astype(value.dtype)
    return ops.convert_to_tensor(array, value.dtype)


def with_changes(
    arguments: tuple[Any, Any], changes: Mapping[tuple, Any]
) -> tuple[Any, Any]:
    """Returns the arguments of a call, some of them changed.

    Args:
        arguments: Positional and keyword arguments.
        changes: New values, by path, without its beginning.
    """
    found: Any = arguments
    for path, value in changes.items():
        found = _changed(found, path, value)
    return found


def _changed(value: Any, path: Sequence[Any], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(first, Along):
        array = np.asarray(ops.convert_to_numpy(value))
        return like(value, np.take(array, new, first.axis))
    if isinstance(value, Mapping):
        return {**value, first: _changed(value[first], rest, new)}
    if isinstance(value, np.ndarray):
        changed = value.copy()
        changed[first] = new
        return changed
    parts = list(value)
    parts[first] = _changed(parts[first], rest, new)
    return type(value)(parts)


def changed_arguments(
    arguments: Any, changes: Mapping[tuple, Any]
) -> dict[str, Any]:
    """Returns new attributes of what Keras recorded of a call's arguments.

    Args:
        arguments: The arguments that a node of a graph holds.
        changes: New values, by path, without its beginning.
    """
    args, kwargs = with_changes((arguments.args, arguments.kwargs), changes)
    return dict(vars(SymbolicArguments(*args, **kwargs)))


@contextlib.contextmanager
def arguments_set(changes: Iterable[tuple[Any, Mapping]]) -> Iterator[None]:
    """Sets attributes of recorded arguments within a context."""
    before = []
    try:
        for arguments, new in changes:
            before.append((arguments, dict(vars(arguments))))
            set_attributes(arguments, new)
        yield
    finally:
        for arguments, old in reversed(before):
            set_attributes(arguments, old)

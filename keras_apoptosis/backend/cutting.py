"""Keeps only some positions along axes of arrays and variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np

from keras_apoptosis.backend.variables import (
    held_value,
    invalidate,
    peek,
    resize_variable,
    revive,
    snapshot,
)


def cut(value: np.ndarray, kept: Mapping[int, np.ndarray]) -> np.ndarray:
    """Returns an array with only some positions of some axes."""
    for axis, positions in _in_order(kept):
        value = np.take(value, positions, axis)
    return value


def cut_shape(shape: tuple, kept: Mapping[int, np.ndarray]) -> tuple:
    """Returns the shape that `cut` leaves of an array."""
    return tuple(
        kept[axis].size if axis in kept else size
        for axis, size in enumerate(shape)
    )


def cut_variable(
    variable: keras.Variable, kept: Mapping[int, np.ndarray]
) -> Callable[[], None]:
    """Cuts a variable.

    Its old value is freed at once, so that many variables can be cut one
    after the other in no more memory than they have. On JAX, where `fit`
    holds the values of its last step anyway, it is kept.

    Args:
        variable: The variable.
        kept: By axis, the positions to keep, in order.

    Returns:
        A function that undoes it, to the last bit. It holds what was removed.
    """
    if keras.backend.backend() == "jax":
        restore = snapshot(variable)
        resize_variable(variable, cut(peek(variable), kept))
        return restore
    value, holder = peek(variable), held_value(variable)
    removed = []
    for axis, positions in _in_order(kept):
        gone = np.delete(np.arange(value.shape[axis]), positions)
        removed.append((axis, positions, gone, np.take(value, gone, axis)))
        value = np.take(value, positions, axis)
    resize_variable(variable, value)
    invalidate(holder)

    def undo() -> None:
        value = peek(variable)
        for axis, positions, gone, part in reversed(removed):
            order = np.argsort(np.concatenate([positions, gone]))
            value = np.take(np.concatenate([value, part], axis), order, axis)
        revive(variable, holder, value)

    return undo


def _in_order(
    kept: Mapping[int, np.ndarray],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields axes and positions, those first that leave the least."""
    for axis in sorted(kept, key=lambda axis: kept[axis].size):
        yield axis, kept[axis]

"""Calls that were recorded for two sizes of a batch, made for any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend.classes import functions
from keras_apoptosis.backend.following import Record

SIZES = "computes with the size of its inputs"


class OfOneSize(Exception):
    """A call that cannot be made for any size; says why."""


def argument_of(one: Any, other: Any) -> Any:
    """Returns an argument, no tensor of the graph, for any size.

    Args:
        one: The argument for one size.
        other: The argument for another size.

    Raises:
        OfOneSize: If it depends on the size.
    """
    if isinstance(one, keras.Variable):
        raise OfOneSize("uses a weight in a way that is not followed")
    if not (ops.is_tensor(one) or isinstance(one, np.ndarray)):
        if callable(one) or one == other:
            return one
        raise OfOneSize(SIZES)
    first, second = (
        np.asarray(ops.convert_to_numpy(each)) for each in (one, other)
    )
    if first.shape != second.shape and first.ndim == second.ndim > 0:
        # The same for each entry of the batch: one of them is broadcast.
        first, second = first[:1], second[:1]
    if not np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
        raise OfOneSize(SIZES)
    return ops.convert_to_tensor(first)


def apply(
    one: Record,
    other: Record,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    copied: Callable[[Any], Any],
    reference: keras.KerasTensor,
) -> list[keras.KerasTensor]:
    """Calls a function of `keras.ops` on tensors of any size.

    Args:
        one: The call, recorded for one size of the batch.
        other: The same for another size.
        args: Positional arguments of the new call.
        kwargs: Keyword arguments of the new call.
        copied: Makes a copy of an operation, or gives a new one its name.
        reference: A tensor with the batch along its first axis.

    Returns:
        The tensors that it returns.

    Raises:
        OfOneSize: If there is no such call.
    """
    operation = one.operation
    if takes_more_axes(operation) and _has_more_axes(one, args[0]):
        return [_of_weight(one, other, args[0], copied)]
    if isinstance(operation, functions.numpy.Reshape):
        return [_reshaped(one, other, args[0], copied)]
    if _is_mean_of_units(operation, args):
        # Entries that are removed count as zeros in a sum.
        total = functions.numpy.Sum(operation.axis, operation.keepdims)
        return [copied(total)(args[0]) * (1.0 / args[0].shape[-1])]
    settings, others = operation.get_config(), other.operation.get_config()
    differing = {
        name
        for name, value in settings.items()
        if name != "name" and value != others[name]
    }
    if not differing:
        return keras.tree.flatten(copied(operation)(*args, **kwargs))
    if differing in ({"shape"}, {"repeats"}):
        shapes = [each.outputs[0].shape for each in (one, other)]
        alike = len(args[0].shape) < len(shapes[0]) or args[0].shape[0] == 1
        if alike and shapes[0][1:] == shapes[1][1:]:
            return [_along_batch(args[0], shapes[0][1:], one, reference)]
    raise OfOneSize(f"{SIZES} ({type(operation).__name__})")


def takes_more_axes(operation: Any) -> bool:
    """Returns whether a weight may have a first axis more for an operation."""
    kinds = functions.numpy.Reshape, functions.numpy.ExpandDims
    return isinstance(operation, kinds)


def _has_more_axes(record: Record, value: Any) -> bool:
    return len(value.shape) > len(record.arguments.keras_tensors[0].shape)


def _of_weight(
    one: Record, other: Record, value: Any, copied: Callable[[Any], Any]
) -> keras.KerasTensor:
    """Reshapes a weight that has a first axis more."""
    shape = one.outputs[0].shape
    if shape != other.outputs[0].shape:
        raise OfOneSize(SIZES)
    if len(shape) < 2:
        return value
    return copied(functions.numpy.Reshape(shape))(value)


def known_settings(one: Record, other: Record) -> dict[str, Any]:
    """Returns settings of a layer that leave sizes open which are known."""
    layer = one.operation
    if not isinstance(layer, keras.layers.EinsumDense):
        return {}
    told = layer.get_config()["output_shape"]
    if None not in (told if isinstance(told, (list, tuple)) else (told,)):
        return {}
    shapes = [each.outputs[0].shape[1:] for each in (one, other)]
    return {
        "output_shape": tuple(
            first if size is None and first == second else size
            for size, first, second in zip(told, *shapes, strict=True)
        )
    }


def _is_mean_of_units(operation: Any, args: Sequence[Any]) -> bool:
    if not isinstance(operation, functions.numpy.Mean):
        return False
    axis, rank = operation.axis, len(args[0].shape)
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        (axis,) = axis
    last = isinstance(axis, int) and rank > 1 and axis % rank == rank - 1
    return last and args[0].dtype == "float32"


def _reshaped(
    one: Record, other: Record, value: Any, copied: Callable[[Any], Any]
) -> keras.KerasTensor:
    before, after = (
        [each.arguments.keras_tensors[0].shape, each.outputs[0].shape]
        for each in (one, other)
    )
    shape = [
        a if a == b else -1 for a, b in zip(before[1], after[1], strict=True)
    ]
    kept = (before[0][0], after[0][0]) == (before[1][0], after[1][0])
    if kept and shape[0] == -1 and shape.count(-1) <= 2:
        return copied(keras.layers.Reshape(shape[1:]))(value)
    if shape.count(-1) > 1:
        raise OfOneSize("reshapes by several sizes of its inputs")
    return copied(functions.numpy.Reshape(tuple(shape)))(value)


def _along_batch(
    value: Any, shape: Sequence[int], one: Record, reference: Any
) -> keras.KerasTensor:
    """Repeats what is the same for each entry of a batch."""
    axes = tuple(range(1, len(reference.shape)))
    zeros = ops.zeros_like(reference)
    if axes:
        zeros = ops.sum(zeros, axis=axes)
    zeros = ops.cast(ops.reshape(zeros, (-1, *[1] * len(shape))), value.dtype)
    given = [1] * (len(shape) + 1 - len(value.shape)) + [*value.shape]
    tiles = [b // a for a, b in zip(given[1:], shape, strict=True)]
    if max(tiles, default=1) > 1:
        if isinstance(one.operation, functions.numpy.BroadcastTo):
            zeros = ops.add(zeros, ops.zeros((1, *shape), value.dtype))
        else:
            value = ops.tile(ops.reshape(value, given), (1, *tiles))
    return ops.add(value, zeros)

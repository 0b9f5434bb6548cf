"""Calls of layers: their masks, and inference mode."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras.src.backend import get_keras_mask, set_keras_mask


def mask_of(tensor: Any) -> Any:
    """Returns the mask that a tensor carries, or `None`."""
    return get_keras_mask(tensor)


def masked(tensor: Any, mask: Any) -> Any:
    """Attaches a mask to a tensor, unless it is `None`.

    Args:
        tensor: The tensor.
        mask: The mask.

    Returns:
        The tensor.
    """
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor


def in_inference(
    layer: keras.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple, dict]:
    """Returns the arguments of a call of a layer, in inference mode."""
    return in_mode(False, layer, args, kwargs)


def in_mode(
    training: bool,
    layer: keras.Layer,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[tuple, dict]:
    """Returns the arguments of a call of a layer, in one mode or the other.

    A layer whose `call` takes no `training` hands it on to the layers inside
    it, as Keras does.

    Args:
        training: The mode.
        layer: The layer.
        args: Positional arguments of a call.
        kwargs: Keyword arguments of a call.

    Returns:
        The same arguments, with this `training`.
    """
    names = list(inspect.signature(layer.call).parameters)
    place = names.index("training") if "training" in names else len(args)
    if place < len(args):
        return (*args[:place], training, *args[place + 1 :]), dict(kwargs)
    return tuple(args), {**kwargs, "training": training}


def called_on(node: Any) -> tuple[list[Any], list[Any]]:
    """Returns the tensors that a nested model is called on, and their masks.

    Args:
        node: Keras' record of the call.

    Returns:
        The tensors, in the order of the model's inputs, and as many masks,
        `None` for a tensor without.
    """
    args, kwargs = node.arguments.args, node.arguments.kwargs
    inputs = keras.tree.flatten(args[0] if args else kwargs["inputs"])
    mask = args[2] if len(args) > 2 else kwargs.get("mask")
    masks = [None] * len(inputs) if mask is None else keras.tree.flatten(mask)
    return inputs, masks

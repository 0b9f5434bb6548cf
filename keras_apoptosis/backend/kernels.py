"""Reads the kernels of layers, and the masks over them."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_apoptosis.backend.variables import peek

# Names of the attributes that hold what Keras computes `layer.kernel` and
# `layer.embeddings` from.
KERNEL = "_kernel"
EMBEDDINGS = "_embeddings"


def kernel_of(layer: keras.Layer) -> keras.Variable | None:
    """Returns the variable that holds a layer's kernel.

    `layer.kernel` of Keras' dense and convolution layers may be computed from
    it: by a mask, by LoRA matrices or from quantized values.

    Args:
        layer: A layer.

    Returns:
        The variable, or `None` if the layer is not built or has no kernel.
    """
    for name in (KERNEL, "kernel"):
        kernel = getattr(layer, name, None)
        if isinstance(kernel, keras.Variable):
            return kernel
    return None


class Lora(NamedTuple):
    """The matrices that LoRA adds to a weight: `weight + scale * a @ b`.

    Args:
        weight: The weight, which is not trained.
        a: The first, of the weight's shape but for the last axis.
        b: The second, whose last axis is that of the weight.
        scale: The factor.
    """

    weight: keras.Variable
    a: keras.Variable
    b: keras.Variable
    scale: float

    def part(self, axis: int) -> tuple[keras.Variable, int]:
        """Returns the matrix that has an axis of the weight, and which."""
        rank = len(self.weight.shape)
        return (self.b, 1) if axis % rank == rank - 1 else (self.a, axis % rank)


def lora_of(layer: keras.Layer) -> Lora | None:
    """Returns what LoRA adds to a weight of a layer, or `None`."""
    if not getattr(layer, "lora_enabled", False):
        return None
    scale = layer.lora_alpha / layer.lora_rank
    if hasattr(layer, "lora_embeddings_a"):
        a, b = layer.lora_embeddings_a, layer.lora_embeddings_b
        return Lora(getattr(layer, EMBEDDINGS), a, b, scale)
    kernel = kernel_of(layer)
    if kernel is None:
        return None
    return Lora(kernel, layer.lora_kernel_a, layer.lora_kernel_b, scale)


def kernel_mask_of(layer: keras.Layer) -> keras.Variable | None:
    """Returns the mask over a layer's kernel, or `None` if it has none."""
    return getattr(layer, "kernel_mask", None)


def mask_over(
    layer: keras.Layer, weight: keras.Variable
) -> keras.Variable | None:
    """Returns the mask over one weight of a layer.

    Args:
        layer: The layer.
        weight: One of its weights.

    Returns:
        The mask, or `None` unless the weight is the layer's kernel and the
        layer has a mask.
    """
    return kernel_mask_of(layer) if weight is kernel_of(layer) else None


def effective_value(layer: keras.Layer, weight: keras.Variable) -> np.ndarray:
    """Returns the value of a weight as the layer uses it.

    Args:
        layer: The layer.
        weight: One of its weights.

    Returns:
        The value in double precision: with what LoRA adds to it, and zero
        where it is masked.
    """
    value = peek(weight).astype("float64")
    lora = lora_of(layer)
    if lora is not None and lora.weight is weight:
        a, b = (peek(each).astype("float64") for each in (lora.a, lora.b))
        value = value + lora.scale * a @ b
    mask = mask_over(layer, weight)
    return value if mask is None else np.where(peek(mask), value, 0)

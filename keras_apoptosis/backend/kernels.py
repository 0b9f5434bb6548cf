"""Reads the kernels of layers, and the masks over them."""

from __future__ import annotations

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
        The value in double precision; masked entries are zero.
    """
    value = peek(weight).astype("float64")
    mask = mask_over(layer, weight)
    return value if mask is None else np.where(peek(mask), value, 0)

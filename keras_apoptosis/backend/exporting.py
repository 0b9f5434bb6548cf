"""Calls of models by exporters, and operations that they can read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope


def is_exporting(value: Any) -> bool:
    """Returns whether a model is called to be exported, not to be run.

    Variables that change in such a call break it, or the model: PyTorch
    refuses them, and on JAX they would keep what the tracer put there.

    Args:
        value: A tensor that the call has computed.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch.compiler.is_exporting()
    if keras.backend.backend() == "jax":
        import jax

        # Keras' own steps are traced in a scope, which returns the changes.
        traced = isinstance(value, jax.core.Tracer)
        return traced and not in_stateless_scope()
    return False


def select(inputs: Any, indices: Sequence[int], axis: int) -> Any:
    """Returns some entries of a tensor along an axis.

    On PyTorch, `keras.ops.take` ravels and squeezes, which cannot be exported
    to ONNX and OpenVINO.

    Args:
        inputs: A tensor.
        indices: Which entries; none is below 0.
        axis: The axis.

    Returns:
        A tensor.
    """
    if keras.backend.backend() != "torch":
        return ops.take(inputs, indices, axis=axis)
    import torch

    inputs = ops.convert_to_tensor(inputs)
    index = ops.convert_to_tensor(indices, "int64")
    return torch.index_select(inputs, axis, index)

"""How weights begin where results are compared with PyTorch's."""

from __future__ import annotations

from typing import Any

import keras


def as_in_pytorch(inputs: int) -> dict[str, Any]:
    """Arguments of a layer: uniform weights and biases up to 1 / √inputs.

    Args:
        inputs: How many inputs a unit has.
    """
    limit = inputs**-0.5
    uniform = keras.initializers.RandomUniform
    return {
        "kernel_initializer": uniform(-limit, limit),
        "bias_initializer": uniform(-limit, limit),
    }

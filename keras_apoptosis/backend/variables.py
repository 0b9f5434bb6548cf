"""Reads and resizes variables of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def resize_variable(variable: keras.Variable, value: np.ndarray) -> None:
    """Gives a variable a value of another shape; it stays the same object.

    Trackers, the optimizer's list and the variable's path stay valid.
    """
    _restore(variable, _new_value(variable, value), tuple(value.shape))


def peek(variable: keras.Variable) -> np.ndarray:
    """Returns the value of a variable, read-only: not copied where possible."""
    value = variable.value
    if keras.backend.backend() == "torch" and variable.dtype != "bfloat16":
        return value.detach().cpu().numpy()
    return keras.ops.convert_to_numpy(value)


def snapshot(variable: keras.Variable) -> Callable[[], None]:
    """Returns what gives a variable its present value and shape back."""
    value, shape = variable._value, tuple(variable.shape)
    return lambda: _restore(variable, value, shape)


def _new_value(variable: keras.Variable, value: np.ndarray) -> Any:
    """Converts a value to the form in which the backend keeps a variable's."""
    holder = variable._value
    variable._initialize(_tensor(variable, value))
    made, variable._value = variable._value, holder
    return made


def _tensor(variable: keras.Variable, value: np.ndarray) -> Any:
    if keras.backend.backend() == "torch" and value.dtype == variable._dtype:
        import torch

        # Keras would copy it once more.
        return torch.from_numpy(np.ascontiguousarray(value))
    return keras.ops.convert_to_tensor(value, dtype=variable._dtype)


def _restore(variable: keras.Variable, value: Any, shape: tuple) -> None:
    variable._value = value
    variable._shape = shape

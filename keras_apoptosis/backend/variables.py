"""Reads and resizes variables of Keras."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend.replicas import replicas_of, scope_of


def resize_variable(variable: keras.Variable, value: np.ndarray) -> None:
    """Gives a variable a value of another shape; it stays the same object.

    Trackers, the optimizer's list and the variable's path stay valid. On
    PyTorch the `torch.nn.Parameter` behind it stays the same object, too; on
    TensorFlow it has another `tf.Variable` afterwards, see `invalidate`.

    Args:
        variable: The variable.
        value: Its new value.
    """
    tensor = _tensor(variable, value)
    if keras.backend.backend() == "torch":
        _set_data(variable._value, tensor)
    else:
        with scope_of(variable._value):
            variable._initialize(tensor)
    variable._shape = tuple(value.shape)


def peek(variable: keras.Variable) -> np.ndarray:
    """Returns the value of a variable, to read only.

    It is not copied where the backend allows that.
    """
    value = variable.value
    if keras.backend.backend() == "torch" and variable.dtype != "bfloat16":
        return value.detach().cpu().numpy()
    return keras.ops.convert_to_numpy(replicas_of(value)[0])


def snapshot(variable: keras.Variable) -> Callable[[], None]:
    """Returns a function that restores a variable's present value and shape."""
    holder, shape = variable._value, tuple(variable.shape)
    data = holder.data if keras.backend.backend() == "torch" else None

    def restore() -> None:
        if data is not None:
            _set_data(holder, data)
        variable._value = holder
        variable._shape = shape

    return restore


def itemsize(dtype: str) -> int:
    """Returns the number of bytes of one number of a type."""
    bits = re.search(r"\d+", str(dtype))
    return max(1, int(bits.group()) // 8) if bits else 1


def held_value(variable: keras.Variable) -> Any:
    """Returns the object of the backend that holds a variable's value."""
    return variable._value


def invalidate(holder: Any) -> None:
    """Makes any further use of a replaced `tf.Variable` an error.

    A compiled `tf.function` that was not traced again still holds it, and
    would go on with the old weights in silence. TensorFlow cannot destroy
    such a variable, but it can take the value out of it: operations then fail
    for its shape. PyTorch keeps the parameter, and what JAX compiles holds no
    variable.

    Args:
        holder: What `held_value` gave before the variable was resized.
    """
    if keras.backend.backend() == "tensorflow":
        shape = (0,) * max(1, holder.shape.rank)
        _fill(holder, np.zeros(shape, holder.dtype.as_numpy_dtype))


def revive(variable: keras.Variable, holder: Any, value: np.ndarray) -> None:
    """Brings a variable back whose holder was invalidated.

    Args:
        variable: The variable.
        holder: What `held_value` gave before it was resized.
        value: Its value at that time.
    """
    if keras.backend.backend() != "tensorflow":
        resize_variable(variable, value)
        return
    _fill(holder, value)
    variable._value = holder
    variable._shape = tuple(value.shape)


def _fill(holder: Any, value: np.ndarray) -> None:
    """Gives a `tf.Variable` a value of any shape."""
    import tensorflow as tf

    for each in replicas_of(holder):
        tf.raw_ops.AssignVariableOp(
            resource=each.handle,
            value=tf.convert_to_tensor(value, holder.dtype),
            validate_shape=False,
        )


def _tensor(variable: keras.Variable, value: np.ndarray) -> Any:
    dtype = variable._dtype
    if keras.backend.backend() != "torch":
        return keras.ops.convert_to_tensor(value, dtype=dtype)
    import torch

    device = variable._value.device
    if value.dtype == dtype and dtype != "bfloat16":
        # Keras would copy it once more.
        return torch.from_numpy(np.ascontiguousarray(value)).to(device)
    return keras.ops.convert_to_tensor(value, dtype=dtype).to(device)


def _set_data(parameter: Any, data: Any) -> None:
    """Gives a PyTorch parameter other data, possibly of another shape."""
    import torch

    # What accumulates a parameter's gradient remembers its shape, and lives
    # as long as any graph that it is part of, such as the last loss. Another
    # type makes PyTorch forget it.
    other = torch.float64 if data.dtype != torch.float64 else torch.float32
    parameter.grad = None
    parameter.data = torch.empty(0, dtype=other, device=data.device)
    parameter.data = data

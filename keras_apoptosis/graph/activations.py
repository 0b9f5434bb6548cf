"""Known properties of activation functions."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops

from keras_apoptosis.backend.gradients import no_gradients

# Zero, with no gradient, for what is below zero.
RECTIFIERS = (activations.relu, activations.relu6)

# f(αx) = α f(x) for every α > 0.
HOMOGENEOUS = (activations.linear, activations.relu, activations.leaky_relu)

# Others that act on every entry by itself. What mixes units (softmax, glu)
# or is not Keras' own is absent: nothing is guessed.
ELEMENTWISE = (
    activations.celu,
    activations.elu,
    activations.exponential,
    activations.gelu,
    activations.hard_shrink,
    activations.hard_sigmoid,
    activations.hard_silu,
    activations.hard_tanh,
    activations.log_sigmoid,
    activations.mish,
    activations.relu6,
    activations.selu,
    activations.sigmoid,
    activations.silu,
    activations.soft_shrink,
    activations.softplus,
    activations.softsign,
    activations.sparse_plus,
    activations.sparse_sigmoid,
    activations.squareplus,
    activations.tanh,
    activations.tanh_shrink,
    activations.threshold,
)


def is_rectifier(layer: Any) -> bool:
    """Tells whether a layer returns 0, with no gradient, below 0."""
    activation = getattr(layer, "activation", layer)
    if type(activation) is layers.ReLU:
        return not (activation.negative_slope or activation.threshold)
    return activation in RECTIFIERS


def is_homogeneous(activation: Any) -> bool | None:
    """Returns whether an activation is positively homogeneous.

    Args:
        activation: A function, one of Keras' activation layers, or `None`
            (linear).

    Returns:
        `True` or `False` for an activation that acts on every entry by
        itself, the same for all; `None` for any other. Of a function that is
        not Keras' own this is found by trial.
    """
    if activation is None or activation in HOMOGENEOUS:
        return True
    if activation in ELEMENTWISE:
        return False
    if type(activation) is layers.ReLU:
        return activation.max_value is None and activation.threshold == 0
    if type(activation) is layers.LeakyReLU:
        return True
    if type(activation) is layers.ELU:
        return False
    if isinstance(activation, keras.Operation) or not callable(activation):
        return None
    try:
        return _tried(activation)
    except TypeError:  # It takes no weak reference.
        return _try(activation)


def _tried(activation: Callable[[Any], Any]) -> bool | None:
    if activation not in _known:
        _known[activation] = _try(activation)
    return _known[activation]


_known: weakref.WeakKeyDictionary[Any, bool | None] = (
    weakref.WeakKeyDictionary()
)


def _try(activation: Callable[[Any], Any]) -> bool | None:
    """Finds out what a function of unknown code does, by trial.

    It acts on every entry by itself if an entry's value stays the same
    whatever the others are and wherever it stands.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 8)) * 10.0 ** rng.integers(-2, 3, (6, 8))
    values[0, :2] = 0, -1
    others = np.where(rng.random((6, 8)) < 0.5, values, values[::-1] * 7 + 1)
    order = rng.permutation(values.size)

    def made(entries: np.ndarray) -> np.ndarray:
        tensor = ops.convert_to_tensor(entries, "float32")
        with (
            keras.StatelessScope(),
            no_gradients(),
            warnings.catch_warnings(action="ignore"),  # Of such a shape.
        ):
            found = ops.convert_to_numpy(activation(tensor))
        if found.shape != entries.shape:
            raise ValueError("another shape")
        return found.astype("float64")

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        return np.allclose(one, other, 1e-5, 1e-6, equal_nan=True)

    try:
        usual = made(values)
        shuffled = made(values.reshape(-1)[order].reshape(2, 3, 8)).reshape(-1)
        column = made(values.reshape(-1, 1)).reshape(-1)
        where = others == values
        if not (
            same(made(values), usual)
            and same(shuffled, usual.reshape(-1)[order])
            and same(column, usual.reshape(-1))
            and same(made(others)[where], usual[where])
        ):
            return None
        return all(
            same(made(factor * values) / factor, usual)
            for factor in (0.01, 3.0, 50.0)
        )
    except Exception:  # Whatever it objects to: then it is not known.
        return None


def saturation_by_trial(activation: Any) -> str:
    """Finds out on which side a function of unknown code saturates at zero.

    Args:
        activation: A function.

    Returns:
        `"zero"` if it comes to rest at zero for what is far below it;
        `"negative"` if it is leaky there: linear, but smaller than above;
        `""` for any other.
    """
    if not callable(activation) or isinstance(activation, keras.Operation):
        return ""
    homogeneous = is_homogeneous(activation)
    if homogeneous is None:
        return ""
    values = np.array([[-1000.0, -100.0, -30.0, -1.0, 1.0, 30.0]])
    with keras.StatelessScope(), no_gradients():
        tensor = ops.convert_to_tensor(values, "float32")
        found = ops.convert_to_numpy(activation(tensor))[0]
    if np.abs(found[-1]) < 1e-3:
        return ""
    if np.all(np.abs(found[:3]) < 1e-6):
        return "zero"
    leaky = homogeneous and 0 < np.abs(found[3]) < np.abs(found[4])
    return "negative" if leaky else ""


def is_linear(activation: Any) -> bool:
    """Returns whether an activation leaves values as they are."""
    return activation is None or activation is activations.linear


@contextlib.contextmanager
def without_activation(layer: Any) -> Iterator[None]:
    """Lets a layer return what it computes before its own activation."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        yield
        return
    layer.activation = activations.linear
    try:
        yield
    finally:
        layer.activation = activation

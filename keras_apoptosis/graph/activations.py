"""Known properties of activation functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from keras import activations, layers

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
        activation: A function of `keras.activations`, one of Keras'
            activation layers, or `None` (linear).

    Returns:
        `True` or `False` for an activation that acts on every entry by
        itself, the same for all; `None` for any other.
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
    return None


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

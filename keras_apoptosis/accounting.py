"""FLOPs, as the papers' tables count them."""

from __future__ import annotations

import math

import keras

from keras_apoptosis.graph import read
from keras_apoptosis.graph.kinds import Contraction, channel_axis
from keras_apoptosis.graph.rules import rule_of


def flops(model: keras.Model) -> int:
    """Counts the floating-point operations of one sample's forward pass.

    Counted are the multiplications and additions of dense layers and
    convolutions, two for each weight and position; what costs little beside
    them (activations, normalization, pooling) is not. A training step takes
    about three times as many.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Returns:
        The number of operations.

    Raises:
        ValueError: If the model's graph cannot be read, or a layer works on
            a shape that is not known.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.flops(model)
    96
    """
    graph = read(model)
    total = 0
    for step in graph.steps:
        rule = rule_of(step)
        if not isinstance(rule, Contraction):
            continue
        layer = step.operation
        shape = list(graph.tensors[step.outputs[0]].shape)
        del shape[channel_axis(layer, tuple(shape))]
        positions = shape[1:]
        if None in positions:
            raise ValueError(
                f"Cannot count the FLOPs of layer '{step.path}', whose output "
                f"has an unknown size. Received: shape {shape}"
            )
        kernel = getattr(layer, rule.kernel)
        total += 2 * math.prod(kernel.shape) * math.prod(positions)
    return total

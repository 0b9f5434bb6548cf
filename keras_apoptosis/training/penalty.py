"""Penalizes weights, with a strength that follows a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_apoptosis.backend import layers_inside
from keras_apoptosis.schedules import ValueSchedule
from keras_apoptosis.training.live_hook import LiveHook

# Where each normalization of Keras keeps its scale.
SCALES = {
    layers.BatchNormalization: "gamma",
    layers.GroupNormalization: "gamma",
    layers.LayerNormalization: "gamma",
    layers.RMSNormalization: "scale",
}


class Regularization(LiveHook):
    """Adds the gradient of a scheduled penalty to that of the loss.

    Adaptive optimizers then scale it as they scale a penalty in the loss,
    unlike decoupled weight decay (Demon pruning, appendix F.5).

    Args:
        strength: A schedule of λ over the training.
        penalty: `"l1"` for `λ Σ|w|`, or `"l2"` for `λ Σ w²`, as Keras'
            regularizers.
        weights: The weights to regularize.
    """

    def __init__(
        self,
        strength: ValueSchedule,
        penalty: str,
        weights: Sequence[keras.Variable],
    ):
        super().__init__(factor=1.0)
        self.strength = strength
        self.penalty = penalty
        self.weights = list(weights)

    def before(
        self, gradients: list[Any], weights: list[keras.Variable]
    ) -> list[Any]:
        chosen = {id(weight) for weight in self.weights}
        now = self.strength(self.progress(self.steps))
        now = self.number("factor") * now
        found = []
        for gradient, weight in zip(gradients, weights, strict=True):
            if id(weight) in chosen:
                value = ops.convert_to_tensor(weight)
                slope = ops.sign(value) if self.penalty == "l1" else 2 * value
                slope = ops.cast(now, value.dtype) * slope
                if gradient is not None:
                    slope = slope + ops.convert_to_tensor(gradient)
                gradient = slope
            found.append(gradient)
        return found


def scales_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the trainable scales of a model's normalizations."""
    found = []
    for layer in layers_inside(model):
        for kind, name in SCALES.items():
            scale = getattr(layer, name, None)
            if isinstance(layer, kind) and scale is not None:
                found.append(scale)
    trained = {id(weight) for weight in model.trainable_variables}
    return [each for each in found if id(each) in trained]

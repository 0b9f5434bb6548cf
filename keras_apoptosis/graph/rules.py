"""How each class of operation treats units: the one table."""

from __future__ import annotations

import keras
from keras import layers

from keras_apoptosis import layers as prunable
from keras_apoptosis.graph.kinds import (
    STATISTICS,
    ActivationLayer,
    BatchNorm,
    Border,
    Concatenate,
    Contraction,
    Elementwise,
    Flatten,
    Merge,
    Passing,
    Pooling,
    Rule,
    Selection,
)
from keras_apoptosis.graph.reading import Step

__all__ = [
    "RULES",
    "Contraction",
    "Elementwise",
    "Passing",
    "Rule",
    "register_rule",
    "rule_of",
]

SAME_VALUES = Passing()
MOVED_POSITIONS = Passing(channels=True)
BORDER = Border()
DENSE = Contraction(
    unit_axis=1,
    input_axis=0,
    size="units",
    extra={"kernel_mask": (1, 0), **dict.fromkeys(STATISTICS, (0, None))},
)
CONVOLUTION = Contraction(
    unit_axis=-1,
    input_axis=-2,
    size="filters",
    extra={"kernel_mask": (-1, -2), **dict.fromkeys(STATISTICS, (0, None))},
    spatial=True,
)

RULES: dict[type, Rule] = {
    **dict.fromkeys((layers.Dense, prunable.PrunableDense), DENSE),
    **dict.fromkeys(
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            prunable.PrunableConv1D,
            prunable.PrunableConv2D,
            prunable.PrunableConv3D,
        ),
        CONVOLUTION,
    ),
    prunable.FeatureSelection: Selection(),
    layers.BatchNormalization: BatchNorm(),
    **dict.fromkeys(
        (
            layers.Activation,
            prunable.PrunableActivation,
            layers.ReLU,
            layers.LeakyReLU,
            layers.ELU,
        ),
        ActivationLayer(),
    ),
    **dict.fromkeys(
        (
            layers.Identity,
            layers.Dropout,
            layers.AlphaDropout,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.SpatialDropout1D,
            layers.SpatialDropout2D,
            layers.SpatialDropout3D,
            layers.ActivityRegularization,
        ),
        SAME_VALUES,
    ),
    **dict.fromkeys(
        (
            layers.ZeroPadding1D,
            layers.ZeroPadding2D,
            layers.ZeroPadding3D,
            layers.Cropping1D,
            layers.Cropping2D,
            layers.Cropping3D,
        ),
        MOVED_POSITIONS,
    ),
    **dict.fromkeys(
        (
            layers.MaxPooling1D,
            layers.MaxPooling2D,
            layers.MaxPooling3D,
            layers.GlobalMaxPooling1D,
            layers.GlobalMaxPooling2D,
            layers.GlobalMaxPooling3D,
            layers.AdaptiveMaxPooling1D,
            layers.AdaptiveMaxPooling2D,
            layers.AdaptiveMaxPooling3D,
        ),
        Pooling(average=False),
    ),
    **dict.fromkeys(
        (
            layers.AveragePooling1D,
            layers.AveragePooling2D,
            layers.AveragePooling3D,
            layers.GlobalAveragePooling1D,
            layers.GlobalAveragePooling2D,
            layers.GlobalAveragePooling3D,
            layers.AdaptiveAveragePooling1D,
            layers.AdaptiveAveragePooling2D,
            layers.AdaptiveAveragePooling3D,
        ),
        Pooling(average=True),
    ),
    layers.Flatten: Flatten(),
    **dict.fromkeys(
        (layers.Add, layers.Subtract, layers.Average), Merge(linear=True)
    ),
    **dict.fromkeys((layers.Maximum, layers.Minimum), Merge(linear=False)),
    layers.Concatenate: Concatenate(),
}


def rule_of(step: Step) -> Rule | None:
    """The rule of a step, or `None` if its class has none.

    A subclass does not inherit the rule of its parent, whose `call` it may
    have changed.
    """
    if step.node is None:
        return BORDER
    return RULES.get(type(step.operation))


def register_rule(layer_class: type, rule: Rule) -> None:
    """Teaches the graph how a custom layer treats units.

    Args:
        layer_class: The layer's class. Its subclasses are not meant.
        rule: How it treats units: `ka.rules.Elementwise` for a layer that
            acts on every unit by itself, `ka.rules.Contraction` for one that
            works as `Dense` or a convolution does, or a `ka.rules.Rule` of
            your own.

    Raises:
        ValueError: If `layer_class` is no class of operations or `rule` no
            `Rule`.

    Example:

    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.gamma = self.add_weight(shape=(shape[-1],))
    ...     def call(self, inputs):
    ...         return inputs * self.gamma
    >>> ka.register_rule(Scale, ka.rules.Elementwise(weights={"gamma": 0}))
    """
    if not (
        isinstance(layer_class, type)
        and issubclass(layer_class, keras.Operation)
    ):
        raise ValueError(
            "Expected `layer_class` to be a class of Keras layers. "
            f"Received: layer_class={layer_class}"
        )
    if not isinstance(rule, Rule):
        raise ValueError(
            "Expected `rule` to be an instance of `ka.rules.Rule`. "
            f"Received: rule={rule}"
        )
    RULES[layer_class] = rule

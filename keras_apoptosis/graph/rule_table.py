"""The table of rules: one for each class of operation."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_apoptosis import layers as prunable
from keras_apoptosis.backend.classes import (
    CustomScaleLayer,
    LayerScale,
    functions,
)
from keras_apoptosis.graph import expansion
from keras_apoptosis.graph.rules import (
    STATISTICS,
    ActivationLayer,
    Arithmetic,
    BatchNorm,
    Bidirectional,
    Border,
    Concatenate,
    Contraction,
    Depthwise,
    Dot,
    DotProductAttention,
    Einsum,
    EinsumContraction,
    Elementwise,
    Embedding,
    FeedForward,
    GroupNorm,
    Indexing,
    Lookup,
    Masking,
    Matmul,
    Merge,
    Mixing,
    Moving,
    MultiHead,
    Noise,
    NormalizationOverUnits,
    ParametricReLU,
    Passing,
    Patches,
    Positions,
    Recurrent,
    Reduction,
    Rescaling,
    Rolling,
    Rule,
    ScaledAttention,
    Selection,
    Separable,
    Slice,
    SpectralNorm,
    Splitting,
    Stack,
    Tensordot,
    Through,
    TimeDistributed,
    Unequal,
    Unstacking,
    UpSampling,
    WeightAsTensor,
)
from keras_apoptosis.graph.units import Function, Sum, Unknown

__all__ = [
    "RULES",
    "Contraction",
    "Elementwise",
    "FeedForward",
    "Function",
    "GroupNorm",
    "NormalizationOverUnits",
    "Passing",
    "Rule",
    "Sum",
    "Unknown",
    "register_rule",
    "rule_of",
]

BORDER = Border()
SAME_VALUES = Passing()
FEWER_POSITIONS = Passing(channels=True)
MORE_POSITIONS = Passing(channels=True, pads=True)
HOMOGENEOUS = Elementwise(homogeneous=True)
BENT = Elementwise()
MAXIMUM = Positions(Function(homogeneous=True))
AVERAGE = Positions(Sum())
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
TRANSPOSED = Contraction(
    unit_axis=-2,
    input_axis=-1,
    size="filters",
    kernel="kernel",
    spatial=True,
    transposed=True,
)


def _each(rule: Rule, module: Any, *names: str) -> dict[type, Rule]:
    """Returns one rule for several classes of a module."""
    return {getattr(module, name): rule for name in names}


def _ranks(name: str) -> list[str]:
    """Returns `"Conv{}D"` and the like for one, two and three dimensions."""
    return [name.format(rank) for rank in (1, 2, 3)]


LAYERS: dict[type, Rule] = {
    # Contractions, which make units.
    layers.Dense: DENSE,
    prunable.PrunableDense: DENSE,
    **_each(CONVOLUTION, layers, *_ranks("Conv{}D")),
    **_each(CONVOLUTION, prunable, *_ranks("PrunableConv{}D")),
    **_each(TRANSPOSED, layers, *_ranks("Conv{}DTranspose")),
    **_each(Depthwise(), layers, "DepthwiseConv1D", "DepthwiseConv2D"),
    **_each(Separable(), layers, "SeparableConv1D", "SeparableConv2D"),
    layers.EinsumDense: EinsumContraction(),
    layers.Embedding: Embedding(),
    layers.ReversibleEmbedding: Embedding(),
    layers.MultiHeadAttention: MultiHead(),
    layers.GroupQueryAttention: MultiHead(),
    **_each(Recurrent(), layers, "SimpleRNN", "LSTM", "GRU", "RNN"),
    **_each(Recurrent("filters", gates=4), layers, *_ranks("ConvLSTM{}D")),
    prunable.FeatureSelection: Selection(),
    # Layers that hold others.
    layers.Bidirectional: Bidirectional(),
    layers.TimeDistributed: TimeDistributed(),
    layers.SpectralNormalization: SpectralNorm(),
    # Normalizations.
    layers.BatchNormalization: BatchNorm(),
    layers.LayerNormalization: NormalizationOverUnits(),
    layers.GroupNormalization: GroupNorm(),
    layers.RMSNormalization: NormalizationOverUnits(
        centred=False, scale="scale"
    ),
    layers.UnitNormalization: NormalizationOverUnits(centred=False, scale=None),
    # Each unit by itself.
    **_each(ActivationLayer(), layers, "Activation", "ReLU", "LeakyReLU"),
    **_each(ActivationLayer(), layers, "ELU"),
    prunable.PrunableActivation: ActivationLayer(),
    layers.Softmax: Mixing(),
    layers.PReLU: ParametricReLU(),
    layers.Rescaling: Rescaling(),
    layers.Masking: Masking(),
    LayerScale: Elementwise(weights={"gamma": 0}, size="projection_dim"),
    **_each(
        SAME_VALUES,
        layers,
        "Identity",
        "GaussianDropout",
        "GaussianNoise",
        *_ranks("SpatialDropout{}D"),
        "ActivityRegularization",
    ),
    **_each(Noise(), layers, "Dropout", "AlphaDropout"),
    # Positions of a feature map.
    **_each(MORE_POSITIONS, layers, *_ranks("ZeroPadding{}D")),
    **_each(FEWER_POSITIONS, layers, *_ranks("Cropping{}D")),
    **_each(
        MAXIMUM,
        layers,
        *_ranks("MaxPooling{}D"),
        *_ranks("GlobalMaxPooling{}D"),
        *_ranks("AdaptiveMaxPooling{}D"),
    ),
    **_each(
        AVERAGE,
        layers,
        *_ranks("AveragePooling{}D"),
        *_ranks("GlobalAveragePooling{}D"),
        *_ranks("AdaptiveAveragePooling{}D"),
    ),
    **_each(UpSampling(), layers, *_ranks("UpSampling{}D")),
    **_each(Positions(Unknown()), layers, "Resizing", "CenterCrop"),
    # Entries that move.
    **_each(Moving(), layers, "Flatten", "Permute", "RepeatVector"),
    layers.Reshape: Moving("target_shape", batch=False),
    # Several tensors.
    **_each(
        Merge(linear=True, expand=True), layers, "Add", "Subtract", "Average"
    ),
    CustomScaleLayer: Merge(linear=True),
    **_each(Merge(expand=True), layers, "Maximum", "Minimum", "Multiply"),
    layers.Concatenate: Concatenate(),
    layers.Dot: Dot(),
    **_each(DotProductAttention(), layers, "Attention", "AdditiveAttention"),
}

FUNCTIONS: dict[type, Rule] = {
    **_each(Arithmetic(linear=True), functions.numpy, "Add", "Subtract"),
    **_each(Arithmetic(homogeneous=True), functions.numpy, "Multiply"),
    **_each(
        Arithmetic(homogeneous=True), functions.numpy, "Divide", "TrueDivide"
    ),
    **_each(Arithmetic(), functions.numpy, "Maximum", "Minimum", "Power"),
    **_each(Arithmetic(), functions.numpy, "LogicalAnd", "LogicalOr"),
    **_each(Arithmetic(), functions.numpy, "Greater", "GreaterEqual"),
    **_each(Arithmetic(), functions.numpy, "Less", "LessEqual"),
    **_each(
        HOMOGENEOUS, functions.numpy, "Negative", "Absolute", "Abs", "Copy"
    ),
    **_each(HOMOGENEOUS, functions.nn, "Relu", "LeakyRelu"),
    **_each(HOMOGENEOUS, functions.core, "Cast", "StopGradient"),
    **_each(
        BENT,
        functions.numpy,
        "Clip",
        "Cos",
        "Exp",
        "Expm1",
        "Log",
        "Log1p",
        "OnesLike",
        "Reciprocal",
        "Sign",
        "Sin",
        "Sqrt",
        "Square",
        "Tanh",
        "ZerosLike",
    ),
    **_each(BENT, functions.math, "Erf", "Rsqrt"),
    **_each(
        BENT,
        functions.nn,
        "Celu",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSilu",
        "HardTanh",
        "LogSigmoid",
        "Relu6",
        "Selu",
        "Sigmoid",
        "Silu",
        "SoftShrink",
        "Softplus",
        "Softsign",
        "TanhShrink",
    ),
    **_each(Mixing(), functions.nn, "Softmax", "LogSoftmax"),
    **_each(
        Moving(),
        functions.numpy,
        "ExpandDims",
        "Flip",
        "Moveaxis",
        "Pad",
        "Repeat",
        "Squeeze",
        "Swapaxes",
        "Tile",
        "Transpose",
    ),
    functions.numpy.BroadcastTo: Moving("shape"),
    functions.numpy.Reshape: Moving("newshape"),
    functions.numpy.GetItem: Indexing(),
    functions.core.Slice: Slice(),
    functions.numpy.Roll: Rolling(),
    functions.numpy.Split: Splitting(),
    functions.numpy.Concatenate: Concatenate(),
    functions.numpy.Stack: Stack(),
    functions.numpy.Take: Lookup(),
    functions.numpy.Sum: Reduction(Sum(), sums=True),
    functions.numpy.Mean: Reduction(Sum()),
    **_each(Reduction(Function(True)), functions.numpy, "Max", "Min"),
    **_each(Reduction(Unknown()), functions.numpy, "Var", "Std", "Prod"),
    functions.numpy.Any: Reduction(Unknown(), sums=True),
    functions.numpy.NotEqual: Unequal(),
    functions.numpy.Einsum: Einsum(),
    functions.numpy.Where: Arithmetic(),
    functions.core.ConvertToTensor: HOMOGENEOUS,
    functions.core.Unstack: Unstacking(),
    functions.nn.DotProductAttention: ScaledAttention(),
    functions.numpy.Matmul: Matmul(),
    functions.numpy.Tensordot: Tensordot(),
    functions.image.ExtractPatches: Patches(),
}

FOLLOWING: dict[type, Rule] = {
    expansion.Entrance: Through(),
    expansion.Exit: Through(),
    expansion.Parameter: WeightAsTensor(),
}

RULES: dict[type, Rule] = {**LAYERS, **FUNCTIONS, **FOLLOWING}
"""The rule of each class of layers and functions that has one."""


def rule_of(operation: Any) -> Rule | None:
    """Returns the rule of an operation, or `None` if its class has none.

    A subclass does not inherit the rule of its parent, whose `call` it may
    have changed.
    """
    return RULES.get(type(operation))


def register_rule(layer_class: type, rule: Rule) -> None:
    """Registers how a custom layer treats units.

    Args:
        layer_class: The layer's class. Its subclasses are not meant.
        rule: How it treats units: `ka.rules.Elementwise` for a layer that
            acts on every unit by itself, `ka.rules.Contraction` for one that
            works as `Dense` or a convolution does, `ka.rules.FeedForward`
            for one that holds a pair of such layers, or a `ka.rules.Rule` of
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
    expansion.forget()

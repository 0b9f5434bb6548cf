"""Kinds of rules: the ways in which operations treat units."""

from keras_apoptosis.graph.kinds.attention import MultiHead
from keras_apoptosis.graph.kinds.contraction import (
    Contraction,
    Depthwise,
    EinsumContraction,
    Embedding,
    Separable,
)
from keras_apoptosis.graph.kinds.elementwise import (
    ActivationLayer,
    BatchNorm,
    Masking,
    Mixing,
    ParametricReLU,
    Rescaling,
    Selection,
)
from keras_apoptosis.graph.kinds.functions import (
    Arithmetic,
    Einsum,
    Matmul,
    Stack,
    Unequal,
)
from keras_apoptosis.graph.kinds.merging import (
    Concatenate,
    Dot,
    DotProductAttention,
    Merge,
    Reduction,
)
from keras_apoptosis.graph.kinds.moving import (
    Moving,
    Positions,
    Splitting,
    UpSampling,
)
from keras_apoptosis.graph.kinds.normalization import (
    GroupNorm,
    NormalizationOverUnits,
)
from keras_apoptosis.graph.kinds.recurrent import Bidirectional, Recurrent
from keras_apoptosis.graph.kinds.rule import (
    STATISTICS,
    Border,
    Elementwise,
    Passing,
    Rule,
    channel_axis,
)
from keras_apoptosis.graph.kinds.wrapping import (
    FeedForward,
    SpectralNorm,
    TimeDistributed,
)

__all__ = [
    "STATISTICS",
    "ActivationLayer",
    "Arithmetic",
    "BatchNorm",
    "Bidirectional",
    "Border",
    "Concatenate",
    "Contraction",
    "Depthwise",
    "Dot",
    "DotProductAttention",
    "Einsum",
    "EinsumContraction",
    "Elementwise",
    "Embedding",
    "FeedForward",
    "GroupNorm",
    "Masking",
    "Matmul",
    "Merge",
    "Mixing",
    "Moving",
    "MultiHead",
    "NormalizationOverUnits",
    "ParametricReLU",
    "Passing",
    "Positions",
    "Recurrent",
    "Reduction",
    "Rescaling",
    "Rule",
    "Selection",
    "Separable",
    "SpectralNorm",
    "Splitting",
    "Stack",
    "TimeDistributed",
    "Unequal",
    "UpSampling",
    "channel_axis",
]

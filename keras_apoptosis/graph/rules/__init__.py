"""Rules: the ways in which operations treat units."""

from keras_apoptosis.graph.rules.attention import MultiHead
from keras_apoptosis.graph.rules.contraction import (
    Contraction,
    Depthwise,
    EinsumContraction,
    Embedding,
    Separable,
)
from keras_apoptosis.graph.rules.elementwise import (
    ActivationLayer,
    BatchNorm,
    Masking,
    Mixing,
    ParametricReLU,
    Rescaling,
    Selection,
)
from keras_apoptosis.graph.rules.following import Through, WeightAsTensor
from keras_apoptosis.graph.rules.functions import (
    Arithmetic,
    Einsum,
    Matmul,
    Patches,
    ScaledAttention,
    Stack,
    Tensordot,
    Unequal,
)
from keras_apoptosis.graph.rules.merging import (
    Concatenate,
    Dot,
    DotProductAttention,
    Merge,
    Reduction,
)
from keras_apoptosis.graph.rules.moving import (
    Moving,
    Positions,
    Splitting,
    Unstacking,
    UpSampling,
)
from keras_apoptosis.graph.rules.normalization import (
    GroupNorm,
    NormalizationOverUnits,
)
from keras_apoptosis.graph.rules.places import (
    Indexing,
    Lookup,
    Rolling,
    Slice,
)
from keras_apoptosis.graph.rules.recurrent import Bidirectional, Recurrent
from keras_apoptosis.graph.rules.rule import (
    STATISTICS,
    Border,
    Elementwise,
    Noise,
    Passing,
    Rule,
    channel_axis,
)
from keras_apoptosis.graph.rules.wrapping import (
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
    "Indexing",
    "Lookup",
    "Masking",
    "Matmul",
    "Merge",
    "Mixing",
    "Moving",
    "MultiHead",
    "Noise",
    "NormalizationOverUnits",
    "ParametricReLU",
    "Passing",
    "Patches",
    "Positions",
    "Recurrent",
    "Reduction",
    "Rescaling",
    "Rolling",
    "Rule",
    "ScaledAttention",
    "Selection",
    "Separable",
    "Slice",
    "SpectralNorm",
    "Splitting",
    "Stack",
    "Tensordot",
    "Through",
    "TimeDistributed",
    "Unequal",
    "Unstacking",
    "UpSampling",
    "WeightAsTensor",
    "channel_axis",
]

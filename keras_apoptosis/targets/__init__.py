"""Targets: limits of the cost of a pruned model."""

from keras_apoptosis.targets.counts import Bytes, Flops, Parameters, Units
from keras_apoptosis.targets.latency import Latency
from keras_apoptosis.targets.target import Target, as_targets

__all__ = [
    "Bytes",
    "Flops",
    "Latency",
    "Parameters",
    "Target",
    "Units",
    "as_targets",
]

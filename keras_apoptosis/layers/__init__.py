"""Keras layers that can be pruned while they train."""

from keras_apoptosis.layers.feature_selection import FeatureSelection
from keras_apoptosis.layers.prunable_activation import PrunableActivation
from keras_apoptosis.layers.prunable_conv import (
    PrunableConv1D,
    PrunableConv2D,
    PrunableConv3D,
)
from keras_apoptosis.layers.prunable_dense import PrunableDense
from keras_apoptosis.layers.unit_statistics import UnitStatistics

__all__ = [
    "FeatureSelection",
    "PrunableActivation",
    "PrunableConv1D",
    "PrunableConv2D",
    "PrunableConv3D",
    "PrunableDense",
    "UnitStatistics",
]

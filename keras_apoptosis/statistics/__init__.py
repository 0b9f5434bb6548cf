"""Statistics of units on data, and derivatives of the loss."""

from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.streaming import batches
from keras_apoptosis.statistics.weight_derivatives import WeightDerivatives

__all__ = ["Moments", "WeightDerivatives", "batches"]

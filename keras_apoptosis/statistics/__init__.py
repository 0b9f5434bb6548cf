"""What units do on data: streaming, per unit."""

from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.streaming import batches

__all__ = ["Moments", "batches"]

"""Applying a removal to a model."""

from keras_apoptosis.surgery.removal import Removal, Replacement
from keras_apoptosis.surgery.shrink import rebuild, shrink

__all__ = ["Removal", "Replacement", "rebuild", "shrink"]

"""Exposes classes of Keras that are public in no other way."""

from __future__ import annotations

# The classes behind the functions of `keras.ops`, which hides them.
from keras.src import ops as functions

# Layers that models of `keras.applications` contain.
from keras.src.applications.convnext import LayerScale
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

__all__ = ["CustomScaleLayer", "LayerScale", "functions"]

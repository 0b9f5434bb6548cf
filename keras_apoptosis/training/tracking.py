"""Lets Prunable layers of a model keep statistics while it trains."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_apoptosis import backend
from keras_apoptosis.layers.activation_statistics import ActivationStatistics


def start_tracking(model: keras.Model, layers: Iterable[keras.Layer]) -> None:
    """Lets layers keep statistics from the next step on.

    Args:
        model: The model that they belong to.
        layers: The layers; those that are not Prunable are left as they are.
    """
    new = [
        layer
        for layer in layers
        if isinstance(layer, ActivationStatistics)
        and not layer.track_statistics
    ]
    if not new:
        return
    backend.sync_from_jax(model)
    for layer in new:
        layer.start_tracking()
    for each in backend.models_of(model):
        backend.forget_compiled(each)
    backend.sync_to_jax(model)

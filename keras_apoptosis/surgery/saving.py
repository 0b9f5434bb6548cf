"""Keeps models saveable whose classes have configs of their own."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from keras_apoptosis import backend


def keep_saveable(models: Iterable[keras.Model]) -> list[str]:
    """Lets models that lost units be saved as files that can be loaded.

    Args:
        models: Models that lost units.

    Returns:
        For people: which of them load as plain models of Keras from now on,
        and which cannot be saved.
    """
    notes = []
    for model in models:
        if backend.is_saved_layer_by_layer(model):
            continue
        if backend.config_rebuilds(model):
            continue
        name, kind = f"model '{model.name}'", type(model).__name__
        if backend.save_layer_by_layer(model):
            notes.append(
                f"{name} is saved as a plain model of Keras from now on, as "
                f"the config of its class {kind} does not know the new sizes"
            )
            continue
        message = (
            f"The config of class {kind} does not know the sizes that {name} "
            "has after units were removed, so a saved file could not be "
            "loaded. Let the class' `get_config` and `from_config` keep the "
            "parts themselves (by `keras.saving.serialize_keras_object`), or "
            "save the parts, or the weights alone (`save_weights`)."
        )
        backend.refuse_to_save(model, message)
        notes.append(message)
    return notes

"""Keeps what Keras compiles and JAX trains in step with a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


def sync_from_jax(model: keras.Model) -> None:
    """Brings values that JAX trains outside the model back into it."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def sync_to_jax(model: keras.Model) -> None:
    """Lets JAX go on training with the values that the model has now.

    Keras keeps the state after the last step beside the model, and puts it
    back where an epoch ends with data of unknown length.
    """
    if not getattr(model, "_jax_state", None):
        return
    owners = {
        "trainable_variables": (model, "trainable_variables"),
        "non_trainable_variables": (model, "non_trainable_variables"),
        "optimizer_variables": (getattr(model, "optimizer", None), "variables"),
        "metrics_variables": (model, "metrics_variables"),
    }
    model._jax_state = {
        name: [variable.value for variable in getattr(*owners[name])]
        for name in model._jax_state
    }


@contextlib.contextmanager
def beside_training(model: keras.Model) -> Iterator[None]:
    """Lets a model evaluate and predict in the middle of an epoch of `fit`.

    Keras' `evaluate` and `predict` forget the state that JAX keeps beside the
    model, which is needed where an epoch ends with data of unknown length.
    """
    sync_from_jax(model)
    state = getattr(model, "_jax_state", None)
    try:
        yield
    finally:
        if state:
            model._jax_state = state
        sync_to_jax(model)


def forget_compiled(model: keras.Model) -> None:
    """Drops compiled steps, which would go on with the old variables."""
    if not isinstance(model, keras.Model):  # A function of a graph.
        return
    for name, value in [*vars(model).items()]:
        # As Keras names them: `generate_function` of KerasHub is another.
        made = name.endswith("_function") and hasattr(model, f"make_{name}")
        if made and name != "train_function" and value is not None:
            setattr(model, name, None)
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)

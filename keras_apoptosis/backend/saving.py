"""Decides as what a model of a class with a config of its own is saved.

Keras saves a model as its class and its config. A class that makes all layers
from arguments of its own, as every KerasHub backbone does, cannot tell that
units were removed: the file is written, and cannot be loaded. Keras' own
Functional and Sequential models are saved layer by layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.trainers.trainer import Trainer

from keras_apoptosis.backend.layers import custom_parts, made_without_values
from keras_apoptosis.backend.models import as_function, follows_its_graph

PLAIN = (Functional, keras.Model, keras.Sequential)


def is_saved_layer_by_layer(model: keras.Model) -> bool:
    """Returns whether the config of a model consists of those of its layers."""
    kind = type(model)
    if kind in PLAIN:
        return True
    return (
        isinstance(model, Functional)
        and functional_like_constructor(kind)
        and kind.get_config is Functional.get_config
        and kind.from_config.__func__ is Functional.from_config.__func__
    )


def config_rebuilds(model: keras.Model) -> bool:
    """Returns whether a model's own config rebuilds its parts as they are.

    A config that cannot be made counts as one that does: Keras complains when
    the model is saved.

    Args:
        model: A model, whose class may have a config of its own.
    """
    try:
        config = model.get_config()
    except Exception:  # Whatever the class' own code may raise.
        return True
    try:
        with made_without_values(), custom_parts(model):
            twin = type(model).from_config(config)
            return _recorded_shapes(twin) == _recorded_shapes(model)
    except Exception:
        return False


def save_layer_by_layer(model: keras.Model) -> bool:
    """Makes a model be saved as a plain Functional or Sequential one.

    It stays the same object, and an instance of its class, with all of its
    methods; what is loaded is a plain model with the same predictions.

    Args:
        model: A model whose class has a config of its own.

    Returns:
        Whether that can be done: if the model has a graph, and its `call` is
        Keras' own.
    """
    if as_function(model) is None or not follows_its_graph(model):
        return False
    model.__class__ = _as_plain(type(model))
    return True


def refuse_to_save(model: keras.Model, message: str) -> None:
    """Makes saving a model an error with a message.

    Args:
        model: The model.
        message: What is wrong, and what to do.
    """

    def get_config(self: Any) -> dict[str, Any]:
        raise ValueError(message)

    kind = type(model)
    body = {"get_config": get_config, "__module__": kind.__module__}
    model.__class__ = type(kind.__name__, (kind,), body)


@contextlib.contextmanager
def seen_layer_by_layer(models: Iterable[keras.Model]) -> Iterator[None]:
    """Lets models with configs of their own have plain ones in a context."""
    before = [
        (each, type(each))
        for each in models
        if not is_saved_layer_by_layer(each)
    ]
    try:
        for each, _ in before:
            save_layer_by_layer(each)
        yield
    finally:
        for each, kind in before:
            each.__class__ = kind


def _as_plain(kind: Any) -> type:
    sequential = issubclass(kind, keras.Sequential)
    base: Any = keras.Sequential if sequential else Functional

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        # Only models that exist become of this class; copies are plain.
        return base(*args, **kwargs)

    def get_config(self: Any) -> Any:
        return base.get_config(self)

    def get_compile_config(self: Any) -> Any:
        # Arguments of a `compile` of its own mean nothing to a plain model.
        own = kind.compile is not Trainer.compile
        return None if own else kind.get_compile_config(self)

    body = {
        "__new__": __new__,
        "__init__": base.__init__,  # By its arguments Keras knows it.
        "get_config": get_config,
        "get_compile_config": get_compile_config,
        "from_config": classmethod(
            lambda cls, config, custom_objects=None: base.from_config(
                config, custom_objects
            )
        ),
        # By these Keras finds the class when the file is loaded.
        "__module__": "keras" if sequential else base.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(base.__name__, (kind,), body)


def _recorded_shapes(model: keras.Model) -> list[tuple]:
    """Returns the shapes of the weights of all parts with a recorded graph."""
    parts = [model] if as_function(model) is not None else model.layers
    return [
        tuple(variable.shape)
        for part in parts
        if as_function(part) is not None
        for variable in part.variables
    ]

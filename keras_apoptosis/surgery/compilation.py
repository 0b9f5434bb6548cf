"""Compiles a converted model as the model that it was made from."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis import backend


def compile_alike(source: keras.Model, target: keras.Model) -> None:
    """Compiles a model with the arguments of another.

    The target gets an optimizer and metrics of its own. The state of the
    optimizer is copied where both models train weights of the same shapes.

    Args:
        source: The model to take after. If it is not compiled, nothing is
            done.
        target: The model to compile.
    """
    arguments = backend.compile_arguments(source)
    if arguments is None:
        return
    optimizer = source.optimizer
    copy = type(optimizer).from_config(optimizer.get_config())
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_fresh, arguments[name])
    target.compile(**{**arguments, "optimizer": copy})
    if optimizer.built:
        copy.build(target.trainable_variables)
        with backend.only_saved(optimizer):
            before = list(optimizer.variables)
        after = list(copy.variables)
        if [tuple(v.shape) for v in before] == [tuple(v.shape) for v in after]:
            for old, new in zip(before, after, strict=True):
                new.assign(keras.ops.convert_to_numpy(old.value))


def _fresh(metric: Any) -> Any:
    """Returns a fresh copy of a metric; names and functions as they are."""
    if isinstance(metric, keras.Metric):
        return type(metric).from_config(metric.get_config())
    return metric

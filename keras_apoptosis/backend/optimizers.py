"""Reads and changes the private state of optimizers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend.layers import set_attributes


def weights_of(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """Returns the variables that an optimizer was built with, in order."""
    return list(optimizer._trainable_variables)


def steps_of(optimizer: keras.Optimizer) -> keras.Variable:
    """Returns how often an optimizer was applied.

    Where it accumulates gradients, its `iterations` count updates instead.
    """
    return optimizer._iterations


def innermost(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Returns the optimizer that updates weights: the one that another wraps.

    One that shares weights out among several others sees all gradients, and
    is taken for the innermost itself.
    """
    inner = _wrapped(optimizer)
    return innermost(inner[0]) if len(inner) == 1 else optimizer


def add_unsaved_variable(
    optimizer: keras.Optimizer, value: Any, dtype: Any = None
) -> keras.Variable:
    """Gives an optimizer a variable that its steps see and no file does.

    A step on JAX knows the variables of the optimizer's list only; other
    backends know every variable. Saving and loading see the list without it.

    Args:
        optimizer: A built optimizer; of one that wraps another, the outer.
        value: The first value.
        dtype: The type; that of floats by default.
    """
    variable = keras.Variable(
        np.asarray(value), dtype=dtype, trainable=False, name="unsaved"
    )
    if keras.backend.backend() == "jax":
        inner = innermost(optimizer)
        inner._variables.append(variable)
        unsaved = [*inner.__dict__.get("_unsaved", ()), variable]
        set_attributes(inner, {"_unsaved": unsaved})
        for each in with_inner(optimizer):
            for name in _STORING:
                method = functools.partial(_without_unsaved, each, name)
                set_attributes(each, {name: method})
    return variable


def drop_unsaved_variables(optimizer: keras.Optimizer) -> None:
    """Takes the variables of `add_unsaved_variable` from an optimizer."""
    for each in with_inner(optimizer):
        if "_unsaved" in each.__dict__:
            each._variables[:] = _saved(each)
        for name in ("_unsaved", *_STORING):
            each.__dict__.pop(name, None)


@contextlib.contextmanager
def only_saved(optimizer: keras.Optimizer) -> Iterator[None]:
    """Hides the variables of `add_unsaved_variable`."""
    inner = innermost(optimizer)
    if "_unsaved" not in inner.__dict__:
        yield
        return
    every = list(inner._variables)
    inner._variables[:] = _saved(inner)
    try:
        yield
    finally:
        inner._variables[:] = every


def reindex(optimizer: keras.Optimizer) -> None:
    """Lets an optimizer find its variables again after they changed.

    TensorFlow knows them by the backend's variable, which is a new one.
    """
    for each in with_inner(optimizer):
        if each.built:
            each._trainable_variables_indices = {
                each._var_key(variable): index
                for index, variable in enumerate(each._trainable_variables)
            }
        if hasattr(each, "_var_to_optimizer_idx"):
            each._var_to_optimizer_idx = {
                each._var_key(variable): number
                for number, inner in enumerate(each._inner_optimizers)
                for variable in inner._trainable_variables
            }


def with_inner(optimizer: keras.Optimizer) -> Iterator[keras.Optimizer]:
    """Yields an optimizer and those that it wraps."""
    yield optimizer
    for each in _wrapped(optimizer):
        yield from with_inner(each)


def _wrapped(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    return [
        each
        for value in list(vars(optimizer).values())
        for each in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(each, keras.Optimizer)
    ]


_STORING = ("save_own_variables", "load_own_variables")


def _saved(optimizer: keras.Optimizer) -> list[keras.Variable]:
    unsaved = {id(each) for each in optimizer.__dict__.get("_unsaved", ())}
    return [each for each in optimizer._variables if id(each) not in unsaved]


def _without_unsaved(optimizer: keras.Optimizer, name: str, store: Any) -> Any:
    with only_saved(optimizer):
        return getattr(type(optimizer), name)(optimizer, store)

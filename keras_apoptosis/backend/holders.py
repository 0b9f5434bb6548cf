"""Finds what else holds the layers and weights of a model.

A feature extractor, a model around a backbone, the optimizers of a GAN or a
training loop of one's own share layers with a model and go on with the old
variables unless they follow when it shrinks. No object of Keras knows them
all, but Python's garbage collector does.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import sys
from collections.abc import Iterable
from typing import Any

import keras

from keras_apoptosis.backend.models import as_function, models_of
from keras_apoptosis.backend.optimizers import weights_of, with_inner
from keras_apoptosis.backend.torch_parallel import wrapper_classes


@dataclasses.dataclass(frozen=True, eq=False)
class Holders:
    """Finds what else holds layers or weights of a model.

    Args:
        models: All models that share weights with it, and models nested in
            those: the model itself first.
        optimizers: Built optimizers of Keras that train some of its weights,
            without those that another wraps.
        torch_optimizers: Optimizers of PyTorch that do.
        torch_wrappers: Wrappers of PyTorch that train them on several workers.
    """

    models: tuple[Any, ...]
    optimizers: tuple[keras.Optimizer, ...]
    torch_optimizers: tuple[Any, ...]
    torch_wrappers: tuple[Any, ...] = ()


def holders_of(model: keras.Model) -> Holders:
    """Finds what holds the layers and weights of a model.

    Args:
        model: The model.

    Returns:
        All live objects that hold some of them.
    """
    weights = {id(variable) for variable in model.variables}
    wrappers = wrapper_classes()
    found = _live(
        keras.Model, keras.Function, keras.Optimizer, *_torch(), *wrappers
    )
    models = [
        each
        for each in found
        if isinstance(each, (keras.Model, keras.Function))
        and _shares(each, weights)
    ]
    optimizers = [
        each
        for each in [getattr(model, "optimizer", None), *found]
        if isinstance(each, keras.Optimizer) and _trains(each, weights)
    ]
    inner = {id(i) for each in optimizers for i in list(with_inner(each))[1:]}
    parameters = {id(variable._value) for variable in model.variables}
    torch_optimizers = [
        each
        for each in found
        if not isinstance(each, (keras.Model, keras.Function, keras.Optimizer))
        and any(
            id(parameter) in parameters
            for group in getattr(each, "param_groups", ())
            for parameter in group["params"]
        )
    ]
    return Holders(
        _distinct(inside for each in [model, *models] for inside in _all(each)),
        _distinct(each for each in optimizers if id(each) not in inner),
        _distinct(torch_optimizers),
        _distinct(
            each
            for each in found
            if isinstance(each, wrappers) and _wraps(each, parameters)
        ),
    )


def _all(model: Any) -> Iterable[Any]:
    return models_of(model) if isinstance(model, keras.Model) else [model]


def _shares(model: Any, weights: set[int]) -> bool:
    try:
        operations = [model]
        if as_function(model) is None and isinstance(model, keras.Function):
            operations = model.operations
        return any(
            id(variable) in weights
            for each in operations
            for variable in getattr(each, "variables", ())
        )
    except AttributeError:  # It is not made to its end.
        return False


def _trains(optimizer: keras.Optimizer, weights: set[int]) -> bool:
    return getattr(optimizer, "built", False) and any(
        id(variable) in weights for variable in weights_of(optimizer)
    )


def _wraps(wrapper: Any, parameters: set[int]) -> bool:
    return any(id(each) in parameters for each in wrapper.parameters())


def _torch() -> tuple[type, ...]:
    if keras.backend.backend() != "torch":
        return ()
    return (sys.modules["torch"].optim.Optimizer,)


def _live(*kinds: type) -> list[Any]:
    """Returns all live objects of some classes and their subclasses."""
    wanted: set[type] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        if kind not in wanted:
            wanted.add(kind)
            waiting.extend(type.__subclasses__(kind))
    # By type, as `isinstance` wakes up objects that load themselves lazily, and
    # without a loop in Python, as there are half a million.
    every = gc.get_objects()
    chosen = map(wanted.__contains__, map(type, every))
    return list(itertools.compress(every, chosen))


def _distinct(objects: Iterable[Any]) -> tuple[Any, ...]:
    return tuple({id(each): each for each in objects}.values())

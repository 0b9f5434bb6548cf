"""Knows on which devices a model's variables lie."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_apoptosis.backend.gradients import no_gradients
from keras_apoptosis.backend.replicas import strategy_of


def check_devices(model: keras.Model) -> None:
    """Raises a `ValueError` if a model lies on devices out of reach.

    Args:
        model: A built model.
    """
    places = [model, *(variable.value for variable in model.variables)]
    for strategy in filter(None, map(strategy_of, places)):
        if type(strategy).__name__ != "MirroredStrategy":
            raise ValueError(
                "Of the strategies of `tf.distribute`, `MirroredStrategy` is "
                "supported. On several hosts use `ka.distributed`. Received: "
                f"model '{model.name}' under {type(strategy).__name__}"
            )
    for variable in model.variables:
        if not _in_reach(variable.value):
            raise ValueError(
                "Expected each process to hold every weight, whole or split "
                "over devices of its own. Received: model "
                f"'{model.name}', whose weight '{variable.path}' is split "
                "over several processes"
            )


def split_of(model: keras.Model) -> int:
    """Returns into how many slices devices split the weights of a model.

    Widths must be multiples of it.

    Args:
        model: A built model.
    """
    counts = {1}
    for variable in model.variables:
        sharding = getattr(variable.value, "sharding", None)
        if sharding is not None:
            shape = tuple(variable.shape)
            parts = zip(shape, sharding.shard_shape(shape), strict=True)
            counts.update(whole // part for whole, part in parts if part)
    return math.lcm(*counts)


def check_split(variable: keras.Variable, shape: tuple[int, ...]) -> None:
    """Raises a `ValueError` if a variable of a new shape cannot be split.

    Args:
        variable: A variable, possibly with a layout of `keras.distribution`.
        shape: The shape that it is to have.
    """
    sharding = getattr(variable.value, "sharding", None)
    if sharding is None:
        return
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        raise ValueError(
            "Expected sizes that the devices can share evenly: the "
            f"`keras.distribution` splits weight '{variable.path}' by "
            f"{sharding.spec} over devices {dict(sharding.mesh.shape)}. Let "
            "methods round the number of units that stay (`round_to`), or "
            f"leave the group out. Received: new shape {shape}"
        ) from error


def local_value(variable: keras.Variable) -> Any:
    """Returns a variable's value on the devices of this process.

    Processes of a JAX program hold copies of each variable, and a tensor of
    all of them does not mix with one of this process alone.
    """
    value = variable.value
    if keras.backend.backend() == "jax" and not value.is_fully_addressable:
        return value.addressable_data(0)
    return value


def local_values(layer: keras.Layer) -> list[tuple[keras.Variable, Any]]:
    """Returns the variables of a layer that lie elsewhere too, with values.

    Args:
        layer: A built layer or model.

    Returns:
        Each with its value here, as a `keras.StatelessScope` takes them.
    """
    if keras.backend.backend() != "jax":
        return []
    return [
        (each, local_value(each))
        for each in layer.variables
        if not each.value.is_fully_addressable
    ]


@contextlib.contextmanager
def inference_scope(layer: keras.Layer) -> Iterator[None]:
    """Lets a layer or model run on data of this process, leaving no trace.

    Nothing that it assigns reaches its variables, and nothing is recorded for
    gradients.

    Args:
        layer: A built layer or model.
    """
    with no_gradients(), keras.StatelessScope(local_values(layer)):
        yield


def _in_reach(value: Any) -> bool:
    return (
        keras.backend.backend() != "jax"
        or value.is_fully_addressable
        or value.is_fully_replicated
    )

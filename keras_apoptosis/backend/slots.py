"""Tells which variables of an optimizer follow which weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend.optimizers import (
    only_saved,
    weights_of,
    with_inner,
)


def slots_of(
    optimizer: keras.Optimizer, variables: Sequence[keras.Variable]
) -> list[tuple[keras.Variable, list[tuple[int, int] | None]]]:
    """Finds an optimizer's variables that belong to each of some weights.

    It lets a fresh optimizer of the same class build itself on stand-ins
    whose shapes remember where each number comes from, so that it holds for
    any optimizer, however it derives the shapes of its slots.

    Args:
        optimizer: A built optimizer.
        variables: The model's trainable variables, as it was built with.

    Returns:
        For each of its variables that follows the model: the variable and,
        for each of its axes, `(index into variables, axis)`, or `None` for an
        axis of its own.

    Raises:
        ValueError: If the optimizer builds other variables than it has.
    """
    twin = type(optimizer).from_config(optimizer.get_config())
    for each in with_inner(twin):
        for name, value in (
            ("add_variable", functools.partial(_add_stand_in, each)),
            (
                "add_variable_from_reference",
                functools.partial(_add_stand_in_from_reference, each),
            ),
            ("assign", lambda variable, value: None),
        ):
            each.__dict__[name] = value
    twin.build([_Reference(v, i) for i, v in enumerate(variables)])
    with only_saved(optimizer):
        own = optimizer.variables
    built = twin.variables
    if len(own) != len(built):
        raise ValueError(
            f"Cannot tell which variables of optimizer '{optimizer.name}' "
            f"belong to which weights: it has {len(own)}, a new one builds "
            f"{len(built)}. Received: optimizer={optimizer}"
        )
    found = []
    for variable, slot in zip(own, built, strict=True):
        if isinstance(slot, _StandIn):
            axes = [getattr(size, "origin", None) for size in slot.shape]
            if any(axis is not None for axis in axes):
                found.append((variable, axes))
    return found


class _Size(int):
    """A size that remembers whose it is: `(variable, axis)`."""

    origin: tuple[int, int]


class _Reference:
    """Stands in for a model's variable while an optimizer builds itself."""

    def __init__(self, variable: keras.Variable, index: int):
        self._variable = variable
        self._unique_id = id(self)  # By which TensorFlow's optimizers know it.
        sizes = []
        for axis, size in enumerate(variable.shape):
            sizes.append(_Size(size))
            sizes[-1].origin = (index, axis)
        self.shape = tuple(sizes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._variable, name)


class _StandIn:
    """Stands in for an optimizer's variable; only its shape is known."""

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)


def _add_stand_in(
    optimizer: Any, shape: Sequence[int], *args: Any, **kwargs: Any
) -> _StandIn:
    slot = _StandIn(shape)
    optimizer._track_variable(slot)
    return slot


def _add_stand_in_from_reference(
    optimizer: Any, reference_variable: Any, *args: Any, **kwargs: Any
) -> _StandIn:
    return _add_stand_in(optimizer, reference_variable.shape)


def clear_slots(
    optimizer: keras.Optimizer, masks: Mapping[int, np.ndarray]
) -> None:
    """Puts the slots of masked weights back to where they started.

    What momentum there is would go on moving a masked weight, and scale its
    first steps should the mask be lifted. Slots that have other axes than
    their weight, as the rows and columns of Adafactor, hold no numbers of
    single weights and stay.

    Args:
        optimizer: A built optimizer.
        masks: For weights, by `id`, their mask: boolean, `False` where the
            weight is masked.
    """
    weights = weights_of(optimizer)
    for slot, axes in slots_of(optimizer, weights):
        index, _ = next(axis for axis in axes if axis is not None)
        mask = masks.get(id(weights[index]))
        if mask is None or axes != [(index, a) for a in range(mask.ndim)]:
            continue
        value = ops.convert_to_numpy(slot.value)
        start = np.asarray(_start(optimizer, slot), value.dtype)
        slot.assign(np.where(mask, value, start))


def _start(optimizer: keras.Optimizer, slot: keras.Variable) -> float:
    """Returns the initial value of a slot: 0 except for some accumulators.

    With 0 in its accumulator Ftrl divides by it.
    """
    if slot.name.endswith("_accumulator") and "gradient" not in slot.name:
        return getattr(optimizer, "initial_accumulator_value", 0.0)
    return 0.0

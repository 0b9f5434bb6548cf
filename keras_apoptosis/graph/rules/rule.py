"""The base class of rules, and the simplest ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_apoptosis.graph.call import Call
from keras_apoptosis.graph.units import (
    Axes,
    Function,
    Sum,
    Transfer,
    Unknown,
)

# Weights of Prunable layers that hold one entry a unit.
STATISTICS = {
    "statistics_total": 0,
    "statistics_max_abs": 0,
    "statistics_active": 0,
}


class Rule:
    """Base class of the ways in which operations treat units.

    A rule reads `call.inputs` (for each input, its `Units` by axis), records
    on `call` which slices of which weights units own, and returns the units
    of the outputs in the same form, or nothing if no output has units. Units
    that it cannot follow it holds back, with a reason.
    """

    def trace(self, call: Call) -> Sequence[Axes] | None:
        raise NotImplementedError


def channel_axis(layer: Any, shape: tuple) -> int:
    """Returns the axis that a layer takes as its channels."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else len(shape) - 1


def operands(call: Call) -> list[tuple[tuple, Axes]]:
    """Returns shape and units of what a call brings together.

    That is a list in its first argument, in which constants may stand beside
    tensors.
    """
    tensors = iter(zip(call.input_shapes, call.inputs, strict=True))
    if call.step is None:
        return list(tensors)
    args, kwargs = call.step.arguments
    given = args[0] if args else kwargs[next(iter(call.step.given))]
    return [
        next(tensors)
        if isinstance(each, keras.KerasTensor)
        else (tuple(np.shape(each)), {})
        for each in keras.tree.flatten(given)
        if each is not None
    ]


def each_by_itself(
    call: Call, axes: Axes, transfer: Transfer, output: int = 0
) -> Axes:
    """Returns units with new values, each computed from its own alone."""
    made = {}
    for axis, units in axes.items():
        call.carry(units)
        made[axis] = call.emit(axis, units.labels, transfer, [units], output)
    return made


def surfaced(call: Call, axes: Axes, output: int = 0) -> Axes:
    """Returns units made inside a layer, as its output has them."""
    return {
        axis: call.emit(axis, units.labels, Sum(), [units], output)
        for axis, units in axes.items()
    }


@dataclasses.dataclass(frozen=True)
class Elementwise(Rule):
    """Acts on every entry by itself and makes new values.

    Args:
        weights: Attribute names of weights that hold one slice a unit, with
            their axis of the units. The units are those along the input's
            last axis.
        homogeneous: Whether `f(αx) = α f(x)` for every `α > 0`, the same for
            all units. Ignored where there are weights.
        size: Config entry that holds the number of units, if there is one.
    """

    weights: Mapping[str, int] = dataclasses.field(default_factory=dict)
    homogeneous: bool = False
    size: str | None = None

    def trace(self, call: Call) -> Sequence[Axes]:
        transfer = Unknown() if self.weights else Function(self.homogeneous)
        made = []
        for number, axes in enumerate(call.inputs):
            units = axes.get(len(call.input_shapes[number]) - 1)
            if units is not None:
                call.own(units.labels, self.weights)
                if self.size is not None:
                    call.resize(self.size, units.labels)
            made.append(each_by_itself(call, axes, transfer, number))
        return made


@dataclasses.dataclass(frozen=True)
class Passing(Rule):
    """Leaves values as they are (in inference), or only moves positions.

    Args:
        channels: Whether the units must lie on the channel axis.
        pads: Whether it adds zeros around the positions.
    """

    channels: bool = False
    pads: bool = False

    def trace(self, call: Call) -> Sequence[Axes]:
        made = []
        for axes, shape in zip(call.inputs, call.input_shapes, strict=True):
            passing = dict(axes)
            for axis, units in axes.items():
                if self.channels and axis != channel_axis(call.layer, shape):
                    call.hold("pads or crops the axis of the units", [units])
                    del passing[axis]
                else:
                    call.carry(units)
                    padded = units.padded or self.pads
                    passing[axis] = dataclasses.replace(units, padded=padded)
            made.append(passing)
        return made


@dataclasses.dataclass(frozen=True)
class Noise(Passing):
    """Changes values in training only, by noise of a shape that may be set."""

    def trace(self, call: Call) -> Sequence[Axes]:
        shape = getattr(call.layer, "noise_shape", None) or ()
        first = len(call.input_shapes[0]) - len(shape)
        for axis, units in call.inputs[0].items():
            place = axis - first
            if place >= 0 and shape[place] not in (None, 1):
                call.resize(("noise_shape", place), units.labels)
        return super().trace(call)


class Border(Rule):
    """Passes a tensor across the border of a nested model."""

    def trace(self, call: Call) -> Sequence[Axes]:
        if isinstance(call.layer, layers.InputLayer):
            for axis, units in call.inputs[0].items():
                call.resize(("batch_shape", axis), units.labels)
        return call.inputs

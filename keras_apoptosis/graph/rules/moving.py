"""Rules of operations that only move entries."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import config, ops

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.rule import Rule, channel_axis
from keras_apoptosis.graph.units import (
    FIXED,
    Axes,
    Sum,
    Transfer,
    Units,
    Unknown,
)

OTHER = -1  # Marks numbers other than zero that an operation adds.
UNKNOWN_SIZE = 3  # Stands in for sizes that are known at run time only.


@dataclasses.dataclass(frozen=True)
class Moving(Rule):
    """Moves entries, repeats them, drops some, or adds others.

    Where they go is asked of the operation itself: it is run on an array
    that holds each entry's place along the units' axis.

    Args:
        sizes: Config entry (of a layer) or attribute (of a function) that
            holds the shape of the output; `""` where there is none.
        batch: Whether that shape begins with the batch.
    """

    sizes: str = ""
    batch: bool = True

    def trace(self, call: Call) -> Sequence[Axes]:
        made = self.along(call, call.inputs[0])
        if self.sizes:
            self._follow(call, made[0])
        return made

    def along(self, call: Call, axes: Axes) -> list[dict[int, Units]]:
        """Returns where some of the input's units end up, by output."""
        made: list[dict[int, Units]] = [{} for _ in call.output_shapes]
        for axis, units in axes.items():
            places = np.arange(units.labels.size)
            try:
                moved = _moved(call, axis, places)
                fixed = not self.sizes and _by_place(call, axis, moved)
            except Exception as error:  # Whatever the operation objects to.
                call.hold(f"cannot be traced ({error})", [units])
                continue
            if fixed:
                call.hold("selects units by their position", [units])
                continue
            for result, index in zip(made, moved, strict=True):
                landed = _landed(call, units, index)
                if landed is None:
                    continue
                call.carry(landed)
                if landed.axis in result:
                    why = "merges two kinds of units into one axis"
                    call.hold(why, [landed, result[landed.axis]])
                else:
                    result[landed.axis] = landed
        return made

    def _follow(self, call: Call, made: Axes) -> None:
        """Lets the shape given to the operation follow the units."""
        told = getattr(call.layer, self.sizes)
        first = 0 if self.batch else 1
        for axis, units in made.items():
            if told[axis - first] != -1:
                call.resize((self.sizes, axis - first), units.labels)


class Splitting(Rule):
    """Splits an axis into pieces.

    Pieces of one size stay equal if the units at the same place of each leave
    together. Where pieces begin at places that are given, those follow.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        along = layer.axis % len(call.input_shapes[0])
        made: list[dict[int, Units]] = [{} for _ in call.output_shapes]
        for axis, units in axes.items():
            call.carry(units)
            if axis != along:
                for result in made:
                    result[axis] = units
                continue
            ends = layer.indices_or_sections
            labels = np.split(units.labels, ends)
            sources = np.split(units.sources, ends)
            for result, label, source in zip(
                made, labels, sources, strict=True
            ):
                if isinstance(ends, int):
                    call.tie(labels[0], label)
                result[axis] = Units(axis, label, source, units.padded)
            for place, end in enumerate(() if isinstance(ends, int) else ends):
                call.resize(
                    ("indices_or_sections", place),
                    units.labels,
                    functools.partial(_before, int(end)),
                )
        return made


class Unstacking(Rule):
    """`unstack`: takes an axis apart."""

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,) = call.inputs
        along = call.layer.axis % len(call.input_shapes[0])
        made = {}
        for axis, units in axes.items():
            if axis == along:
                call.hold("takes them apart", [units])
                continue
            call.carry(units)
            place = axis - (axis > along)
            made[place] = dataclasses.replace(units, axis=place)
        return [dict(made) for _ in call.output_shapes]


@dataclasses.dataclass(frozen=True)
class Positions(Rule):
    """Computes new values of neighboring positions, channel by channel.

    Args:
        transfer: How.
    """

    transfer: Transfer

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,) = call.inputs
        own = channel_axis(call.layer, call.input_shapes[0])
        others = [units for axis, units in axes.items() if axis != own]
        call.hold("pools over the units", others)
        if own not in axes:
            return [NONE]
        units = axes[own]
        call.carry(units)
        shape = call.output_shapes[0]
        axis = 1 if len(shape) == 2 else channel_axis(call.layer, shape)
        if getattr(call.layer, "keepdims", False):
            axis = own
        made = call.emit(axis, units.labels, self.transfer, [units])
        return [{axis: made}]


class UpSampling(Rule):
    """Repeats positions, or interpolates between them: `UpSampling*`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        interpolation = getattr(call.layer, "interpolation", "nearest")
        linear = interpolation in ("nearest", "bilinear")
        rule = Positions(Sum() if linear else Unknown())
        return rule.trace(call)


def _moved(call: Call, axis: int, places: np.ndarray) -> list[np.ndarray]:
    """Returns where entries come from: 1 + their place along an axis.

    Zeros that are added have a 0, other numbers that are added `OTHER`.

    Args:
        call: The call.
        axis: The axis.
        places: The places that there are.
    """
    shape = [UNKNOWN_SIZE if n is None else n for n in call.input_shapes[0]]
    if call.input_shapes[0][0] is None:
        shape[0] = _whole_batch(call.input_shapes[0], call.output_shapes)
    shape[axis] = places.size
    row = [-1 if a == axis else 1 for a in range(len(shape))]
    index = np.broadcast_to((1.0 + places).reshape(row), shape)
    with keras.StatelessScope():
        moved, added = (
            keras.tree.flatten(_run(call, ops.convert_to_tensor(each)))
            for each in (index.astype("float32"), np.zeros(shape, "float32"))
        )
    return [
        np.where(
            ops.convert_to_numpy(new) == 0, ops.convert_to_numpy(old), OTHER
        ).astype(int)
        for old, new in zip(moved, added, strict=True)
    ]


def _whole_batch(given: tuple, made: Sequence[tuple]) -> int:
    """Returns a size of the batch of which whole entries come out."""
    into, *out = (shape[1:] for shape in (given, *made))
    if len(out) > 1 or None in (*into, *out[0]):
        return 1
    wanted, size = math.prod(out[0]), math.prod(into)
    return wanted // math.gcd(wanted, size)


def _by_place(call: Call, axis: int, moved: list[np.ndarray]) -> bool:
    """Returns whether it would move other entries if some were missing.

    A slice of the first three, say, or a roll by one.
    """
    size = call.input_shapes[0][axis]
    for some in (slice(1, None), slice(None, -1), slice(None, None, 2)):
        kept = np.arange(size)[some]
        if not kept.size:
            continue
        for whole, part in zip(moved, _moved(call, axis, kept), strict=True):
            if not np.array_equal(
                whole[np.isin(whole, kept + 1)], part[part > 0]
            ):
                return True
    return False


def _run(call: Call, value: Any) -> Any:
    # `call`, not `__call__`: mixed precision would round large places.
    if call.step is None:
        return call.layer.call(value)
    args, kwargs = call.step.filled([value])
    return call.layer.call(*args, **kwargs)


def _landed(call: Call, units: Units, index: np.ndarray) -> Units | None:
    """Returns the units of an output, by where its entries come from."""
    varying = [
        axis
        for axis, size in enumerate(index.shape)
        if size > 1 and (np.diff(index, axis=axis) != 0).any()
    ]
    if units.labels.size == 1 or not varying:  # One, or one that was picked.
        alone = [a for a in range(1, index.ndim) if index.shape[a] == 1]
        if units.labels.size > 1 or not alone:
            call.hold("selects a single unit", [units])
            return None
        varying = [units.axis if units.axis in alone else alone[-1]]
    first = config.image_data_format() == "channels_first"
    axis = varying[0 if first else -1]
    if 0 in varying:
        call.hold("moves the units to the batch axis", [units])
        return None
    rows = np.moveaxis(index, axis, -1).reshape(-1, index.shape[axis])
    rows = np.unique(rows, axis=0) - 1
    # Zeros that were added around positions hold no unit, nor any position.
    held = (rows >= 0).any(1)
    if (rows[~held] < -1).any():
        call.hold("pads the units with values other than zero", [units])
        return None
    padded = units.padded or not held.all()
    rows = rows[held]
    labels = np.where(rows < 0, FIXED, units.labels[rows])
    sources = np.where(rows < 0, FIXED, units.sources[rows])
    # An axis cut in two: what stands in one column leaves together.
    for row in labels[1:]:
        call.tie(labels[0], row)
    if (sources != sources[0]).any():
        return call.emit(axis, labels[0], Unknown(), [units])
    return Units(axis, labels[0], sources[0], padded)


def _before(place: int, kept: np.ndarray) -> int:
    """Returns how many stay of those before a place."""
    return int(np.searchsorted(kept, place))

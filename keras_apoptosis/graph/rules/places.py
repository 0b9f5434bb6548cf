"""Rules of functions that read fixed places along the axis of the units.

What they are told of the places is worked out anew for the units that stay.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_apoptosis.backend.arguments import is_array, like
from keras_apoptosis.graph.call import Call
from keras_apoptosis.graph.rules.moving import Moving
from keras_apoptosis.graph.rules.rule import Rule
from keras_apoptosis.graph.units import Axes, Units, Unknown


class Entry(NamedTuple):
    """Part of a key: its place there, and the axis that it becomes."""

    path: tuple
    value: Any
    axis: int


class Indexing(Rule):
    """Takes slices: `x[..., :n]`.

    Along the axis of the units those of neighbors are followed, and those of
    each n-th, where all of n neighbors leave together.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,), shape = call.inputs, call.input_shapes[0]
        found = dict(_entries(call, len(shape)))
        made, rest = {}, {}
        for axis, units in axes.items():
            entry = found.get(axis)
            if entry is None or not isinstance(entry.value, slice):
                rest[axis] = units
                continue
            picked = self._picked(call, units, entry)
            if picked is None:
                rest[axis] = units
            else:
                made[picked.axis] = picked
        (others,) = Moving().along(call, rest)
        return [{**others, **made}]

    def _picked(self, call: Call, units: Units, entry: Entry) -> Units | None:
        size, key = units.labels.size, entry.value
        start, stop, step = key.indices(size)
        if step < 1 or len(range(start, stop, step)) in (0, size):
            return None
        if step > 1:
            if size % step or start >= step or stop <= size - step + start:
                return None
            for column in units.labels.reshape(-1, step).T[1:]:
                call.tie(units.labels[::step], column)
        call.place(entry.path, units.labels, functools.partial(_cut, key, size))
        call.carry(units)
        return picked(units, np.arange(start, stop, step), entry.axis)


class Slice(Rule):
    """Takes a slice by its beginning and its shape: `slice`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        starts = call.constant(1)
        if starts is None or not is_array(starts):
            call.hold("takes a slice whose beginning is not known")
            return [{}]
        made = {}
        for axis, units in call.inputs[0].items():
            start, size = int(starts[axis]), call.output_shapes[0][axis]
            where = np.arange(start, start + size)
            call.place(
                (0, 1, axis), units.labels, functools.partial(_before, start)
            )
            made[axis] = picked(units, where, axis)
            call.resize(("shape", axis), made[axis].labels)
            call.carry(units)
        return [made]


class Rolling(Rule):
    """Rolls entries along an axis: `roll`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,), shift = call.inputs, call.layer.shift
        along = call.layer.axis
        if not isinstance(shift, int) or not isinstance(along, int):
            return Moving().trace(call)
        made = {}
        for axis, units in axes.items():
            call.carry(units)
            made[axis] = units
            if axis == along % len(call.input_shapes[0]):
                size = units.labels.size
                where = np.roll(np.arange(size), shift)
                made[axis] = picked(units, where, axis)
                value = functools.partial(_rolled, shift, size)
                call.resize("shift", units.labels, value)
        return [made]


class Lookup(Rule):
    """`take`: of a tensor with constant indices, or of a weight's rows."""

    def trace(self, call: Call) -> Sequence[Axes]:
        axis, shape = call.layer.axis, call.input_shapes[0]
        if len(call.inputs) < 2:
            indices = call.constant(1)
            if axis is None or indices is None or np.ndim(indices) != 1:
                return Moving().trace(call)
            rest = dict(call.inputs[0])
            units = rest.pop(axis % len(shape), None)
            (made,) = Moving().along(call, rest)
            if units is None:
                return [made]
            where = np.asarray(ops.convert_to_numpy(indices))
            where = where % units.labels.size
            value = functools.partial(_found, indices, units.labels.size)
            call.place((0, 1), units.labels, value)
            call.carry(units)
            return [{**made, units.axis: picked(units, where, units.axis)}]
        axes, rows = call.inputs
        picks = call.input_shapes[1]
        call.hold("looks up by them", rows.values())
        if axis is None:
            call.hold("looks entries up", axes.values())
            return [{}]
        axis %= len(shape)
        found = {}
        for place, units in axes.items():
            if place == axis:
                call.hold("looks entries up along them", [units])
                continue
            call.carry(units)
            if place > axis:
                place += len(picks) - 1
            found[place] = call.emit(place, units.labels, Unknown(), [units])
        return [found]


def picked(units: Units, where: np.ndarray, axis: int) -> Units:
    """Returns the units at some places."""
    return Units(axis, units.labels[where], units.sources[where], units.padded)


def _entries(call: Call, rank: int) -> Iterator[tuple[int, Entry]]:
    """Yields what the key of a slice says of axes, by axis of the input."""
    key = call.constant(1)
    several = isinstance(key, (list, tuple))
    parts = list(key) if several else [key]
    known = all(
        each is None or each is Ellipsis or isinstance(each, (int, slice))
        for each in parts
    )
    if not known:
        return
    hidden = rank - sum(each not in (None, Ellipsis) for each in parts)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    axis = made = 0
    for place, each in enumerate(parts):
        if each is None:
            made += 1
        elif each is Ellipsis:
            axis, made = axis + hidden, made + hidden
        else:
            path = (0, 1, place) if several else (0, 1)
            yield axis, Entry(path, each, made)
            axis, made = axis + 1, made + isinstance(each, slice)


def _before(place: int, kept: np.ndarray) -> int:
    return int(np.searchsorted(kept, place))


def _cut(key: slice, size: int, kept: np.ndarray) -> slice:
    """Returns a slice of what stays, in the form of the one of all."""

    def bound(given: int | None, place: int) -> int | None:
        if given is None or given > size:
            return given
        before = _before(place, kept)
        return (
            before - kept.size if given < 0 and before < kept.size else before
        )

    start, stop, _ = key.indices(size)
    return slice(bound(key.start, start), bound(key.stop, stop), key.step)


def _rolled(shift: int, size: int, kept: np.ndarray) -> int:
    if shift < 0:
        return -_before(-shift % size, kept)
    return kept.size - _before(size - shift % size, kept)


def _found(indices: Any, size: int, kept: np.ndarray) -> Any:
    """Returns the indices of what stays."""
    where = np.full(size, -1)
    where[kept] = np.arange(kept.size)
    new = where[np.asarray(ops.convert_to_numpy(indices)) % size]
    return like(indices, new[new >= 0])

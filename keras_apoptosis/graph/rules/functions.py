"""Rules of `keras.ops` functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_apoptosis.backend.arguments import Along, is_array
from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.merging import contracted, count, merged
from keras_apoptosis.graph.rules.rule import (
    Rule,
    channel_axis,
    each_by_itself,
    operands,
)
from keras_apoptosis.graph.units import Axes, Function, Sum, Transfer, Unknown


@dataclasses.dataclass(frozen=True)
class Arithmetic(Rule):
    """Combines two operands, each a tensor or a constant, entry by entry.

    Args:
        linear: Whether two tensors give a fixed weighted sum.
        homogeneous: Whether a tensor and a number give a multiple of it.
    """

    linear: bool = False
    homogeneous: bool = False

    def trace(self, call: Call) -> Sequence[Axes]:
        operands = list(_operands(call))
        shapes = [each.shape for each in operands]
        constants = [n for n, each in enumerate(operands) if each.axes is None]
        if len(call.inputs) == 1 and all(
            np.prod(shapes[n]) == 1
            and len(shapes[n]) <= len(call.input_shapes[0])
            for n in constants
        ):
            first = bool(self.homogeneous and 0 not in constants)
            return [each_by_itself(call, call.inputs[0], Function(first))]
        transfer: Transfer = Sum() if self.linear else Unknown()
        inputs = [each.axes or NONE for each in operands]
        # What was computed of weights changes with them.
        computed = getattr(call.recorded.node, "computed", None)
        arrays = [
            n for n in constants if is_array(operands[n].value) and not computed
        ]
        made = merged(call, inputs, shapes, transfer, cut=arrays)
        for n in arrays:
            shift = len(call.output_shapes[0]) - len(shapes[n])
            for axis, units in made.items():
                along = axis - shift
                if along >= 0 and shapes[n][along] > 1:
                    path = (*operands[n].path, Along(along))
                    call.place(path, units.labels, np.asarray)
        return [made]


class Unequal(Rule):
    """Compares with a number; with 0, units that are zero stay zero."""

    def trace(self, call: Call) -> Sequence[Axes]:
        step = call.recorded
        args, _ = step.filled([None] * len(step.inputs))
        values = [value for value in args if value is not None]
        if len(call.inputs) > 1 or any(np.any(value) for value in values):
            call.hold("compares the units with values other than zero")
            return [NONE]
        return [each_by_itself(call, call.inputs[0], Function(False))]


class Einsum(Rule):
    """Multiplies tensors by an equation with each letter once in each."""

    def trace(self, call: Call) -> Sequence[Axes]:
        equation = call.layer.subscripts.replace(" ", "")
        into, arrow, out = equation.partition("->")
        shapes = [each.shape for each in _operands(call)]
        if not arrow:
            call.works(None)
            call.hold(f"has the equation '{equation}', which is not supported")
            return [NONE]
        letters = [
            _lettered(each, len(shape))
            for each, shape in zip(into.split(","), shapes, strict=True)
        ]
        out = _lettered(out, len(call.output_shapes[0]))
        if len(letters) != len(call.inputs) or any(
            len(set(each)) < len(each) for each in letters
        ):
            count(call, [(each, NONE) for each in letters], out, shapes)
            call.hold(f"has the equation '{equation}', which is not supported")
            return [NONE]
        operands = list(zip(letters, call.inputs, strict=True))
        return [contracted(call, operands, out)]


def _lettered(axes: str, rank: int) -> str:
    """Returns a digit for each axis that an ellipsis stands for."""
    hidden = rank - len(axes.replace("...", ""))
    return axes.replace("...", "".join(map(str, range(hidden)))[::-1])


class Matmul(Rule):
    """Multiplies two tensors as matrices."""

    def trace(self, call: Call) -> Sequence[Axes]:
        if len(call.inputs) != 2 or any(len(s) < 2 for s in call.input_shapes):
            made, read = call.output_shapes[0], next(_operands(call)).shape[-1]
            call.works(*made[1:], read)
            call.hold("multiplies the units by a constant or a vector")
            return [NONE]
        first, second = (len(shape) for shape in call.input_shapes)
        batch = "abcdefghijklmnop"[: max(first, second) - 2]
        operands = [
            (batch[len(batch) - first + 2 :] + "xy", call.inputs[0]),
            (batch[len(batch) - second + 2 :] + "yz", call.inputs[1]),
        ]
        return [contracted(call, operands, f"{batch}xz")]


class Tensordot(Rule):
    """Multiplies two tensors, summed over some axes of each."""

    def trace(self, call: Call) -> Sequence[Axes]:
        if len(call.inputs) != 2:
            made, read = call.output_shapes[0], call.input_shapes[0][-1]
            call.works(*made[1:], read)
            call.hold("multiplies the units by a constant")
            return [NONE]
        axes = call.layer.axes
        first, second = (len(shape) for shape in call.input_shapes)
        if isinstance(axes, int):
            axes = [[*range(first - axes, first)], [*range(axes)]]
        pairs = [[a] if isinstance(a, int) else [*a] for a in axes]
        one = [*"abcdefghijklm"[:first]]
        other = [*"nopqrstuvwxyz"[:second]]
        for mine, its in zip(*pairs, strict=True):
            other[its] = one[mine]
        out = [each for each in one + other if (each in one) != (each in other)]
        letters = ["".join(each) for each in (one, other)]
        operands = list(zip(letters, call.inputs, strict=True))
        return [contracted(call, operands, "".join(out))]


class Patches(Rule):
    """Lays the entries of small squares side by side: `extract_patches`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,), (shape,) = call.inputs, call.input_shapes
        own = channel_axis(call.layer, shape)
        others = [units for axis, units in axes.items() if axis != own]
        call.hold("cuts the axis of the units into patches", others)
        if own not in axes or len(shape) != 4 or own != 3:
            call.hold("cuts patches of another form")
            return [NONE]
        units = axes[own]
        call.carry(units)
        times = call.output_shapes[0][3] // units.labels.size
        return [
            {
                3: dataclasses.replace(
                    units,
                    labels=np.tile(units.labels, times),
                    sources=np.tile(units.sources, times),
                    padded=units.padded or call.layer.padding == "same",
                )
            }
        ]


class ScaledAttention(Rule):
    """`dot_product_attention`: heads along axis 2, their entries along 3.

    With fewer heads of keys and values each serves several of the queries.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        query, key, value, *others = call.inputs
        call.hold(
            "adds them to its scores", [u for a in others for u in a.values()]
        )
        for axes in (query, key, value):
            across = [units for axis, units in axes.items() if axis < 2]
            call.hold("attends over them", across)
        shapes = call.input_shapes
        sizes = [
            query[axis].labels if axis in query else shapes[0][axis]
            for axis in (2, 3)
        ]
        width = value[3].labels if 3 in value else shapes[2][3]
        lengths = shapes[0][1], shapes[1][1]
        call.works(*lengths, *sizes)
        call.works(*lengths, sizes[0], width)
        made = {}
        heads = [axes[2] for axes in (query, key, value) if 2 in axes]
        masks = call.mask_shapes("mask")
        if any(len(shape) > 3 and shape[1] != 1 for shape in masks):
            call.hold("masks them one by one", heads)
        elif len(heads) < 3:
            call.hold("combines them with heads that cannot be pruned", heads)
        else:
            for other in heads[1:]:
                rows = heads[0].labels.reshape(other.labels.size, -1).T
                for row in rows:
                    call.tie(other.labels, row)
                call.carry(other)
            made[2] = call.emit(2, heads[0].labels, Unknown(), [heads[0]])
        pair = [axes[3] for axes in (query, key) if 3 in axes]
        args, kwargs = ((), {}) if call.step is None else call.step.arguments
        scale = kwargs.get("scale", args[5] if len(args) > 5 else None)
        if len(pair) == 2 and scale is not None:
            call.tie(pair[0].labels, pair[1].labels)
            for units in pair:
                call.read(units)
        else:
            call.hold("scales by how many there are", pair)
        if 3 in value:
            if len(pair) == 2:  # Some backends want values as wide as keys.
                call.tie(pair[0].labels, value[3].labels)
            else:
                call.hold("wants them as wide as keys", [value[3]])
            made[3] = call.emit(3, value[3].labels, Unknown(), [value[3]])
        return [made]


class Stack(Rule):
    """Stacks tensors along a new axis."""

    def trace(self, call: Call) -> Sequence[Axes]:
        shapes, inputs = zip(*operands(call), strict=True)
        place = call.layer.axis % (len(shapes[0]) + 1)
        wider = [
            {axis + (axis >= place): units for axis, units in axes.items()}
            for axes in inputs
        ]
        shapes = [(*s[:place], 1, *s[place:]) for s in shapes]
        return [merged(call, wider, shapes, Unknown())]


class Operand(NamedTuple):
    """An argument of a function: where it is, and what.

    Args:
        path: Where it stands in the arguments by position and by name.
        value: The argument.
        shape: Its shape.
        axes: Its units; `None` for a constant.
    """

    path: tuple
    value: Any
    shape: tuple
    axes: Axes | None


def _operands(call: Call) -> Iterator[Operand]:
    args, kwargs = call.recorded.arguments
    tensors = iter(zip(call.input_shapes, call.inputs, strict=True))
    places = [((0, n), value) for n, value in enumerate(args)]
    places += [((1, name), value) for name, value in kwargs.items()]
    for path, value in places:
        if isinstance(value, keras.KerasTensor):
            yield Operand(path, value, *next(tensors))
        else:
            yield Operand(path, value, tuple(np.shape(value)), None)

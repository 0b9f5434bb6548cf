"""`keras.ops` functions, as people write them in Functional models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_apoptosis.graph.rules.merging import contracted, merged
from keras_apoptosis.graph.rules.rule import Rule, each_by_itself, operands
from keras_apoptosis.graph.trace import NONE, Call
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
        shapes = [shape for shape, _ in operands]
        if len(call.inputs) == 1 and any(
            np.prod([n or 2 for n in shape]) == 1 for shape in shapes
        ):
            first = bool(self.homogeneous and operands[0][1] is not None)
            return [each_by_itself(call, call.inputs[0], Function(first))]
        transfer: Transfer = Sum() if self.linear else Unknown()
        inputs = [axes or NONE for _, axes in operands]
        return [merged(call, inputs, shapes, transfer)]


class Unequal(Rule):
    """`not_equal` to a number: what is zero stays so if that number is 0."""

    def trace(self, call: Call) -> Sequence[Axes]:
        values = [
            value
            for value in call.step.filled([None] * len(call.step.inputs))[0]
            if value is not None
        ]
        if len(call.inputs) > 1 or any(np.any(value) for value in values):
            call.freeze("compares them")
            return [NONE]
        return [each_by_itself(call, call.inputs[0], Function(False))]


class Einsum(Rule):
    """`einsum` of tensors, where each letter stands once in each."""

    def trace(self, call: Call) -> Sequence[Axes]:
        equation = call.layer.subscripts.replace(" ", "")
        into, _, out = equation.partition("->")
        letters = into.split(",")
        if (
            "." in equation
            or "->" not in equation
            or len(letters) != len(call.inputs)
            or any(len(set(each)) < len(each) for each in letters)
        ):
            call.freeze(f"has the equation '{equation}', which is not followed")
            return [NONE]
        operands = list(zip(letters, call.inputs, strict=True))
        return [contracted(call, operands, out)]


class Matmul(Rule):
    """`matmul` of two tensors."""

    def trace(self, call: Call) -> Sequence[Axes]:
        if len(call.inputs) != 2 or any(len(s) < 2 for s in call.input_shapes):
            call.freeze("multiplies them with a constant, or with vectors")
            return [NONE]
        first, second = (len(shape) for shape in call.input_shapes)
        batch = "abcdefghijklmnop"[: max(first, second) - 2]
        operands = [
            (batch[len(batch) - first + 2 :] + "xy", call.inputs[0]),
            (batch[len(batch) - second + 2 :] + "yz", call.inputs[1]),
        ]
        return [contracted(call, operands, f"{batch}xz")]


class Stack(Rule):
    """`stack`: lays tensors along a new axis."""

    def trace(self, call: Call) -> Sequence[Axes]:
        shapes, inputs = zip(*operands(call), strict=True)
        place = call.layer.axis % (len(shapes[0]) + 1)
        wider = [
            {axis + (axis >= place): units for axis, units in axes.items()}
            for axes in inputs
        ]
        shapes = [(*s[:place], 1, *s[place:]) for s in shapes]
        return [merged(call, wider, shapes, Unknown())]


def _operands(call: Call) -> Iterator[tuple[tuple, Axes | None]]:
    """Shape and units of each operand; no units (`None`) for a constant."""
    args, kwargs = call.step.arguments
    tensors = iter(zip(call.input_shapes, call.inputs, strict=True))
    for value in (*args, *kwargs.values()):
        if isinstance(value, keras.KerasTensor):
            yield next(tensors)
        else:
            yield tuple(np.shape(value)), None

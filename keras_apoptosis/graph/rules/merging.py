"""Rules of operations that combine several tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence

import numpy as np

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.rule import Rule, operands
from keras_apoptosis.graph.units import (
    FIXED,
    Axes,
    Sum,
    Transfer,
    Units,
    Unknown,
)


@dataclasses.dataclass(frozen=True)
class Merge(Rule):
    """Combines tensors entry by entry, which ties their units.

    A tensor of size 1 along an axis is repeated along it.

    Args:
        linear: Whether the result is a fixed weighted sum of the inputs.
        expand: Whether a tensor of a lower rank gets axes after the batch, as
            Keras' merging layers do, or in front of all, as functions do.
    """

    linear: bool = False
    expand: bool = False

    def trace(self, call: Call) -> Sequence[Axes]:
        shapes, inputs = zip(*operands(call), strict=True)
        return [
            merged(
                call,
                inputs,
                shapes,
                Sum() if self.linear else Unknown(),
                first=1 if self.expand else 0,
            )
        ]


def merged(
    call: Call,
    inputs: Sequence[Axes],
    shapes: Sequence[tuple],
    transfer: Transfer,
    first: int = 0,
    output: int | None = 0,
    cut: Container[int] = (),
) -> Axes:
    """Returns the units of tensors that are combined entry by entry.

    Args:
        call: The call that combines them.
        inputs: The units of each tensor.
        shapes: The shape of each tensor.
        transfer: How the values arise, where no tensor is repeated.
        first: Where a tensor of a lower rank gets its further axes.
        output: Which output of the call they become; `None` for values inside
            the layer.
        cut: Which of them are constants that are cut with the units of others.
    """
    rank = max(len(shape) for shape in shapes)
    aligned = []
    for axes, shape in zip(inputs, shapes, strict=True):
        shift = rank - len(shape)
        aligned.append(
            (
                {a + shift if a >= first else a: u for a, u in axes.items()},
                (*shape[:first], *[1] * shift, *shape[first:]),
            )
        )
    made = {}
    for axis in sorted({axis for axes, _ in aligned for axis in axes}):
        full = max(shape[axis] or 1 for _, shape in aligned)
        read = [axes.get(axis) for axes, shape in aligned]
        wide = [
            units
            for number, units in enumerate(read)
            if aligned[number][1][axis] == full and number not in cut
        ]
        narrow = [
            units
            for units, (_, shape) in zip(read, aligned, strict=True)
            if units is not None and shape[axis] != full
        ]
        call.hold("broadcasts the units", narrow)
        have = [units for units in wide if units is not None]
        if not have or len(have) < len(wide):
            if have:
                call.hold(
                    "combines them with a tensor that cannot be pruned", have
                )
            continue
        for other in have[1:]:
            call.tie(have[0].labels, other.labels)
        for units in have:
            call.carry(units)
        whole = len(have) == len(aligned)
        made[axis] = call.emit(
            axis,
            have[0].labels,
            transfer if whole else Unknown(),
            have,
            output,
        )
    return made


class Concatenate(Rule):
    """Concatenates tensors along `axis`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        shapes, inputs = zip(*operands(call), strict=True)
        along = call.layer.axis % len(shapes[0])
        made = {}
        for axis in sorted({axis for axes in inputs for axis in axes}):
            have = [axes.get(axis) for axes in inputs]
            if axis == along:
                made[axis] = self._side_by_side(call, have, shapes, along)
                continue
            known = [units for units in have if units is not None]
            if len(known) < len(have):
                call.hold(
                    "combines them with a tensor that cannot be pruned",
                    known,
                )
                continue
            for units in known:
                call.carry(units)
                call.tie(known[0].labels, units.labels)
            made[axis] = call.emit(axis, known[0].labels, Unknown(), known)
        return [made]

    @staticmethod
    def _side_by_side(
        call: Call,
        have: Sequence[Units | None],
        shapes: Sequence[tuple],
        axis: int,
    ) -> Units:
        parts = []
        for units, shape in zip(have, shapes, strict=True):
            if units is None:
                fixed = np.full(shape[axis], FIXED)
                parts.append((fixed, fixed))
            else:
                call.carry(units)
                parts.append((units.labels, units.sources))
        labels, sources = zip(*parts, strict=True)
        return Units(
            axis,
            np.concatenate(labels),
            np.concatenate(sources),
            padded=any(units.padded for units in have if units is not None),
        )


class Reduction(Rule):
    """Sums, averages or takes the maximum along some axes.

    Args:
        transfer: How values arise where units are not reduced over.
        sums: Whether it adds up without counting: then what is zero does not
            matter, and units may be reduced over.
    """

    def __init__(self, transfer: Transfer, sums: bool = False):
        self.transfer = transfer
        self.sums = sums

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        rank = len(call.input_shapes[0])
        over = layer.axis
        if over is None:
            over = range(rank)
        elif not isinstance(over, (list, tuple)):
            over = [over]
        over = {axis % rank for axis in over}
        made = {}
        for axis, units in axes.items():
            if axis not in over:
                call.carry(units)
                place = axis
                if not layer.keepdims:
                    place -= sum(each < axis for each in over)
                made[place] = call.emit(
                    place, units.labels, self.transfer, [units]
                )
            elif self.sums:
                call.read(units)
            else:
                call.hold("reduces over the units", [units])
        return [made]


def contracted(
    call: Call,
    operands: Sequence[tuple[str, Axes]],
    out: str,
    shapes: Sequence[tuple] | None = None,
) -> Axes:
    """Returns the units of a sum of products of tensors, as of an einsum.

    An axis that is summed over is read: entries that are zero do not matter.

    Args:
        call: The call.
        operands: The letters of each tensor's axes, and its units.
        out: The letters of the result's axes.
        shapes: The shape of each tensor; by default those of the inputs.
    """
    count(call, operands, out, shapes or call.input_shapes)
    made = {}
    for letter in sorted(set("".join(letters for letters, _ in operands))):
        having = [
            axes.get(letters.index(letter))
            for letters, axes in operands
            if letter in letters
        ]
        known = [units for units in having if units is not None]
        if not known:
            continue
        if len(known) < len(having):
            call.hold(
                "combines them with a tensor that cannot be pruned", known
            )
            continue
        for units in known:
            call.tie(known[0].labels, units.labels)
        if letter in out:
            for units in known:
                call.carry(units)
            axis = out.index(letter)
            made[axis] = call.emit(axis, known[0].labels, Unknown(), known)
        else:
            _summed(call, operands, letter, out)
    return made


def count(
    call: Call,
    operands: Sequence[tuple[str, Axes]],
    out: str,
    shapes: Sequence[tuple],
) -> None:
    """Records one multiplication for each combination of places."""
    sizes: dict[str, int | np.ndarray | None] = {}
    for (letters, axes), shape in zip(operands, shapes, strict=True):
        for axis, (letter, size) in enumerate(zip(letters, shape, strict=True)):
            if size != 1:  # Else it is repeated along what others have there.
                sizes[letter] = axes[axis].labels if axis in axes else size
    sizes.pop(out[:1], None)  # The samples, which `works` counts.
    call.works(*sizes.values())


def _summed(
    call: Call, operands: Sequence[tuple[str, Axes]], letter: str, out: str
) -> None:
    """Records who reads units that are summed over: a weight, or nobody."""
    places = [n for n, (letters, _) in enumerate(operands) if letter in letters]
    weights = [n for n in places if call.parameter(n) is not None]
    for place in places:
        letters, axes = operands[place]
        units = axes[letters.index(letter)]
        if place in weights:
            continue
        if len(places) > 2 or not weights:
            call.read(units)
            continue
        letters, _ = operands[weights[0]]
        parameter = call.parameter(weights[0])
        call.consume(
            units,
            parameter.variable,
            parameter.axes[letters.index(letter)],
            [
                parameter.axes[axis]
                for axis, each in enumerate(letters)
                if each in out and axis in parameter.axes
            ],
            bias=None,
        )


class Dot(Rule):
    """Multiplies two tensors along given axes, as the `Dot` layer does."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        first, second = call.input_shapes
        axes = layer.axes
        if isinstance(axes, int):
            axes = (axes % len(first), axes % len(second))
        one, other = (
            axis % len(shape)
            for axis, shape in zip(axes, (first, second), strict=True)
        )
        letters = "abcdefghijklm", "nopqrstuvwxyz"
        left = ["a", *letters[0][1 : len(first)]]
        right = ["a", *letters[1][1 : len(second)]]
        right[other] = left[one]
        out = [x for x in left if x != left[one]]
        out += [x for x in right[1:] if x != left[one]]
        operands = list(
            zip(("".join(left), "".join(right)), call.inputs, strict=True)
        )
        return [contracted(call, operands, "".join(out))]


class DotProductAttention(Rule):
    """Attends without projections: `Attention` and `AdditiveAttention`.

    Queries are compared with keys entry by entry of their last axis, and the
    results summed up; values are averaged.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        query, value, *rest = call.inputs
        key = rest[0] if rest else value
        # With `scale` (additive attention) each entry has a factor of its own.
        scale = getattr(call.layer, "scale", None)
        if 2 in query and 2 in key and len(getattr(scale, "shape", ())):
            call.own(query[2].labels, {"scale": 0})
        if any(1 in axes for axes in (query, value, key)):
            call.hold("has units along the time axis")
            return [NONE] * len(call.output_shapes)
        one, two, *more = call.input_shapes
        scores = (*one[:2], two[1])
        contracted(
            call,
            [("bqd", query), ("bkd", key)],
            "bqk",
            [one, (more or [two])[0]],
        )
        made = contracted(
            call, [("bqk", NONE), ("bkd", value)], "bqd", [scores, two]
        )
        return [made, *[NONE] * (len(call.output_shapes) - 1)]

"""Rules of layers that make new units of weighted sums."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_apoptosis.backend.kernels import (
    EMBEDDINGS,
    KERNEL,
    kernel_mask_of,
    lora_of,
)
from keras_apoptosis.graph.activations import is_homogeneous, is_linear
from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.rule import Rule, channel_axis
from keras_apoptosis.graph.units import (
    Axes,
    Function,
    Produced,
    Transfer,
    Units,
    Unknown,
)


@dataclasses.dataclass(frozen=True)
class Contraction(Rule):
    """Makes new units by a weighted sum over the input's units.

    Args:
        unit_axis: Axis of the kernel along which its own units lie.
        input_axis: Axis of the kernel along which it reads units.
        size: Config entry that holds the number of its units.
        kernel: Attribute name of the kernel.
        bias: Attribute name of the bias, which may be absent.
        extra: Further weights, by attribute name, with the axes of the
            layer's own units and of those it reads (`None` where it has no
            such axis).
        spatial: Whether it slides over positions, as a convolution does.
        transposed: Whether it spreads positions, as a transposed convolution
            does.
    """

    unit_axis: int
    input_axis: int
    size: str
    kernel: str = KERNEL
    bias: str = "bias"
    extra: Mapping[str, tuple[int | None, int | None]] = dataclasses.field(
        default_factory=dict
    )
    spatial: bool = False
    transposed: bool = False

    def trace(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        (axes,), (shape,), (made,) = (
            call.inputs,
            call.input_shapes,
            call.output_shapes,
        )
        axis, out_axis = channel_axis(layer, shape), channel_axis(layer, made)
        units, groups = axes.get(axis), getattr(layer, "groups", 1)
        own = {name: a for name, (a, _) in self.extra.items() if a is not None}
        own |= {self.kernel: self.unit_axis, self.bias: 0}
        if groups > 1 and groups == shape[axis] and units is not None:
            return [self._each_channel(call, units, out_axis, own)]
        labels = call.produce(made[out_axis], own, [self.size])
        if groups > 1:
            tie_groups(call, labels, groups)
            units = self._first_group(call, units, groups)
        if units is not None:
            call.consume(
                units,
                self.kernel,
                self.input_axis,
                [self.unit_axis],
                bias=self.bias,
                uneven=self.spatial
                and (self.transposed or layer.padding != "valid"),
            )
            for name, (_, read) in self.extra.items():
                if read is not None:
                    call.own(units.labels, {name: read})
        others = {a: u for a, u in axes.items() if a != axis}
        if self.spatial:
            call.hold("convolves along the axis of the units", others.values())
            others = {}
        why = obstacle(layer)
        if why:
            call.hold(why)
            call.hold_labels(why, labels)
        at = (shape, axis) if self.transposed else (made, out_axis)
        kernel = getattr(layer, self.kernel)
        call.works(*call.places(*at, others), of=kernel)
        result = {}
        for other, passing in others.items():
            call.carry(passing)
            result[other] = call.emit(
                other, passing.labels, Unknown(), [passing]
            )
        produced = Produced(layer, self.kernel, self.unit_axis, self.bias)
        result[out_axis] = activated(call, out_axis, labels, produced)
        return [result]

    def _first_group(
        self, call: Call, units: Units | None, groups: int
    ) -> Units | None:
        """Returns the units of the first group, tied to those of the others."""
        if units is None:
            return None
        labels = tie_groups(call, units.labels, groups)
        sources = units.sources.reshape(groups, -1)
        if (sources != sources[0]).any():
            call.hold(
                "has groups of channels that come from different layers",
                [units],
            )
        return Units(units.axis, labels, sources[0], units.padded)

    def _each_channel(
        self, call: Call, units: Units, out_axis: int, own: Mapping[str, int]
    ) -> Axes:
        """Convolves every channel by itself, where each is a group."""
        size = call.output_shapes[0][out_axis]
        labels = np.repeat(units.labels, size // units.labels.size)
        call.carry(units)
        call.own(labels, own)
        call.resize(self.size, labels)
        call.resize("groups", units.labels)
        places = call.places(call.output_shapes[0], out_axis)
        call.works(*places, of=getattr(call.layer, self.kernel))
        return {out_axis: call.emit(out_axis, labels, Unknown(), [units])}


class Depthwise(Rule):
    """Filters every channel by itself, into one or several."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        axis = channel_axis(layer, call.input_shapes[0])
        units = _alone(
            call, axes, axis, "convolves along the axis of the units"
        )
        made = {}
        if units is not None:
            labels = np.repeat(units.labels, layer.depth_multiplier)
            call.carry(units, {"kernel": -2})
            call.own(labels, {"bias": 0})
            made[axis] = call.emit(axis, labels, Unknown(), [units])
        places = call.places(call.output_shapes[0], axis)
        call.works(*places, of=layer.kernel)
        return [made]


class Separable(Rule):
    """Filters every channel by itself, then sums over them at each place.

    What the second part reads are values inside the layer; a unit is observed
    and replaced there.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        axis = channel_axis(layer, call.input_shapes[0])
        units = _alone(
            call, axes, axis, "convolves along the axis of the units"
        )
        labels = call.produce(
            call.output_shapes[0][axis],
            {"pointwise_kernel": -1, "bias": 0},
            ["filters"],
        )
        if units is not None:
            call.carry(units, {"depthwise_kernel": -2})
            filtered = call.emit(
                axis,
                np.repeat(units.labels, layer.depth_multiplier),
                Unknown(),
                [units],
                within=(0, functools.partial(_filtered, layer)),
            )
            call.consume(filtered, "pointwise_kernel", -2, [-1])
        places = call.places(call.output_shapes[0], axis)
        call.works(*places, of=layer.depthwise_kernel)
        call.works(*places, of=layer.pointwise_kernel)
        produced = Produced(layer, "pointwise_kernel", -1, "bias")
        return [{axis: activated(call, axis, labels, produced)}]


class Embedding(Rule):
    """Looks up rows, whose columns are units; in reverse, reads them."""

    weights: ClassVar = {EMBEDDINGS: 1, "reverse_embeddings": 0}

    def trace(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        why = obstacle(layer)
        if _reversed(call):
            (axes,) = call.inputs
            axis = len(call.input_shapes[0]) - 1
            units = _alone(
                call,
                axes,
                axis,
                "has units along another axis than the features",
            )
            tied = layer.tie_weights
            kernel = (
                getattr(layer, EMBEDDINGS) if tied else layer.reverse_embeddings
            )
            if units is not None:
                read = 1 if tied else 0
                call.own(units.labels, self.weights)
                call.resize("output_dim", units.labels)
                # A tied weight cannot take stand-ins: it makes units, too.
                call.consume(
                    units,
                    kernel,
                    read,
                    [1 - read],
                    bias=None,
                    combines=not tied,
                )
            call.works(*call.places(call.input_shapes[0], axis), of=kernel)
            if why:
                call.hold(why)
            return [NONE]
        axis = len(call.output_shapes[0]) - 1
        labels = call.produce(layer.output_dim, self.weights, ["output_dim"])
        if why:
            call.hold_labels(why, labels)
        produced = Produced(layer, EMBEDDINGS, 1, None)
        return [{axis: call.emit(axis, labels, produced)}]


@dataclasses.dataclass(frozen=True)
class EinsumContraction(Rule):
    """Contracts by an equation: `EinsumDense`.

    Args:
        names: Names for the units along axes of the output, by axis, where
            there are several kinds.
    """

    names: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        kernel, bias = getattr(layer, KERNEL), layer.bias
        shape = call.output_shapes[0]
        into, weight, out = _letters(layer.equation, len(call.input_shapes[0]))
        new = [each for each in out if each not in into]
        why = obstacle(layer)
        result: dict[int, Units] = {}

        def own(letter: str, labels: np.ndarray) -> None:
            if letter in weight:
                call.own_slices(kernel, weight.index(letter), labels)
            if bias is not None and letter in layer.bias_axes:
                place = out.index(letter) - len(shape) + len(bias.shape)
                call.trace.own(bias, place, labels)

        for axis, units in axes.items():
            letter = into[axis]
            if letter in out:  # One weight for each unit, or one for all.
                call.carry(units)
                own(letter, units.labels)
                place = out.index(letter)
                result[place] = call.emit(
                    place, units.labels, Unknown(), [units]
                )
        made = {}
        for letter in new:
            axis = out.index(letter)
            name = self.names.get(axis, letter if len(new) > 1 else None)
            made[letter] = call.produce(
                shape[axis], {KERNEL: weight.index(letter)}, (), name
            )
            own(letter, made[letter])
            first = len(shape) - len(layer.partial_output_shape)
            if not layer.equation.startswith("..."):
                first = 1
            call.resize(("output_shape", axis - first), made[letter])
            if why:
                call.hold_labels(why, made[letter])
        outputs = [weight.index(each) for each in out if each in weight]
        fits = bias is not None and {*layer.bias_axes} == {
            weight[each] for each in outputs
        }
        for axis, units in axes.items():
            letter = into[axis]
            if letter in weight and letter not in out:
                call.consume(
                    units,
                    kernel,
                    weight.index(letter),
                    outputs,
                    bias=(bias, ()) if fits else None,
                )
            elif letter not in out:
                call.hold("sums over the units without a weight", [units])
        if why:
            call.hold(why)
        places = [
            result[axis].labels if axis in result else size
            for axis, size in enumerate(shape)
            if axis and out[axis] not in weight
        ]
        call.works(*places, of=kernel)
        for letter, labels in made.items():
            axis = out.index(letter)
            simple = len(new) == 1 and (bias is None or len(bias.shape) == 1)
            produced = Produced(layer, KERNEL, weight.index(letter), "bias")
            result[axis] = activated(
                call, axis, labels, produced if simple else Unknown()
            )
        return [result]


def activated(
    call: Call, axis: int, labels: np.ndarray, transfer: Transfer
) -> Units:
    """Returns new units, after the layer's own activation."""
    activation = getattr(call.layer, "activation", None)
    if is_linear(activation):
        return call.emit(axis, labels, transfer)
    homogeneous = is_homogeneous(activation)
    if homogeneous is None:
        call.hold_labels(odd(activation), labels)
    before = call.emit(axis, labels, transfer, output=None)
    return call.emit(axis, labels, Function(bool(homogeneous)), [before])


def obstacle(layer: Any) -> str | None:
    """Returns why the weights of a layer cannot be cut, or `None`."""
    if getattr(layer, "quantization_mode", None):
        return "is quantized"
    if lora_of(layer) is not None and kernel_mask_of(layer) is not None:
        return "has LoRA enabled behind a mask"
    return None


def odd(activation: Any) -> str:
    """Returns why units behind an unknown activation are not prunable."""
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"has the activation '{name}', which may mix units"


def _alone(call: Call, axes: Axes, axis: int, why: str) -> Units | None:
    """Returns the units along one axis, and holds those along others."""
    others = [units for other, units in axes.items() if other != axis]
    call.hold(why, others)
    return axes.get(axis)


def tie_groups(call: Call, labels: np.ndarray, groups: int) -> np.ndarray:
    """Ties the units at the same place of every group of channels.

    All groups must stay equally wide, so a unit takes one of each along.
    """
    rows = labels.reshape(groups, -1)
    for row in rows[1:]:
        call.tie(rows[0], row)
    return rows[0]


def _filtered(layer: Any, inputs: Any) -> Any:
    """Computes the first part of a separable convolution."""
    return ops.depthwise_conv(
        inputs,
        layer.depthwise_kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def _reversed(call: Call) -> bool:
    """Returns whether a `ReversibleEmbedding` is called in reverse."""
    if call.step is None:
        return False
    args, kwargs = call.step.arguments
    return bool(kwargs.get("reverse", args[1] if len(args) > 1 else False))


def _letters(equation: str, rank: int) -> tuple[str, ...]:
    """Returns the axes of input, kernel and output, one letter each.

    Axes behind an ellipsis get digits.
    """
    into, weight, out = re.split(",|->", equation.replace(" ", ""))
    hidden = rank - len(into.replace("...", ""))
    digits = "".join(str(digit) for digit in range(hidden))
    return (
        into.replace("...", digits),
        weight,
        out.replace("...", digits),
    )

"""Kinds of rules: the ways in which operations treat units."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import layers, ops

from keras_apoptosis.graph.activations import is_homogeneous, is_linear
from keras_apoptosis.graph.trace import Call
from keras_apoptosis.graph.units import (
    FIXED,
    Affine,
    Function,
    Produced,
    Sum,
    Units,
    Unknown,
)

# Weights of Prunable layers that hold one entry a unit.
STATISTICS = {
    "statistics_total": 0,
    "statistics_max_abs": 0,
    "statistics_active": 0,
}


class Rule:
    """How one kind of operation treats units.

    A rule reads `call.inputs` (the `Units` of each input, or `None`), records
    on `call` which slices of which weights units own, and sets the units of
    the outputs by `call.put`. Outputs that are not set have no units. What a
    rule does not understand it freezes, with a reason.
    """

    def trace(self, call: Call) -> None:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Contraction(Rule):
    """A weighted sum over the input's units that makes new units.

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
    """

    unit_axis: int
    input_axis: int
    size: str
    kernel: str = "_kernel"
    bias: str = "bias"
    extra: Mapping[str, tuple[int | None, int | None]] = dataclasses.field(
        default_factory=dict
    )
    spatial: bool = False

    def trace(self, call: Call) -> None:
        layer = call.layer
        (units,) = call.inputs
        axis = channel_axis(layer, call.input_shapes[0])
        out_axis = channel_axis(layer, call.output_shapes[0])
        size = call.output_shapes[0][out_axis]
        own = {name: a for name, (a, _) in self.extra.items() if a is not None}
        labels = call.produce(
            size,
            {self.kernel: self.unit_axis, self.bias: 0, **own},
            [self.size],
        )
        if units is not None:
            if units.axis == axis:
                call.consume(units, self.kernel, self.input_axis, self)
                for name, (_, read) in self.extra.items():
                    if read is not None:
                        call.own(units.labels, {name: read})
            else:
                call.freeze(f"works along axis {axis}, not {units.axis}")
        why = self._obstacle(layer)
        if why:
            call.freeze(why)
            call.freeze_labels(why, labels)
        activation = getattr(layer, "activation", None)
        produced = Produced(layer, self.kernel, self.unit_axis, self.bias)
        key = call.step.outputs[0]
        if is_linear(activation):
            made = call.emit(out_axis, labels, produced, tensor=key)
        else:
            homogeneous = is_homogeneous(activation)
            if homogeneous is None:
                call.freeze_labels(_odd(activation), labels)
            before = call.emit(out_axis, labels, produced)
            function = Function(bool(homogeneous))
            made = call.emit(out_axis, labels, function, [before], key)
        call.put(made)

    def respond(self, layer: Any, inputs: Any, kernel: Any) -> Any:
        """What the layer adds to its bias for `inputs`, before activation."""
        if self.spatial:
            return layer.convolution_op(inputs, kernel)
        return ops.matmul(inputs, kernel)

    def keeps_constants(self, layer: Any) -> bool:
        """Whether constant inputs give the same response everywhere."""
        return not self.spatial or layer.padding == "valid"

    def _obstacle(self, layer: Any) -> str | None:
        if getattr(layer, "quantization_mode", None):
            return "is quantized"
        if getattr(layer, "lora_enabled", False):
            return "has LoRA enabled"
        if getattr(layer, "groups", 1) != 1:
            return "is a grouped convolution"
        return None


@dataclasses.dataclass(frozen=True)
class Elementwise(Rule):
    """Acts on every unit by itself and makes new values.

    Args:
        weights: Attribute names of weights that hold one slice a unit, with
            their axis of the units.
        homogeneous: Whether `f(αx) = α f(x)` for every `α > 0`, the same for
            all units. Ignored where there are weights.
    """

    weights: Mapping[str, int] = dataclasses.field(default_factory=dict)
    homogeneous: bool = False

    def trace(self, call: Call) -> None:
        for units, key in zip(call.inputs, call.step.outputs, strict=True):
            if units is not None:
                call.carry(units, self.weights)
                transfer = (
                    Unknown() if self.weights else Function(self.homogeneous)
                )
                call.put(
                    call.emit(units.axis, units.labels, transfer, [units], key)
                )


class ActivationLayer(Rule):
    """`Activation`, and the activation layers that hold no weights."""

    def trace(self, call: Call) -> None:
        layer, (units,) = call.layer, call.inputs
        if units is None:
            return
        activation = getattr(layer, "activation", layer)
        homogeneous = is_homogeneous(activation)
        if homogeneous is None:
            call.freeze(_odd(activation))
            return
        if getattr(layer, "track_statistics", False):
            if layer.unit_axis % len(call.input_shapes[0]) != units.axis:
                call.freeze("keeps statistics along another axis")
                return
            call.own(units.labels, STATISTICS)
        call.carry(units)
        if is_linear(activation):
            call.put(units)
        else:
            transfer, key = Function(homogeneous), call.step.outputs[0]
            call.put(
                call.emit(units.axis, units.labels, transfer, [units], key)
            )


class Selection(Rule):
    """Makes units of the features of its input, which it can leave out."""

    def trace(self, call: Call) -> None:
        layer, (shape,) = call.layer, call.output_shapes
        if call.inputs[0] is not None:
            call.freeze("selects among them already")
        axis = layer.axis % len(shape)
        labels = call.produce(shape[axis], {}, ())
        picked = functools.partial(_picked, layer.indices)
        call.resize("indices", labels, picked)
        key = call.step.outputs[0]
        call.put(call.emit(axis, labels, Unknown(), (), key))


class BatchNorm(Rule):
    """Scales and shifts every unit by itself."""

    weights = (
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    )

    def trace(self, call: Call) -> None:
        layer, (units,) = call.layer, call.inputs
        if units is None:
            return
        if layer.axis % len(call.input_shapes[0]) != units.axis:
            call.freeze(f"normalizes axis {layer.axis}, not the units' own")
            return
        call.carry(units, dict.fromkeys(self.weights, 0))
        coefficients = functools.partial(self.coefficients, layer)
        call.put(
            call.emit(
                units.axis,
                units.labels,
                Affine(coefficients),
                [units],
                call.step.outputs[0],
            )
        )

    @staticmethod
    def coefficients(layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of each unit in inference."""
        mean, variance, gamma, beta = (
            None
            if variable is None
            else ops.convert_to_numpy(variable).astype("float64")
            for variable in (
                layer.moving_mean,
                layer.moving_variance,
                layer.gamma,
                layer.beta,
            )
        )
        scale = 1 / np.sqrt(variance + layer.epsilon)
        if gamma is not None:
            scale = scale * gamma
        shift = -mean * scale
        return scale, shift if beta is None else shift + beta


@dataclasses.dataclass(frozen=True)
class Pooling(Rule):
    """Gathers positions, channel by channel.

    Args:
        average: Whether it averages (a weighted sum) or takes the maximum.
    """

    average: bool

    def trace(self, call: Call) -> None:
        (units,) = call.inputs
        if units is None:
            return
        if units.axis != channel_axis(call.layer, call.input_shapes[0]):
            call.freeze("pools over the units")
            return
        call.carry(units)
        rank = len(call.output_shapes[0])
        axis = (
            1 if rank == 2 else channel_axis(call.layer, call.output_shapes[0])
        )
        call.put(
            call.emit(
                axis,
                units.labels,
                Sum() if self.average else Function(homogeneous=True),
                [units],
                call.step.outputs[0],
            )
        )


@dataclasses.dataclass(frozen=True)
class Passing(Rule):
    """Leaves values as they are (in inference), or only moves positions.

    Args:
        channels: Whether the units must lie on the channel axis.
    """

    channels: bool = False

    def trace(self, call: Call) -> None:
        for units, key in zip(call.inputs, call.step.outputs, strict=True):
            if units is None:
                continue
            shape = call.input_shapes[0]
            if self.channels and units.axis != channel_axis(call.layer, shape):
                call.freeze("changes the axis of the units")
                continue
            call.carry(units)
            call.trace.units[key] = units


class Border(Rule):
    """Where a tensor enters or leaves a nested model."""

    def trace(self, call: Call) -> None:
        for units, key in zip(call.inputs, call.step.outputs, strict=True):
            if units is None:
                continue
            call.trace.units[key] = units
            if isinstance(call.layer, layers.InputLayer):
                shape = call.output_shapes[0]
                call.resize(
                    "batch_shape",
                    units.labels,
                    functools.partial(_with_size, shape, units.axis),
                )


class Flatten(Rule):
    """Lays all axes but the batch in a row."""

    def trace(self, call: Call) -> None:
        (units,), (shape,) = call.inputs, call.input_shapes
        if units is None:
            return
        if None in shape[1:]:
            call.freeze(f"flattens a shape that is not known: {shape}")
            return
        index = np.arange(shape[units.axis]).reshape(
            [-1 if a == units.axis else 1 for a in range(1, len(shape))]
        )
        index = np.broadcast_to(index, shape[1:])
        if call.layer.data_format == "channels_first" and index.ndim > 1:
            index = np.moveaxis(index, 0, -1)
        index = index.ravel()
        call.carry(units)
        call.put(Units(1, units.labels[index], units.sources[index]))


class Merge(Rule):
    """Combines tensors of one shape entry by entry, which ties their units.

    Args:
        linear: Whether the result is a fixed weighted sum of the inputs.
    """

    def __init__(self, linear: bool):
        self.linear = linear

    def trace(self, call: Call) -> None:
        inputs = call.inputs
        if all(units is None for units in inputs):
            return
        first = inputs[0]
        if any(units is None for units in inputs):
            call.freeze("joins them with a tensor whose units cannot leave")
        elif len(set(call.input_shapes)) > 1:
            call.freeze(f"broadcasts shapes {call.input_shapes}")
        elif len({units.axis for units in inputs}) > 1:
            call.freeze("joins units that lie on different axes")
        else:
            for other in inputs[1:]:
                call.tie(first, other)
            call.carry(first)
            call.put(
                call.emit(
                    first.axis,
                    first.labels,
                    Sum() if self.linear else Unknown(),
                    inputs,
                    call.step.outputs[0],
                )
            )


class Concatenate(Rule):
    """Lays tensors side by side."""

    def trace(self, call: Call) -> None:
        inputs, shapes = call.inputs, call.input_shapes
        if all(units is None for units in inputs):
            return
        axis = call.layer.axis % len(shapes[0])
        if any(u is not None and u.axis != axis for u in inputs):
            call.freeze(f"joins along axis {axis}, across their units")
            return
        parts = [
            (np.full(shape[axis], FIXED), np.full(shape[axis], FIXED))
            if units is None
            else (units.labels, units.sources)
            for units, shape in zip(inputs, shapes, strict=True)
        ]
        for units in inputs:
            if units is not None:
                call.carry(units)
        labels, sources = zip(*parts, strict=True)
        call.put(Units(axis, np.concatenate(labels), np.concatenate(sources)))


def channel_axis(layer: Any, shape: tuple) -> int:
    """The axis that a layer takes as its channels."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else len(shape) - 1


def _with_size(shape: tuple, axis: int, kept: np.ndarray) -> tuple:
    return (*shape[:axis], len(kept), *shape[axis + 1 :])


def _picked(indices: list[int] | None, kept: np.ndarray) -> list[int]:
    return [int(k) if indices is None else indices[k] for k in kept]


def _odd(activation: Any) -> str:
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"has the activation '{name}', which may mix units"

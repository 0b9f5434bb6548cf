"""Rules of layers that treat every unit by itself."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import activations, config, ops

from keras_apoptosis.graph.activations import is_homogeneous, is_linear
from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.contraction import odd
from keras_apoptosis.graph.rules.rule import (
    STATISTICS,
    Rule,
    each_by_itself,
)
from keras_apoptosis.graph.units import (
    Affine,
    Axes,
    Function,
    Sum,
    Transfer,
    Unknown,
)

# What mixes the entries along one axis, by default the last.
MIXING = (activations.softmax, activations.log_softmax, activations.sparsemax)


class ActivationLayer(Rule):
    """Applies an activation without weights."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        activation = getattr(layer, "activation", layer)
        if activation in MIXING:
            return _mixing(call, [len(call.input_shapes[0]) - 1])
        homogeneous = is_homogeneous(activation)
        if homogeneous is None:
            call.hold(odd(activation))
            return [NONE]
        if getattr(layer, "track_statistics", False):
            own = layer.unit_axis % len(call.input_shapes[0])
            if own in axes:
                call.own(axes[own].labels, STATISTICS)
            elif axes:
                call.hold(
                    "keeps statistics along another axis than that of the units"
                )
                return [NONE]
        if is_linear(activation):
            for units in axes.values():
                call.carry(units)
            return [axes]
        return [each_by_itself(call, axes, Function(homogeneous))]


class Mixing(Rule):
    """Mixes the entries along one axis or several, as a softmax does."""

    def trace(self, call: Call) -> Sequence[Axes]:
        axis = call.layer.axis
        rank = len(call.input_shapes[0])
        whole = axis if isinstance(axis, (list, tuple)) else [axis]
        return _mixing(call, [a % rank for a in whole])


class ParametricReLU(Rule):
    """Applies `PReLU`, with a slope for each entry or shared along axes."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        for axis, units in axes.items():
            if axis not in (layer.shared_axes or ()):
                call.own(units.labels, {"alpha": axis - 1})
        return [each_by_itself(call, axes, Unknown())]


class Rescaling(Rule):
    """Rescales by one scale and offset, or one for each channel."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        rank = len(call.input_shapes[0])
        # As its `call` has it: the scale is reshaped, the offset is not.
        first = config.image_data_format() == "channels_first" and rank == 4
        for key in ("scale", "offset"):
            value = np.asarray(getattr(layer, key))
            if value.ndim == 0:
                continue
            axis = 1 if first and key == "scale" else rank - 1
            if value.ndim > 1:
                call.hold(f"has a {key} of shape {value.shape}")
                return [NONE]
            if axis in axes and value.size > 1:
                call.resize(
                    key,
                    axes[axis].labels,
                    functools.partial(_picked, list(value.tolist())),
                )
        return [each_by_itself(call, axes, Unknown())]


class Selection(Rule):
    """Makes units of the features of its input, which it can leave out."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (shape,) = call.layer, call.output_shapes
        axis = layer.axis % len(shape)
        passing = dict(call.inputs[0])
        if axis in passing:
            call.hold("already selects among the units", [passing.pop(axis)])
        for units in passing.values():
            call.carry(units)
        labels = call.produce(shape[axis], {})
        indices = layer.indices
        if indices is None:
            indices = range(shape[axis])
        call.resize("indices", labels, functools.partial(_picked, indices))
        return [{**passing, axis: call.emit(axis, labels, Unknown())}]


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

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        own = layer.axis % len(call.input_shapes[0])
        made = {}
        for axis, units in axes.items():
            transfer: Transfer = Unknown()
            call.carry(units)
            if axis == own:
                call.own(units.labels, dict.fromkeys(self.weights, 0))
                transfer = Affine(functools.partial(self.coefficients, layer))
            made[axis] = call.emit(axis, units.labels, transfer, [units])
        return [made]

    @staticmethod
    def coefficients(layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns scale and shift of each unit in inference."""

        def value(variable: Any) -> np.ndarray:
            return ops.convert_to_numpy(variable).astype("float64")

        scale = 1 / np.sqrt(value(layer.moving_variance) + layer.epsilon)
        if layer.gamma is not None:
            scale = scale * value(layer.gamma)
        shift = -value(layer.moving_mean) * scale
        return scale, shift if layer.beta is None else shift + value(layer.beta)


class Masking(Rule):
    """Masks steps all of whose features have one value: `Masking`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        (axes,) = call.inputs
        last = len(call.input_shapes[0]) - 1
        if last in axes:
            if call.layer.mask_value == 0:
                call.read(axes[last])
            else:
                call.hold("compares the units with a `mask_value` other than 0")
        # Masked steps become zero, whatever replaces a unit before them.
        return [each_by_itself(call, axes, Sum())]


def _mixing(call: Call, mixed: list[int]) -> list[Axes]:
    """Passes units along axes that are not mixed, and holds the others."""
    (axes,) = call.inputs
    across = [units for axis, units in axes.items() if axis in mixed]
    call.hold("mixes the units", across)
    passing = {a: units for a, units in axes.items() if a not in mixed}
    return [each_by_itself(call, passing, Unknown())]


def _picked(values: Sequence[Any], kept: np.ndarray) -> list[Any]:
    return [values[int(k)] for k in kept]

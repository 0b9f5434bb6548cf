"""Borders of layers that are followed, and weights that they use themselves."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.rule import Rule
from keras_apoptosis.graph.units import Axes, Unknown


class Through(Rule):
    """Where tensors enter a followed layer, or leave it as they are."""

    def trace(self, call: Call) -> Sequence[Axes]:
        assert call.step is not None  # No layer holds one.
        given = iter(call.inputs)
        made = [
            next(given) if isinstance(each, keras.KerasTensor) else NONE
            for each in call.step.arguments[0]
        ]
        return [*made, *[NONE] * (len(call.output_shapes) - len(made))]


class WeightAsTensor(Rule):
    """A weight that a followed layer uses itself.

    Its axes hold units like those of any tensor, which whatever it is combined
    with ties to others.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        assert call.step is not None  # No layer holds one.
        parameter = call.layer
        call.trace.parameters[call.step.outputs[0]] = parameter
        made = {}
        for axis, own in parameter.axes.items():
            name = f"axis{own}" if len(parameter.axes) > 1 else None
            labels = call.produce(
                parameter.shape[axis], {"variable": own}, name=name
            )
            made[axis] = call.emit(axis, labels, Unknown())
        return [made]

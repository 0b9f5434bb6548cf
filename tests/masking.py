"""The reference for surgery: the full model with activations replaced.

It is worked out by another route than surgery: a clone of the model, made by
Keras, in which a layer after each observation point replaces activations.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from keras_apoptosis.graph import analyse


class Replace(layers.Layer):
    """Replaces activations along an axis: `x @ matrix + constant`."""

    def __init__(self, axis, matrix, constant):
        super().__init__()
        self.axis, self.matrix, self.constant = axis, matrix, constant

    def call(self, inputs):
        values = ops.moveaxis(inputs, self.axis, -1)
        values = ops.matmul(values, ops.cast(self.matrix, values.dtype))
        values = values + ops.cast(self.constant, values.dtype)
        return ops.moveaxis(values, -1, self.axis)


def masked_model(model: keras.Model, removal) -> keras.Model:
    """The full model with the removed units' activations replaced."""
    analysis = analyse(model)
    by_layer: dict[str, tuple] = {}
    for number, group in enumerate(analysis.groups):
        if group.name not in removal:
            continue
        gone = removal[group.name]
        stay = np.setdiff1d(np.arange(group.size), gone)
        for point in group.observations:
            given = removal.replacement(group.name, point.name).arrays()
            for source in point.sources:
                units = analysis.trace.sources[source].units
                name = analysis.trace.sources[source].path.split("/")[-1]
                size = units.labels.size
                _axis, matrix, constant = by_layer.setdefault(
                    name, (units.axis, np.eye(size), np.zeros(size))
                )
                for place in analysis.positions(units.labels, number):
                    matrix[:, place[gone]] = 0
                    if "mixing" in given:
                        matrix[np.ix_(place[stay], place[gone])] = given[
                            "mixing"
                        ].T
                    if "constant" in given:
                        constant[place[gone]] = given["constant"]

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        # Observation points are never in front of a further point by the
        # same values, so each replacement is seen by its consumers alone.
        if layer.name in by_layer:
            outputs = Replace(*by_layer[layer.name])(outputs)
        return outputs

    def clone_of(layer):
        if not isinstance(layer, keras.Model):
            return type(layer).from_config(layer.get_config())
        if isinstance(layer, keras.Sequential):
            # Keras' `call_function` does not reach into Sequential models.
            outputs = x = keras.Input(batch_shape=layer.input_shape)
            for each in layer.layers:
                outputs = each(outputs)
            layer = keras.Model(x, outputs, name=layer.name)
        return keras.models.clone_model(
            layer, call_function=call, clone_function=clone_of
        )

    clone = clone_of(model)
    _copy_weights(model, clone)
    return clone


def _copy_weights(model, clone):
    values = {}
    for layer in model._flatten_layers():
        values.setdefault(layer.name, layer)
    for layer in clone._flatten_layers():
        if layer.name in values and not isinstance(layer, keras.Model):
            for new, old in zip(
                layer.variables, values[layer.name].variables, strict=True
            ):
                new.assign(ops.convert_to_numpy(old))


def outputs_of(model, inputs):
    """Flat list of a model's outputs in inference, as numpy arrays."""
    found = model(inputs, training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(found)]

"""Absorbs constants that replace removed units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_apoptosis import backend
from keras_apoptosis.graph import Analysis, Graph, Observation, Step
from keras_apoptosis.graph.activations import is_linear, without_activation
from keras_apoptosis.graph.expansion import BATCH
from keras_apoptosis.graph.trace import Consumer


def response_to(
    constants: np.ndarray,
    analysis: Analysis,
    observation: Observation,
    consumer: Consumer,
    places: np.ndarray,
    weights: Mapping[int, np.ndarray],
) -> tuple[np.ndarray, float]:
    """Computes the response of a consumer to constant activations.

    Exact for dense layers and for 'valid' convolutions. A convolution that
    pads with zeros answers otherwise at its borders: then the mean over
    positions is taken, which leaves the least squared error.

    Args:
        constants: Shape `(size of the group,)`. The constant of each unit; 0
            for the units that stay.
        analysis: The model's units.
        observation: Where the constants stand.
        consumer: The consumer.
        places: Shape `(occurrences, size)`. Positions along the axis of the
            consumer's weight.
        weights: The consumer's weights as they become, by `id`.

    Returns:
        The mean response, shaped as the weight's axes that become the
        layer's outputs, and the root mean square of what deviates from it.
    """
    step, tensors = consumer.step, analysis.graph.tensors
    if (
        consumer.uneven
        and step is not None
        and None not in tensors[step.read[0]].shape[1:]
    ):
        # What else is added on the way is there without the constants, too.
        image, nothing = (
            _constant_input(analysis, observation, consumer, step, each)
            for each in (constants, np.zeros_like(constants))
        )
        answer = _response(consumer.layer, image - nothing, weights)
        axis = _channels(consumer.layer, answer)
        answer = np.moveaxis(answer, axis, -1).reshape(-1, answer.shape[axis])
        shift = answer.mean(0)
        return shift, float(np.sqrt(np.mean((answer - shift) ** 2)))
    kernel = weights[id(consumer.kernel)]
    rows = np.moveaxis(
        kernel, (consumer.axis, *consumer.outputs), _ends(consumer)
    )
    outputs = rows.shape[rows.ndim - len(consumer.outputs) :]
    rows = rows.reshape(rows.shape[0], -1, *outputs).sum(1)
    parts = [np.tensordot(constants, rows[place], 1) for place in places]
    shift = np.sum(parts, axis=0)
    return shift, float("nan") if consumer.uneven else 0.0


def absorber_of(
    graph: Graph, consumer: Consumer
) -> list[tuple[Any, tuple, int]] | None:
    """Returns the weights that can take a shift of a layer's output.

    That is its bias or, where it has none, the moving mean of the batch
    normalizations that alone read it: in training they take out any constant
    by themselves. Of those that are not trained weights stay as they are.

    Returns:
        For each: the weight, the index of the part of it to add to, and the
        sign; `None` if there is none.
    """
    if consumer.bias is not None:
        return [(*consumer.bias, 1)]
    step = consumer.step
    if step is None or not is_linear(
        getattr(consumer.layer, "activation", None)
    ):
        return None
    if len(step.outputs) > 1 or len(consumer.outputs) > 1:
        return None
    (output,) = step.outputs
    readers = [each for each in graph.steps if output in each.inputs]
    if output in graph.outputs or not readers:
        return None
    if all(type(r.operation) is layers.BatchNormalization for r in readers):
        norms = {id(r.operation): r.operation for r in readers}
        # Where the consumer is not trained either, that was asked for.
        trained = getattr(consumer.layer, "trainable", False)
        if trained and not all(norm.trainable for norm in norms.values()):
            return None
        return [(norm.moving_mean, (), -1) for norm in norms.values()]
    return None


def takes_constants(graph: Graph, observation: Observation) -> bool:
    """Returns whether all consumers of an observation can absorb a constant."""
    return observation.shifts and all(
        absorber_of(graph, consumer) is not None
        for consumer, _ in observation.consumers
    )


def _response(
    layer: Any, image: Any, weights: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Computes what a layer adds to its bias for `image`, with new weights."""
    mapping = [
        (variable, ops.convert_to_tensor(weights[id(variable)], variable.dtype))
        for variable in layer.variables
        if id(variable) in weights
    ]
    mapping = [*backend.local_values(layer), *mapping]
    nothing = ops.zeros_like(image)
    with keras.StatelessScope(mapping), without_activation(layer):
        full, bias = (layer.call(each) for each in (image, nothing))
    return ops.convert_to_numpy(full).astype("float64") - ops.convert_to_numpy(
        bias
    )


def _channels(layer: Any, answer: np.ndarray) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else answer.ndim - 1


def _ends(consumer: Consumer) -> tuple[int, ...]:
    """Returns where the axis that is read, and those of outputs, are moved."""
    count = len(consumer.outputs)
    return (0, *range(-count, 0))


def _path(
    analysis: Analysis, observation: Observation, last: Step
) -> list[Step]:
    """Returns the steps between an observation and a consumer, in order."""
    # Where the units take new values, they are observed anew.
    unchanged = {
        key
        for key, axes in analysis.trace.units.items()
        if any(
            np.isin(units.sources, observation.sources).any()
            for units in axes.values()
        )
    }
    observed = {
        analysis.trace.sources[each].tensor for each in observation.sources
    }
    return [
        step
        for step in analysis.graph.steps_to({last.read[0]})
        if unchanged.intersection(step.read)
        and unchanged.intersection(step.outputs)
        and not observed.intersection(step.outputs)
    ]


def _constant_input(
    analysis: Analysis,
    observation: Observation,
    consumer: Consumer,
    step: Step,
    constants: np.ndarray,
) -> Any:
    """Computes what reaches a consumer if an observation holds constants."""
    tensors = analysis.graph.tensors
    # What a followed layer calls may hold the batch that it was followed with.
    batch = BATCH if analysis.graph.expansions else 1
    values: dict[int, Any] = {}
    number = next(
        n
        for n, group in enumerate(analysis.groups)
        if observation in group.observations
    )
    for index in observation.sources:
        source = analysis.trace.sources[index]
        if source.tensor is None:
            continue
        shape = (batch, *tensors[source.tensor].shape[1:])
        image = np.zeros(shape, "float32")
        channels = np.moveaxis(image, source.units.axis, -1)
        for places in analysis.positions(source.units.labels, number):
            channels[..., places] = constants
        values[source.tensor] = ops.convert_to_tensor(image)
    for each in _path(analysis, observation, step):
        for key in each.inputs:
            if key not in values:
                shape = (batch, *tensors[key].shape[1:])
                values[key] = ops.zeros(shape, "float32")
        values.update(zip(each.outputs, each.run(values), strict=True))
    return ops.cast(values[step.read[0]], consumer.kernel.dtype)

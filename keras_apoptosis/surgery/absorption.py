"""How consumers absorb a constant that replaces removed units."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from keras_apoptosis.graph import Analysis, Graph, Observation, Step
from keras_apoptosis.graph.activations import is_linear
from keras_apoptosis.graph.kinds import channel_axis
from keras_apoptosis.graph.trace import Consumer

# Layers between observation and consumer that add zeros around a constant.
PADDING = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)


def response_to(
    constants: np.ndarray,
    analysis: Analysis,
    observation: Observation,
    consumer: Consumer,
    places: np.ndarray,
    kernel: np.ndarray,
) -> tuple[np.ndarray, float]:
    """What a consumer makes of constant activations.

    Exact for dense layers and for 'valid' convolutions. A convolution that
    pads with zeros answers otherwise at its borders: then the mean over
    positions is taken, which leaves the least squared error.

    Args:
        constants: Shape `(size of the group,)`. The constant of each unit; 0
            for the units that stay.
        analysis: The model's units.
        observation: Where the constants stand.
        consumer: Who reads them.
        places: Shape `(occurrences, size)`. Where, along its weight's axis.
        kernel: The weight.

    Returns:
        The mean response of each of the consumer's units, and the root mean
        square of what deviates from it.
    """
    layer, rule = consumer.step.operation, consumer.rule
    path = _path(analysis, observation, consumer)
    padded = any(isinstance(step.operation, PADDING) for step in path)
    shape = analysis.graph.tensors[consumer.step.inputs[0]].shape
    exact = rule.keeps_constants(layer) and not padded
    if exact or None in shape[1:]:
        rows = np.moveaxis(kernel, (consumer.axis, rule.unit_axis), (0, -1))
        rows = rows.reshape(rows.shape[0], -1, rows.shape[-1]).sum(1)
        shift = sum(constants @ rows[place] for place in places)
        return shift, 0.0 if exact else float("nan")
    image = _constant_input(analysis, observation, consumer, constants, path)
    answer = ops.convert_to_numpy(
        rule.respond(layer, image, ops.convert_to_tensor(kernel, "float32"))
    ).astype("float64")
    answer = np.moveaxis(answer, channel_axis(layer, answer.shape), -1)
    answer = answer.reshape(-1, answer.shape[-1])
    shift = answer.mean(0)
    return shift, float(np.sqrt(np.mean((answer - shift) ** 2)))


def absorber_of(graph: Graph, step: Step) -> list[tuple[Any, int]] | None:
    """The variables that can take a shift of a layer's output, with sign.

    That is its bias or, where it has none, the moving mean of the batch
    normalizations that alone read it: in training they take out any constant
    by themselves.
    """
    layer = step.operation
    bias = getattr(layer, "bias", None)
    if bias is not None:
        return [(bias, 1)]
    if not is_linear(getattr(layer, "activation", None)):
        return None
    (output,) = step.outputs
    readers = [each for each in graph.steps if output in each.inputs]
    if output in graph.outputs or not readers:
        return None
    if all(type(r.operation) is layers.BatchNormalization for r in readers):
        norms = {id(r.operation): r.operation for r in readers}
        return [(norm.moving_mean, -1) for norm in norms.values()]
    return None


def _path(
    analysis: Analysis, observation: Observation, consumer: Consumer
) -> list[Step]:
    """The steps between an observation and a consumer, in order."""
    sources = analysis.trace.sources
    reached = {sources[each].tensor for each in observation.sources}
    needed = analysis.graph.steps_to({consumer.step.inputs[0]})
    path = []
    for step in needed:
        if reached.intersection(step.inputs) and not reached.intersection(
            step.outputs
        ):
            path.append(step)
            reached.update(step.outputs)
    return path


def _constant_input(
    analysis: Analysis,
    observation: Observation,
    consumer: Consumer,
    constants: np.ndarray,
    path: list[Step],
) -> Any:
    """What reaches a consumer when an observation holds constants."""
    tensors = analysis.graph.tensors
    values = {}
    number = next(
        n
        for n, group in enumerate(analysis.groups)
        if observation in group.observations
    )
    for index in observation.sources:
        source = analysis.trace.sources[index]
        shape = [1, *tensors[source.tensor].shape[1:]]
        image = np.zeros(shape, "float32")
        channels = np.moveaxis(image, source.units.axis, -1)
        places = analysis.positions(source.units.labels, number)[0]
        channels[..., places] = constants
        values[source.tensor] = ops.convert_to_tensor(image)
    for step in path:
        for key in step.inputs:
            if key not in values:
                shape = (1, *tensors[key].shape[1:])
                values[key] = ops.zeros(shape, "float32")
        values.update(zip(step.outputs, step.run(values), strict=True))
    return ops.cast(values[consumer.step.inputs[0]], "float32")

"""The weights that lead to units, and those that lead away from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np

from keras_apoptosis.backend import effective_value, lora_of
from keras_apoptosis.graph import Analysis
from keras_apoptosis.graph.units import FIXED
from keras_apoptosis.statistics.replaced_units import UnitScores


def incoming_weights(
    analysis: Analysis,
) -> Iterator[tuple[keras.Variable, int, keras.Layer]]:
    """Returns the kernels by which layers produce units.

    Yields:
        The kernel, the axis along which its units are, and its layer.
    """
    seen = set()
    # A weight that is used as a tensor has units along these axes as well.
    read = {(id(each.kernel), each.axis) for each in analysis.trace.consumers}
    for block in analysis.trace.blocks:
        for weight in block.layer.trainable_weights:
            if len(weight.shape) < 2 or id(weight) in seen:
                continue
            axes = analysis.trace.axes.get(id(weight), {})
            own = [
                axis
                for axis, labels in axes.items()
                if ((block.start <= labels) & (labels < block.stop)).any()
                and (id(weight), axis) not in read
            ]
            if own:
                seen.add(id(weight))
                # Of a recurrent kernel the last axis is that of the outputs.
                yield weight, max(own), block.layer


def incoming_kernels(
    analysis: Analysis,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns the values of the kernels by which layers produce units.

    Yields:
        Labels, and the kernel with the axis of these units first, in double
        precision; masked weights are zero.
    """
    for weight, axis, layer in incoming_weights(analysis):
        labels = analysis.trace.axes[id(weight)][axis]
        lora = lora_of(layer)
        if lora is not None and weight is lora.b:
            weight, axis = lora.weight, len(lora.weight.shape) - 1
        elif lora is not None and weight is lora.a:
            weight = lora.weight
        yield labels, np.moveaxis(effective_value(layer, weight), axis, 0)


def outgoing_kernels(
    analysis: Analysis,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Returns the values of the kernels by which layers consume units."""
    seen = set()
    for each in analysis.trace.consumers:
        key = (id(each.kernel), each.axis)
        if each.kernel is not None and key not in seen:
            seen.add(key)
            value = effective_value(each.layer, each.kernel)
            yield each.units.labels, np.moveaxis(value, each.axis, 0)


def per_unit(
    analysis: Analysis,
    kernels: Iterable[tuple[np.ndarray, np.ndarray]],
    measure: Callable[[np.ndarray], np.ndarray],
) -> UnitScores:
    """Sums a function over the weights of each unit.

    Args:
        analysis: The model's units.
        kernels: Labels, and kernels with the axis of these units first.
        measure: What to sum up: a function of an array, entry by entry.

    Returns:
        For each group, by name, shape `(units,)`.
    """
    found = [np.zeros(group.size) for group in analysis.groups]
    for labels, kernel in kernels:
        sums = measure(kernel).reshape(kernel.shape[0], -1).sum(1)
        for number in np.unique(analysis.group_of[labels[labels != FIXED]]):
            mine = analysis.member(labels, number)
            units = analysis.index_of[labels[mine]]
            np.add.at(found[number], units, sums[mine])
    names = (group.name for group in analysis.groups)
    return dict(zip(names, found, strict=True))

"""Finds the activations behind which units can die.

A unit is dead by what its activation returns (Demon pruning, section 2), not
by what poolings, sums and normalizations then make of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from keras import activations, layers

from keras_apoptosis.backend.classes import functions
from keras_apoptosis.graph.activations import (
    ELEMENTWISE,
    HOMOGENEOUS,
    RECTIFIERS,
    saturation_by_trial,
)
from keras_apoptosis.graph.groups import Analysis
from keras_apoptosis.graph.reading import Step
from keras_apoptosis.graph.units import Affine, Function, Sum

# They come to rest at zero for what is far enough below it.
SILENT = (
    *RECTIFIERS,
    activations.gelu,
    activations.silu,
    activations.hard_silu,
    activations.mish,
)
SILENT_FUNCTIONS = tuple(
    getattr(functions.nn, name)
    for name in ("Relu", "Relu6", "Gelu", "Silu", "HardSilu")
)


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """Activation that units of a group pass on their way to consumers.

    Args:
        source: Index of the source in the trace: what the activation returns.
        step: The call that applies it; `None` inside another layer.
        places: Where the units stand along the tensor's axis: shape
            `(occurrences, size of the group)`.
        side: Which outputs are those of a dead unit: `"zero"`, or
            `"negative"` for a leaky activation, which is never quite silent
            (Demon pruning, appendix F.7); `""` where the activation has no
            side on which it saturates at zero.
    """

    source: int
    step: Step | None
    places: np.ndarray
    side: str


def saturated_side(operation: Any) -> str:
    """Returns the side on which an activation, or a layer's own, saturates.

    Args:
        operation: A layer or a function of a graph.

    Returns:
        As `Gate.side`.
    """
    activation = getattr(operation, "activation", operation)
    if activation is activations.leaky_relu:
        return "negative"
    if isinstance(activation, layers.LeakyReLU | functions.nn.LeakyRelu):
        return "negative"
    if type(activation) is layers.ReLU:
        return "negative" if activation.negative_slope else "zero"
    if activation in SILENT or isinstance(activation, SILENT_FUNCTIONS):
        return "zero"
    if activation in ELEMENTWISE or activation in HOMOGENEOUS:
        return ""
    return saturation_by_trial(activation)


def gates_of(analysis: Analysis, number: int) -> list[Gate]:
    """Returns the activations that a group's units pass last.

    From each observation of the group it goes back through what leaves
    a dead unit constant: poolings, sums, and normalizations by fixed numbers.

    Args:
        analysis: The model's units.
        number: Index of the group.

    Returns:
        The gates, each once, in the order of the graph. Where something else
        stands in the way (no activation, or one without a saturated side)
        there is a gate without a side.
    """
    found: dict[int, Gate] = {}
    waiting = [
        s for o in analysis.groups[number].observations for s in o.sources
    ]
    seen: set[int] = set()
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        source = analysis.trace.sources[index]
        step = None
        if source.tensor is not None:
            step = analysis.graph.made_by.get(source.tensor)
        side = saturated_side(step.operation) if step is not None else ""
        is_activation = isinstance(source.transfer, Function)
        passes = isinstance(source.transfer, Affine | Sum) or (
            is_activation and _is_pooling(step)
        )
        if passes and source.inputs:
            for units in source.inputs:
                mine = analysis.member(units.labels, number)
                waiting.extend(np.unique(units.sources[mine]).tolist())
            continue
        places = analysis.positions(source.units.labels, number)
        found[index] = Gate(index, step, places, side if is_activation else "")
    return [found[index] for index in sorted(found)]


def silent_groups(analysis: Analysis) -> dict[int, list[Gate]]:
    """Returns the groups whose units can die, with the activations they pass.

    Args:
        analysis: The model's units.

    Returns:
        For each such group, by its index, its gates.
    """
    found = {}
    for number, group in enumerate(analysis.groups):
        if group.removable:
            gates = gates_of(analysis, number)
            if gates and all(gate.side for gate in gates):
                found[number] = gates
    return found


def _is_pooling(step: Step | None) -> bool:
    """Returns whether a call takes the largest of several positions."""
    return step is not None and isinstance(
        step.operation,
        layers.MaxPooling1D
        | layers.MaxPooling2D
        | layers.MaxPooling3D
        | layers.GlobalMaxPooling1D
        | layers.GlobalMaxPooling2D
        | layers.GlobalMaxPooling3D,
    )

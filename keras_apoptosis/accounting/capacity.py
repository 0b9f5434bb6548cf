"""Active parameters: what a model can use of its capacity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend import kernel_mask_of, kernel_of, layers_inside
from keras_apoptosis.graph import Analysis
from keras_apoptosis.graph.units import FIXED


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Counts of parameters: all of them, and those that are active.

    Args:
        active: Those that are neither pruned nor attached to a dead unit.
        total: All.
    """

    active: int
    total: int

    @property
    def share(self) -> float:
        """The active share, from 0 to 1; 1 where there are none at all."""
        return self.active / self.total if self.total else 1.0

    def __add__(self, other: Capacity) -> Capacity:
        return Capacity(self.active + other.active, self.total + other.total)


def capacity(
    analysis: Analysis, dead: Mapping[str, np.ndarray]
) -> dict[str, Capacity]:
    """Counts the active parameters of each layer.

    After Synaptic stripping, section III-D: the parameters that are not
    attached to a dead unit, neither as its input nor as its output, less
    those that are pruned; a weight between two dead units counts once. The
    masks and statistics of Prunable layers are no parameters.

    Args:
        analysis: The model's units.
        dead: For the paths of layers, which of their units are dead: boolean,
            shape `(units,)`. Layers that are not named have none.

    Returns:
        For each layer with parameters, by path, its `Capacity`. Their sum is
        the model's.
    """
    trace = analysis.trace
    masks, other = pruning_state(analysis.graph.model)
    alive = np.ones(trace.label_count, bool)
    maker = np.zeros(trace.label_count, int)
    for block in trace.blocks:
        maker[block.start : block.stop] = id(block.owner)
        if block.path in dead:
            alive[block.start : block.stop] = ~dead[block.path]
    # A sum of units is dead for its consumers if all of the units are.
    same = trace.same_units()
    seen = (np.bincount(same, weights=alive) > 0)[same]

    def remains(layer: keras.Layer, labels: np.ndarray) -> np.ndarray:
        stays = np.ones(labels.size, bool)
        units = labels != FIXED
        own = maker[labels[units]] == id(layer)
        stays[units] = np.where(own, alive[labels[units]], seen[labels[units]])
        return stays

    found: dict[str, Capacity] = {}
    counted: set[int] = set()
    for step in analysis.graph.steps:
        layer = step.operation
        if step.node is None or not isinstance(layer, keras.Layer):
            continue
        here = Capacity(0, 0)
        for weight in layer.weights:
            if id(weight) in counted or id(weight) in other:
                continue
            counted.add(id(weight))
            kept = {
                axis: remains(layer, labels)
                for axis, labels in trace.axes.get(id(weight), {}).items()
            }
            here += _count(weight, masks.get(id(weight)), kept)
        if here.total:
            found[step.path] = here
    return found


def _count(
    weight: keras.Variable,
    mask: keras.Variable | None,
    kept: Mapping[int, np.ndarray],
) -> Capacity:
    shape = list(weight.shape)
    total = math.prod(shape)
    if mask is None:
        for axis, stays in kept.items():
            shape[axis] = int(stays.sum())
        return Capacity(math.prod(shape), total)
    there = ops.convert_to_numpy(mask.value)
    for axis, stays in kept.items():
        there = np.compress(stays, there, axis)
    return Capacity(int(there.sum()), total)


def pruning_state(
    model: keras.Model,
) -> tuple[dict[int, keras.Variable], set[int]]:
    """Returns the variables that pruning itself has added to a model.

    Returns:
        The mask of each masked weight, by the weight's `id`, and the `id` of
        every variable that holds masks or statistics.
    """
    masks: dict[int, keras.Variable] = {}
    other: set[int] = set()
    for layer in layers_inside(model):
        mask = kernel_mask_of(layer)
        if mask is not None:
            masks[id(kernel_of(layer))] = mask
            other.add(id(mask))
        other.update(map(id, getattr(layer, "statistics_variables", ())))
    return masks, other

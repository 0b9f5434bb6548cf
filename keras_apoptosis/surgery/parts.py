"""Cuts what initializers, regularizers and constraints hold for each unit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import cut
from keras_apoptosis.graph import Graph
from keras_apoptosis.surgery.plan import Plan


def cut_parts(graph: Graph, plan: Plan) -> list[tuple[Any, dict[str, Any]]]:
    """Finds parts of layers that hold one value a unit, and cuts them.

    As `Constant(array)`, by which pretrained embeddings are often given: it is
    in the layer's config, from which a saved model is built. Parts are named
    after the weight that they are for, as `kernel_initializer`. The parts
    themselves stay as they are; layers may share them.

    Args:
        graph: The model's graph.
        plan: What the model becomes.

    Returns:
        Layers and their weights, with those of their attributes that change.
    """
    found: list[tuple[Any, dict[str, Any]]] = []
    operations = {id(s.operation): s.operation for s in graph.steps}
    layers = {
        id(layer): layer
        for operation in operations.values()
        if isinstance(operation, keras.Layer)
        for layer in backend.layers_inside(operation)
    }
    for layer in layers.values():
        new = {}
        for name, part in backend.parts_of(layer).items():
            stem = name.rsplit("_", 1)[0]
            for weight in layer.variables:
                kept = plan.kept.get(id(weight))
                if kept and weight.name in (stem, f"{stem}_kernel"):
                    smaller = _cut_part(part, tuple(weight.shape), kept)
                    if smaller is not None:
                        new[name] = smaller
                        held = backend.held_parts(weight, part, smaller)
                        found.append((weight, held))
        if new:
            found.append((layer, new))
    return found


def _cut_part(
    part: Any, shape: tuple, kept: Mapping[int, np.ndarray]
) -> Any | None:
    """Returns a copy of a part with smaller arrays; `None` if it has none."""
    new = {}
    for name, value in vars(part).items():
        array = _array(value)
        if array is not None:
            smaller = _cut_array(array, shape, kept)
            if smaller.shape != array.shape:
                listed = isinstance(value, (list, tuple))
                new[name] = smaller.tolist() if listed else smaller
    if not new:
        return None
    result = copy.copy(part)
    vars(result).update(new)
    return result


def _array(value: Any) -> np.ndarray | None:
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        return keras.ops.convert_to_numpy(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        try:
            array = np.asarray(value)
        except ValueError:  # Lists of several lengths.
            return None
        return array if array.dtype.kind in "biuf" else None
    return None


def _cut_array(
    array: np.ndarray, shape: tuple, kept: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Cuts an array that is broadcast to a weight's shape."""
    ahead = len(shape) - array.ndim
    return cut(
        array,
        {
            axis - ahead: positions
            for axis, positions in kept.items()
            if axis >= ahead and array.shape[axis - ahead] == shape[axis] != 1
        },
    )

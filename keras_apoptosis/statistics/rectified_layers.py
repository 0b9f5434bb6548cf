"""Finds layers of rectified units, and measures their total activation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_apoptosis.graph import Analysis, Graph, Step
from keras_apoptosis.graph.activations import is_rectifier
from keras_apoptosis.graph.rule_table import rule_of
from keras_apoptosis.graph.rules import Contraction, channel_axis
from keras_apoptosis.statistics.probe import Point, collect


@dataclasses.dataclass(frozen=True, eq=False)
class Rectified:
    """A layer whose units pass a ReLU, and no other layer before it.

    Args:
        path: Path of the layer.
        layer: The layer whose weights feed the units.
        rule: The rule of the layer, which names its kernel.
        judge: The layer that applies the ReLU: the same one, or one that
            follows it.
        tensors: Keys of the outputs of the judge, one for each of its calls.
    """

    path: str
    layer: keras.Layer
    rule: Contraction
    judge: keras.Layer
    tensors: tuple[int, ...]

    @property
    def kernel(self) -> keras.Variable:
        """The kernel: the incoming weights."""
        return getattr(self.layer, self.rule.kernel)

    @property
    def size(self) -> int:
        """The number of units."""
        return self.kernel.shape[self.rule.unit_axis]

    def point(self, graph: Graph) -> Point:
        """Returns the point at which the units are measured."""
        parts = []
        for key in self.tensors:
            shape = tuple(graph.tensors[key].shape)
            axis = channel_axis(self.layer, shape)
            parts.append((key, axis, np.arange(self.size)[None], None))
        return Point(AFTER_RELU, self.path, parts)


# The name of the group under which rectified layers are measured.
AFTER_RELU = "after the ReLU"


def rectified_layers(
    graph: Graph, convolutions: bool = False
) -> list[Rectified]:
    """Finds the layers whose units a ReLU follows directly.

    These are dense layers with a ReLU as activation, and dense layers whose
    output is consumed by a ReLU layer only. A normalization between the two
    does not count as direct: it sets the mean input of the ReLU, whatever the
    weights are.

    Args:
        graph: The model.
        convolutions: Whether to take convolutions as well.

    Returns:
        The layers, from the input of the model to its output.
    """
    found = []
    for layer, calls in _calls(graph).items():
        rule = rule_of(layer)
        if not isinstance(rule, Contraction):
            continue
        if rule.spatial and not convolutions:
            continue
        judges = calls
        if not is_rectifier(layer):
            judges = _only_readers(graph, calls)
        if judges and is_rectifier(judges[0].operation):
            found.append(
                Rectified(
                    calls[0].path,
                    layer,
                    rule,
                    judges[0].operation,
                    tuple(step.outputs[0] for step in judges),
                )
            )
    return found


def totals(
    analysis: Analysis,
    layers: Iterable[Rectified],
    data: Any,
    batch_size: int = 512,
) -> dict[str, np.ndarray]:
    """Measures the total activation of each unit on data, in one pass.

    Args:
        analysis: The model's units.
        layers: The layers to measure.
        data: The data; see `ka.unit_statistics`.
        batch_size: How many samples of an array to run at once.

    Returns:
        For each layer, by path, the totals: shape `(units,)`.
    """
    points = [layer.point(analysis.graph) for layer in layers]
    found = collect(analysis, points, data, gram=False, batch_size=batch_size)[
        AFTER_RELU
    ]
    return {path: moments.total for path, moments in found.items()}


def _calls(graph: Graph) -> dict[Any, list[Step]]:
    """Returns each layer with its calls."""
    calls: dict[Any, list[Step]] = {}
    for step in graph.steps:
        if step.node is not None:
            calls.setdefault(step.operation, []).append(step)
    return calls


def _only_readers(graph: Graph, calls: list[Step]) -> list[Step]:
    """Returns the calls of the one layer that consumes a layer's output.

    Empty if other layers consume it as well, or if that layer has other
    inputs.
    """
    outputs = {step.outputs[0] for step in calls}
    readers = [s for s in graph.steps if outputs & set(s.inputs)]
    alone = len({id(step.operation) for step in readers}) == 1
    if not alone or outputs & set(graph.outputs):
        return []
    reads_others = any(
        step.operation is readers[0].operation
        and not outputs & set(step.inputs)
        for step in graph.steps
    )
    return [] if reads_others else readers

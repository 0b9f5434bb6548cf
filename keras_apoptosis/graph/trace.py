"""Follows units through a graph, one rule per operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from keras_apoptosis.graph.reading import Graph, Step
from keras_apoptosis.graph.units import FIXED, Source, Transfer, Units


@dataclasses.dataclass(frozen=True, eq=False)
class Consumer:
    """A weight that reads units, in one call of its layer.

    Args:
        step: The call.
        rule: The rule of the layer.
        kernel: The weight.
        axis: Its axis along which the units are read.
        units: The units it reads, in the order of that axis.
    """

    step: Step
    rule: Any
    kernel: keras.Variable
    axis: int
    units: Units


@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """An entry of a layer's config that follows its units.

    `value` makes it from the positions, along `labels`, that stay.
    """

    labels: np.ndarray
    value: Callable[[np.ndarray], Any] = len


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Units that one layer produces, with labels `start` to `stop - 1`."""

    step: Step
    start: int
    stop: int


class Trace:
    """What is known of the units of a graph.

    Labels are integers, one for each unit of each producer. Two labels that
    an operation ties (`Add`, say) are one unit: `ties` collects the pairs.

    Attributes:
        graph: The graph.
        units: The units of each tensor, by key; absent where it has none.
        sources: All sources; `Units.sources` are indices into them.
        blocks: The producers.
        consumers: The readers.
        carriers: For each layer with or without weights that units pass
            through: the steps and the labels they pass with.
        axes: For each weight, the labels along the axes that units own.
        sizes: For each layer, the config entries that follow its units.
        frozen: Labels that must not leave, with the reason.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.units: dict[int, Units] = {}
        self.sources: list[Source] = []
        self.blocks: list[Block] = []
        self.consumers: list[Consumer] = []
        self.carriers: list[tuple[Step, np.ndarray]] = []
        self.variables: dict[int, keras.Variable] = {}
        self.axes: dict[int, dict[int, np.ndarray]] = {}
        self.sizes: dict[int, dict[str, Size]] = {}
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def label_count(self) -> int:
        return self.blocks[-1].stop if self.blocks else 0

    def tie(self, first: np.ndarray, second: np.ndarray, reason: str) -> None:
        """Makes the units at the same places of two arrays one unit."""
        for one, other in ((first, second), (second, first)):
            # What never leaves holds back whatever is tied to it.
            self.freeze(one[(one != FIXED) & (other == FIXED)], reason)
        both = (first != FIXED) & (second != FIXED)
        self.ties.append((first[both], second[both]))

    def freeze(self, labels: np.ndarray, reason: str) -> None:
        labels = labels[labels != FIXED]
        if labels.size:
            self.frozen.append((labels, reason))

    def own(self, variable: Any, axis: int, labels: np.ndarray) -> None:
        """Records that units own the slices of a weight along an axis."""
        axis %= len(variable.shape)
        self.variables[id(variable)] = variable
        axes = self.axes.setdefault(id(variable), {})
        if axis in axes:  # A layer called twice: what it reads is tied.
            self.tie(axes[axis], labels, f"shared weight '{variable.path}'")
        else:
            axes[axis] = labels

    def same_units(self) -> np.ndarray:
        """For each label a number that is equal for tied labels."""
        count = self.label_count
        none = np.zeros(0, int)
        first = np.concatenate([none, *(one for one, _ in self.ties)])
        second = np.concatenate([none, *(other for _, other in self.ties)])
        links = coo_array(
            (np.ones(first.size), (first, second)), shape=(count, count)
        )
        return connected_components(links, directed=False)[1]


class Call:
    """One call of an operation, as its rule sees it."""

    def __init__(self, trace: Trace, step: Step):
        self.trace = trace
        self.step = step
        self.layer = step.operation

    @property
    def inputs(self) -> list[Units | None]:
        return [self.trace.units.get(key) for key in self.step.inputs]

    @property
    def input_shapes(self) -> list[tuple]:
        return [
            tuple(self.trace.graph.tensors[k].shape) for k in self.step.inputs
        ]

    @property
    def output_shapes(self) -> list[tuple]:
        return [
            tuple(self.trace.graph.tensors[k].shape) for k in self.step.outputs
        ]

    def produce(
        self, size: int, weights: Mapping[str, int], config: Iterable[str]
    ) -> np.ndarray:
        """Labels for the units that this layer makes.

        Args:
            size: How many.
            weights: Attribute names of weights, with the axis of the units.
                An attribute that is missing or `None` is passed over.
            config: Config entries that hold `size`.
        """
        owned = [
            self.trace.axes[id(variable)][axis % len(variable.shape)]
            for variable, axis in self._weights(weights)
            if axis % len(variable.shape)
            in self.trace.axes.get(id(variable), {})
        ]
        if owned:  # An earlier call of the same layer made them.
            return owned[0]
        start = self.trace.label_count
        self.trace.blocks.append(Block(self.step, start, start + size))
        labels = np.arange(start, start + size)
        for variable, axis in self._weights(weights):
            self.trace.own(variable, axis, labels)
        for key in config:
            self.resize(key, labels)
        return labels

    def consume(self, units: Units, kernel: str, axis: int, rule: Any) -> None:
        """Records that the layer reads `units` by its weight `kernel`."""
        variable = getattr(self.layer, kernel)
        self.trace.own(variable, axis, units.labels)
        self.trace.consumers.append(
            Consumer(
                self.step, rule, variable, axis % len(variable.shape), units
            )
        )

    def carry(self, units: Units, weights: Mapping[str, int] = {}) -> None:
        """Records that units pass through, owning slices of weights."""
        self.trace.carriers.append((self.step, units.labels))
        self.own(units.labels, weights)

    def own(self, labels: np.ndarray, weights: Mapping[str, int]) -> None:
        for variable, axis in self._weights(weights):
            self.trace.own(variable, axis, labels)

    def resize(
        self,
        key: str,
        labels: np.ndarray,
        value: Callable[[np.ndarray], Any] = len,
    ) -> None:
        """Records that config entry `key` follows `labels`.

        Args:
            key: The entry.
            labels: Labels along an axis.
            value: Makes the entry from the positions that stay; by default
                it is their number.
        """
        sizes = self.trace.sizes.setdefault(id(self.layer), {})
        sizes[key] = Size(labels, value)

    def tie(self, first: Units, second: Units) -> None:
        self.trace.tie(first.labels, second.labels, self._says("ties them"))

    def freeze(self, why: str, *units: Units | None) -> None:
        """Keeps units (default: of all inputs) from leaving."""
        for each in units or self.inputs:
            if each is not None:
                self.trace.freeze(each.labels, self._says(why))

    def freeze_labels(self, why: str, labels: np.ndarray) -> None:
        self.trace.freeze(labels, self._says(why))

    def emit(
        self,
        axis: int,
        labels: np.ndarray,
        transfer: Transfer,
        inputs: Iterable[Units] = (),
        tensor: int | None = None,
    ) -> Units:
        """Makes a new source of units and returns them.

        Args:
            axis: Axis of the units in the output.
            labels: The units, one a position.
            transfer: How the values arise.
            inputs: The units they arise from, position by position.
            tensor: Key of the output tensor, or `None`.
        """
        index = len(self.trace.sources)
        units = Units(axis, labels, np.full(labels.size, index))
        self.trace.sources.append(
            Source(self.step.path, tensor, units, transfer, tuple(inputs))
        )
        return units

    def put(self, *units: Units | None) -> None:
        """Sets the units of the step's outputs."""
        for key, each in zip(self.step.outputs, units, strict=True):
            if each is not None:
                self.trace.units[key] = each

    def _weights(self, weights: Mapping[str, int]):
        for name, axis in weights.items():
            variable = getattr(self.layer, name, None)
            if variable is not None:
                yield variable, axis

    def _says(self, why: str) -> str:
        kind = type(self.layer).__name__
        return f"{kind} '{self.step.path}' {why}"


def trace(graph: Graph, rules: Callable[[Step], Any]) -> Trace:
    """Follows the units of a graph.

    Args:
        graph: The graph.
        rules: Returns the rule of a step, or `None` if there is none.

    Returns:
        The trace.
    """
    result = Trace(graph)
    for step in graph.steps:
        rule, call = rules(step), Call(result, step)
        if rule is None:
            call.freeze("is of a kind that has no rule")
        else:
            rule.trace(call)
    for key in graph.outputs:
        if key in result.units:
            result.freeze(
                result.units[key].labels, "they are an output of the model"
            )
    return result

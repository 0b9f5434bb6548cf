"""Runs a sample through a model while its groups shrink one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_apoptosis import backend
from keras_apoptosis.distributed.long_work import tracked
from keras_apoptosis.graph import Analysis, Graph, Step
from keras_apoptosis.statistics.streaming import batches

# Bytes of tensors to hold between passes. Beyond it every pass starts at the
# inputs.
_HELD = 2**30


class SamplePasses:
    """Runs a sample through a model again and again, as far as it changed.

    Each group is fitted to the model that the removals before it left. What
    lies before these is as it was: it is held from one pass to the next,
    which so computes little more than what has changed. Results are those of
    passes that start at the inputs, to the last bit.

    Args:
        data: The sample; see `batches`.
        batch_size: How many samples of an array to run at once.
        samples: The maximum number of samples; `None` for all.
    """

    def __init__(
        self, data: Any, batch_size: int = 512, samples: int | None = None
    ):
        self.data = data
        self.batch_size = batch_size
        self.samples = samples
        self._held: list[dict[int, Any]] = []  # For each batch.
        self._seen: tuple = ()  # What the model was apart from the next group.

    def run(
        self, analysis: Analysis, wanted: set[int], number: int
    ) -> Iterator[dict[int, Any]]:
        """Iterates over batches of tensors.

        Args:
            analysis: The model's units as they are now.
            wanted: Keys of the tensors to compute.
            number: Index of the group of which units are removed next. Where
                others are, the next pass starts at the inputs.
        """
        graph = analysis.graph
        held, self._held = self._held, []
        if self._seen and self._seen != _others(analysis, self._seen[0]):
            held = []
        if not _leads_to(graph, wanted, held):
            held = []
        self._seen = _others(analysis, number)
        known = set(held[0]) if held else set(graph.inputs)
        keep = _frontier(
            graph,
            known.union(*(s.outputs for s in graph.steps_to(wanted, known))),
            unchanged_by(analysis, number),
        )
        size = 0
        for values in self._batches(graph, held):
            found = graph.go_on(values, wanted | keep)
            if keep:
                self._held.append({key: found[key] for key in keep})
                size += sum(map(_bytes, self._held[-1].values()))
            if size > _HELD:
                keep, self._held = set(), []
            yield found

    def _batches(
        self, graph: Graph, held: list[dict[int, Any]]
    ) -> Iterator[dict[int, Any]]:
        """Iterates over what is known of each batch, and lets go of it."""
        if not held:
            for inputs in batches(self.data, self.batch_size, self.samples):
                yield graph.entered(inputs)
            return
        count = len(held)
        held.reverse()
        for _ in tracked(range(count), "Running batches", count):
            yield held.pop()


def _others(analysis: Analysis, number: int) -> tuple:
    """Describes a model without the size of one group."""
    return (
        number,
        [
            (step.path, *step.inputs, *step.outputs)
            for step in analysis.graph.steps
        ],
        [g.size for n, g in enumerate(analysis.groups) if n != number],
    )


def unchanged_by(analysis: Analysis, number: int) -> set[int]:
    """Returns keys of tensors that the removal of units leaves as they are.

    Units of a group are removed from the tensors and weights that hold them.
    That changes whatever is computed from these, all weights on the way, and
    other calls of layers that share one of them.

    Args:
        analysis: The model's units.
        number: Index of the group.
    """
    trace, graph = analysis.trace, analysis.graph
    changed = {
        key
        for key, axes in trace.units.items()
        if any(
            analysis.member(units.labels, number).any()
            for units in axes.values()
        )
    }
    weights = {
        key
        for key, axes in trace.axes.items()
        if any(analysis.member(each, number).any() for each in axes.values())
    }
    weights_of = {id(step): _weights_of(step) for step in graph.steps}
    before = -1
    while before != len(changed) + len(weights):
        before = len(changed) + len(weights)
        for step in graph.steps:
            mine = weights_of[id(step)]
            if (
                not changed.isdisjoint(step.inputs)
                or not changed.isdisjoint(step.outputs)
                or not weights.isdisjoint(mine)
            ):
                changed.update(step.outputs)
                weights.update(mine)
    every = {key for step in graph.steps for key in step.outputs}
    return every.union(graph.inputs) - changed


def _weights_of(step: Step) -> set[int]:
    whole = step.operation if step.expansion is None else step.expansion.layer
    if step.node is None and step.expansion is None:  # A model's border.
        return set()
    return {id(each) for each in getattr(whole, "variables", ())}


def _frontier(graph: Graph, available: set[int], stays: set[int]) -> set[int]:
    """Returns the tensors that what changes, or is not there yet, reads.

    Args:
        graph: The graph.
        available: Keys of the tensors that are computed.
        stays: Keys of the tensors that do not change.
    """
    done = available & stays
    return {
        key
        for step in graph.steps
        if not done.issuperset(step.outputs)
        for key in done.intersection(step.inputs)
    }


def _leads_to(
    graph: Graph, wanted: set[int], held: list[dict[int, Any]]
) -> bool:
    """Returns whether what is held is enough to compute tensors."""
    if not held:
        return False
    known = set(held[0])
    missing = wanted.union(*(s.inputs for s in graph.steps_to(wanted, known)))
    return not (missing - known).intersection(graph.inputs)


def _bytes(tensor: Any) -> int:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return math.prod(tensor.shape) * backend.itemsize(dtype)

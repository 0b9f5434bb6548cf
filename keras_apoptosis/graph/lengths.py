"""Counts multiplications at lengths that a model's graph leaves open.

A graph may not know the lengths of sequences, or the sizes of images; and what
a followed layer calls was recorded at sizes that stand in for them. Here the
graph is computed anew, without values, at lengths that are given. Where none
are, it is computed at two lengths: what grows with them is counted for each
position of the input.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_apoptosis.backend import call_on_shapes
from keras_apoptosis.graph.expansion import BATCH, Expansion
from keras_apoptosis.graph.reading import Graph, Step
from keras_apoptosis.graph.rule_table import BORDER
from keras_apoptosis.graph.trace import Trace, Work
from keras_apoptosis.graph.tracing import trace as follow_units

# Pairs of lengths, the second twice the first: with the powers of two that
# layers divide by, the quotients are whole. Some layers limit lengths from
# above (position embeddings), others from below (strides, valid padding).
NOMINAL = ((64, 128), (16, 32), (4, 8), (256, 512))


def input_tensors(graph: Graph) -> list[keras.KerasTensor]:
    """Returns the inputs of a graph, with shapes as they were declared."""
    first = graph.steps[0] if graph.steps else None
    if (
        first is not None
        and first.expansion is not None
        and first.expansion.layer is graph.model
    ):
        return [
            each
            for each in keras.tree.flatten(first.expansion.arguments)
            if isinstance(each, keras.KerasTensor)
        ]
    return [graph.tensors[key] for key in graph.inputs]


def work_of(trace: Trace, input_shape: Any = None) -> tuple[Work, ...]:
    """Returns the multiplications of one sample's forward pass.

    Args:
        trace: What the rules recorded.
        input_shape: Shapes of the inputs without the batch; see `ka.flops`.

    Returns:
        The multiplications, call by call. Where lengths are open and none are
        given, they are those for each position of the input. The factor of
        all is `nan` where they cannot be counted.

    Raises:
        ValueError: If `input_shape` does not fit the model.
    """
    graph = trace.graph
    shapes = [tuple(each.shape) for each in input_tensors(graph)]
    if input_shape is not None:
        shapes = _given(graph, input_shape)
    try:
        if not any(None in shape[1:] for shape in shapes):
            if input_shape is None and _is_settled(graph):
                return tuple(trace.work)
            return tuple(_work_at(trace, shapes))
    except Exception as error:  # Whatever a layer's own code may raise.
        if input_shape is not None:
            raise ValueError(
                "Expected `input_shape` to hold shapes that the model can be "
                f"called on. Received: input_shape={input_shape} ({error})"
            ) from error
        return _uncounted(trace)
    for lengths in NOMINAL:
        try:
            works = [_work_at(trace, _filled(shapes, n)) for n in lengths]
            return tuple(
                _per_position(one, other, *lengths)
                for one, other in zip(*works, strict=True)
            )
        except Exception:  # Too short for some layers, too long for others.
            continue
    return _uncounted(trace)


def _given(graph: Graph, input_shape: Any) -> list[tuple]:
    """Returns the shape of each input, with the batch, as a user gave it."""
    tensors = input_tensors(graph)
    names = [each.name for each in tensors]
    given = input_shape
    if isinstance(given, Mapping):
        given = [given[n] for n in names] if set(given) == {*names} else None
    elif _is_shape(given):
        given = [given]
    fits = (
        isinstance(given, (list, tuple))
        and len(given) == len(tensors)
        and all(
            _is_shape(shape)
            and len(shape) == len(tensor.shape) - 1
            and all(
                own is None or own == size
                for own, size in zip(tensor.shape[1:], shape, strict=True)
            )
            for shape, tensor in zip(given, tensors, strict=True)
        )
    )
    if not fits or given is None:
        expected = {
            name: tuple(tensor.shape[1:])
            for name, tensor in zip(names, tensors, strict=True)
        }
        raise ValueError(
            "Expected `input_shape` to be the shape of the input without the "
            "batch, all of it known; or several, in a list or by name, for "
            f"{expected}. Received: input_shape={input_shape}"
        )
    return [
        (tensor.shape[0], *shape)
        for shape, tensor in zip(given, tensors, strict=True)
    ]


def _is_shape(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and all(
        isinstance(size, int) and size > 0 for size in given
    )


def _is_settled(graph: Graph) -> bool:
    """Returns whether the shapes in a graph say all that is to be counted.

    A function may move the batch into other axes, and others into it.
    """
    return all(
        step.expansion is None and isinstance(step.operation, keras.Layer)
        for step in graph.steps
    ) and not any(None in each.shape[1:] for each in graph.tensors)


def _filled(shapes: Sequence[tuple], length: int) -> list[tuple]:
    return [
        (shape[0], *(length if n is None else n for n in shape[1:]))
        for shape in shapes
    ]


def _work_at(trace: Trace, shapes: Sequence[tuple]) -> list[Work]:
    """Follows the units of a graph anew, at given shapes of its inputs."""
    graph = _at(trace.graph, shapes)
    found = follow_units(graph, trace.rule_of, BORDER)
    same = [(b.path, b.start, b.stop) for b in found.blocks] == [
        (b.path, b.start, b.stop) for b in trace.blocks
    ]
    if not same or any(math.isnan(each.factor) for each in found.work):
        raise ValueError("its layers do other things at these lengths")
    return found.work


def _at(graph: Graph, shapes: Sequence[tuple]) -> Graph:
    """Returns a graph with the shapes that it has for given inputs."""
    batch = next((s[0] for s in shapes if s and s[0] is not None), BATCH)
    tensors = list(graph.tensors)
    steps: list[Step] = []
    followed: dict[int, Expansion] = {}

    def put(keys: Sequence[int], new: Sequence[keras.KerasTensor]) -> None:
        for key, tensor in zip(keys, new, strict=True):
            tensors[key] = tensor

    put(
        graph.inputs,
        [
            keras.KerasTensor((batch, *shape[1:]), graph.tensors[key].dtype)
            for key, shape in zip(graph.inputs, shapes, strict=True)
        ],
    )
    for step in graph.steps:
        read = [tensors[key] for key in step.inputs]
        if step.node is None:
            put(step.outputs, read[:1])
        elif step.expansion is None:
            args, kwargs = step.filled(read)
            put(step.outputs, call_on_shapes(step.operation, args, kwargs))
        elif step.index < 0:
            sizes = [tuple(each.shape) for each in read]
            found = step.expansion.at(sizes)
            followed[id(step.expansion)] = found
            put(step.outputs, found.inputs)
            step = dataclasses.replace(step, expansion=found)
        else:
            found = followed[id(step.expansion)]
            record = found.records[step.index]
            put(step.outputs, record.outputs)
            step = dataclasses.replace(
                step,
                operation=record.operation,
                node=record,
                expansion=found,
            )
        steps.append(step)
    return dataclasses.replace(
        graph, steps=tuple(steps), tensors=tuple(tensors), batch=batch
    )


def _per_position(one: Work, other: Work, first: int, second: int) -> Work:
    """Returns the multiplications for each position of the input.

    Args:
        one: Those at the first length.
        other: Those at the second.
        first: The first length.
        second: The second, twice as long.
    """
    if len(one.sizes) != len(other.sizes):
        raise ValueError("its layers do other things at these lengths")
    sizes = tuple(
        _growth(a, b, first, second)
        for a, b in zip(one.sizes, other.sizes, strict=True)
    )
    return dataclasses.replace(one, sizes=sizes)


def _growth(one: Any, other: Any, first: int, second: int) -> Any:
    """Returns how much of a size is added by each position of the input."""
    if one == other:
        return one
    # An image's rows and columns, put into one axis, grow by a square.
    power = round(math.log2(other / one))
    if power > 1:
        return other / second**power
    return (other - one) / (second - first)


def _uncounted(trace: Trace) -> tuple[Work, ...]:
    return tuple(
        dataclasses.replace(each, sizes=(None,)) for each in trace.work
    )

"""Composite layers to the layers and operations that they are made of."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend.calls import mask_of
from keras_apoptosis.backend.classes import functions
from keras_apoptosis.backend.gradients import no_gradients
from keras_apoptosis.graph.expansion import (
    BATCH,
    LENGTHS,
    Exit,
    Expansion,
    NotFollowed,
    Parameter,
    concrete,
    difference,
    filled,
    random_value,
)
from keras_apoptosis.graph.reading import Graph, Step, read
from keras_apoptosis.graph.rule_table import rule_of
from keras_apoptosis.graph.sizes import first_difference
from keras_apoptosis.surgery.conversion import copy_state


def inline(model: keras.Model, *, length: int | None = None) -> keras.Model:
    """Makes a functional model of the layers inside a model's own layers.

    A block that is written as a layer of its own shows the sizes that its
    class has arguments for: a transformer block which computes the width of
    a head as `hidden_dim // num_heads` can lose no head. Its inner layers
    can, each by itself. This function calls every such layer on symbolic
    tensors and makes a flat functional model of what it calls, to prune
    before or while it trains: all units inside are measured by every method,
    and what is saved loads without this package.

    A layer stays as it is where its calls do not say all that it does: where
    it uses weights of its own (a class token), computes something else in
    training, adds losses, or computes with numbers that depend on a batch.

    Args:
        model: A built model, subclassed ones included. It is left as it is.
        length: Integer, at least 1. The size of all axes, but the batch, whose
            size is unknown; the new model takes inputs of that size only.
            By default they stay unknown, and layers that compute with them
            (causal masks, positions) stay as they are.

    Returns:
        A functional model with copied weights, which is not compiled. Inner
        layers are named by their path, as in `"block_attention_query"`.

    Raises:
        ValueError: If the calls of a subclassed model cannot be followed, a
            layer cannot be made again of its config, or the new model
            computes something else than `model` does.

    Example:

    >>> class Block(keras.layers.Layer):
    ...     def __init__(self, width, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.up = keras.layers.Dense(2 * width, "relu", name="up")
    ...         self.down = keras.layers.Dense(width, name="down")
    ...     def call(self, inputs):
    ...         return inputs + self.down(self.up(inputs))
    >>> inputs = keras.Input((8,))
    >>> model = keras.Model(inputs, Block(8, name="block")(inputs))
    >>> [layer.name for layer in ka.inline(model).layers[1:]]
    ['block_up', 'block_down', 'block_add']
    """
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ValueError(
            "Expected `length` to be an integer of at least 1, or `None`. "
            f"Received: length={length}"
        )
    reasons: dict[int, str] = {}
    while True:
        graph = read(model, Composites(frozenset(reasons)))
        try:
            found = _Inlining(graph, length, reasons).run()
        except _Stays as stays:
            if stays.layer is model:
                raise ValueError(
                    f"Cannot inline model '{model.name}': it {stays.reason}. "
                    f"Received: model={model}"
                ) from stays
            reasons[id(stays.layer)] = stays.reason
            print("STAYS", type(stays.layer).__name__, stays.layer.name, stays.reason[:300])
        else:
            _compare(graph, found)
            return found


@dataclasses.dataclass(frozen=True)
class Composites:
    """Layers to replace by what they call: those that have no rule.

    Args:
        kept: Ids of layers that stay as they are.
    """

    kept: frozenset[int]

    def __call__(self, layer: keras.Layer) -> bool:
        return id(layer) not in self.kept and rule_of(layer) is None


class _Stays(Exception):
    """A layer that cannot be replaced by what it calls.

    Args:
        layer: The layer.
        reason: Why.
    """

    def __init__(self, layer: keras.Layer, reason: str):
        super().__init__(reason)
        self.layer = layer
        self.reason = reason


class _Inlining:
    """Makes a functional model, step by step.

    Args:
        graph: The model's graph, in which some layers are followed.
        length: The size of axes whose size is unknown; `None` to leave it so.
    """

    def __init__(
        self, graph: Graph, length: int | None, reasons: Mapping[int, str]
    ):
        self.graph = graph
        self.length = length
        self.values: dict[int, keras.KerasTensor] = {}
        self.reasons = reasons
        self.copies: dict[int, tuple[keras.Layer, keras.Layer]] = {}
        self.weights = {}
        self.names: set[str] = set()
        self.followed: dict[int, tuple[Expansion, Expansion]] = {}

    def run(self) -> keras.Model:
        """Returns the model."""
        graph, model = self.graph, self.graph.model
        inputs = [self._input(graph.tensors[key]) for key in graph.inputs]
        self.values.update(zip(graph.inputs, inputs, strict=True))
        self.reference = inputs[0]
        for step in graph.steps:
            made = self._made(step)
            self.values.update(zip(step.outputs, made, strict=True))
        outputs = [self.values[key] for key in graph.outputs]
        into, out = _structures(graph)
        new = keras.Model(
            _packed(into, inputs), _packed(out, outputs), name=model.name
        )
        for layer, copied in self.copies.values():
            copy_state(layer, copied)
        return new

    def _input(self, tensor: keras.KerasTensor) -> keras.KerasTensor:
        batch, *sizes = tensor.shape
        named = backend.as_function(self.graph.model) is not None
        return keras.Input(
            batch_shape=(
                batch,
                *(self.length if size is None else size for size in sizes),
            ),
            dtype=tensor.dtype,
            name=self._name(tensor.name if named else "inputs"),
        )

    def _made(self, step: Step) -> list[keras.KerasTensor]:
        """Returns the outputs of a step, as tensors of the new model."""
        given = [self.values[key] for key in step.inputs]
        if step.node is None:  # The border of a model or of a layer.
            return given[:1]
        if step.expansion is None:
            args, kwargs = step.filled(given)
            return self._call(step.operation, step.path, args, kwargs)
        if step.index < 0:
            return self._enter(step.expansion, given)
        one, two = (
            each.records[step.index]
            for each in self.followed[id(step.expansion)]
        )
        layer = one.inside[-1] if one.inside else step.expansion.layer
        if one.computed:
            raise _Stays(layer, "computes with numbers made of its weights")
        if isinstance(one.operation, Parameter):
            return [self._weight(one.operation, step.path)]
        known = dict(zip(map(id, one.arguments.keras_tensors), given))
        flat = [
            _without_sizes(first, second, known, layer)
            for first, second in zip(
                keras.tree.flatten((one.args, one.kwargs)),
                keras.tree.flatten((two.args, two.kwargs)),
                strict=True,
            )
        ]
        args, kwargs = keras.tree.pack_sequence_as(
            (one.args, one.kwargs), flat
        )
        if isinstance(one.operation, Exit):
            return [*args]
        if isinstance(one.operation, keras.Layer):
            return self._call(one.operation, step.path, args, kwargs)
        try:
            return self._apply(
                one.operation, two.operation, step.path, args, kwargs, layer
            )
        except Exception as error:
            raise _Stays(layer, f"{error}") from error

    def _apply(self, one, two, path, args, kwargs, layer):
        config, other = one.get_config(), two.get_config()
        differing = [
            name
            for name, value in config.items()
            if name != "name" and value != other[name]
        ]
        function = None
        if not differing:
            return keras.tree.flatten(self._copy(one, path)(*args, **kwargs))
        elif differing == ["newshape"]:
            function = _reshape(config["newshape"], other["newshape"])
        elif differing in (["shape"], ["repeats"]):
            # Along the batch.
            before, after = config[differing[0]], other[differing[0]]
            if isinstance(before, int) and config["axis"] == 0:
                before, after = (
                    (each, *[1] * (len(args[0].shape) - 1))
                    for each in (before, after)
                )
            if before[1:] == after[1:] and (before[0], after[0]) == (
                BATCH,
                BATCH + 2,
            ):
                value = args[0]
                zeros = ops.reshape(
                    ops.sum(
                        ops.zeros_like(self.reference),
                        axis=tuple(range(1, len(self.reference.shape))),
                    ),
                    (-1, *[1] * (len(before) - 1)),
                )
                whole = ops.add(value, ops.cast(zeros, value.dtype))
                if differing == ["shape"]:
                    return [
                        ops.add(whole, ops.zeros((1, *before[1:]), value.dtype))
                    ]
                return [ops.tile(whole, (1, *before[1:]))]
        if function is None:
            raise _Stays(layer, "computes with the size of its inputs")
        function.name = self._name(path)
        return keras.tree.flatten(function(*args, **kwargs))

    def _weight(self, parameter: Parameter, path: str) -> keras.KerasTensor:
        """Returns a weight as a tensor, which an `Embedding` looks up."""
        variable = parameter.variable
        shape = tuple(variable.shape)
        if id(variable) not in self.weights:
            width = shape[-1] if shape else 1
            layer = keras.layers.Embedding(
                math.prod(shape) // max(width, 1),
                width,
                embeddings_regularizer=variable.regularizer,
                embeddings_constraint=variable.constraint,
                dtype=parameter.dtype,
                name=self._name(path),
            )
            zero = ops.cast(ops.sum(ops.zeros_like(self.reference)), "int32")
            rows = ops.add(zero, ops.arange(layer.input_dim, dtype="int32"))
            self.weights[id(variable)] = layer, rows
            layer(rows)
            value = ops.convert_to_numpy(variable.value)
            layer.embeddings.assign(value.reshape(layer.embeddings.shape))
            layer.embeddings.trainable = variable.trainable
        layer, rows = self.weights[id(variable)]
        value = layer(rows)
        if parameter.index is not None:
            index = parameter.index
            plain = np.arange(index.size).reshape(index.shape)
            if not np.array_equal(index, plain):
                value = ops.take(ops.reshape(value, (-1,)), index)
        if tuple(value.shape) != parameter.shape:
            value = ops.reshape(value, parameter.shape)
        return ops.cast(value, parameter.dtype)

    def _enter(
        self, expansion: Expansion, given: Sequence[keras.KerasTensor]
    ) -> list[keras.KerasTensor]:
        """Follows a layer at two sizes of all that is unknown."""
        layer = expansion.layer
        if layer.activity_regularizer is not None:
            raise _Stays(layer, "has an activity regularizer")
        shapes = [
            [
                other if size is None else size
                for size, other in zip(tensor.shape, own.shape, strict=True)
            ]
            for tensor, own in zip(given, expansion.inputs, strict=False)
        ]
        others = [
            [
                size if size is not None else other - 2 if axis else BATCH + 2
                for axis, (size, other) in enumerate(
                    zip(tensor.shape, own.shape, strict=True)
                )
            ]
            for tensor, own in zip(given, expansion.inputs, strict=False)
        ]
        try:
            one = expansion.at([*map(tuple, shapes)])
            two = expansion.at([*map(tuple, others)])
            three = one.in_training()
        except NotFollowed as error:
            raise _Stays(layer, str(error)) from error
        first = first_difference(one, three)
        if first is not None:
            raise _Stays(first, "does something else in training")
        self.followed[id(expansion)] = one, two
        masks = [mask_of(given[place]) for place in expansion.masked]
        if any(mask is None for mask in masks):
            raise _Stays(layer, "is given a mask that no operation computes")
        return [*given, *masks]

    def _call(
        self, operation: Any, path: str, args: tuple, kwargs: Mapping[str, Any]
    ) -> list[keras.KerasTensor]:
        """Calls a copy of an operation, one for all calls of a layer."""
        _, copied = self.copies.get(id(operation), (None, None))
        if copied is None:
            copied = self._copy(operation, path)
            if isinstance(operation, keras.Layer):
                self.copies[id(operation)] = operation, copied
        return keras.tree.flatten(copied(*args, **kwargs))

    def _copy(self, operation: Any, path: str) -> Any:
        try:
            return backend.copy_of(operation, self._name(path))
        except Exception as error:  # Whatever its class objects to.
            why = self.reasons.get(id(operation), "")
            raise ValueError(
                f"{type(operation).__name__} '{path}' "
                f"{why and f'{why}, and '}cannot be made again of its own "
                f"config: {str(error).strip()[:200]}"
            ) from error

    def _name(self, path: str) -> str:
        """Returns a name for an operation, which no other has."""
        name = base = path.replace("/", "_")
        for number in itertools.count(2):
            if name not in self.names:
                break
            name = f"{base}_{number}"
        self.names.add(name)
        return name


def _without_sizes(
    first: Any,
    second: Any,
    known: Mapping[int, keras.KerasTensor],
    layer: keras.Layer,
) -> Any:
    """Returns an argument for tensors of any size, of those for two sizes."""
    if isinstance(first, keras.KerasTensor):
        return known[id(first)]
    if isinstance(first, keras.Variable):
        raise _Stays(layer, "uses a weight by itself")
    if not (ops.is_tensor(first) or isinstance(first, np.ndarray)):
        if callable(first) or first == second:
            return first
        raise _Stays(layer, "computes with the size of its inputs")
    one, two = (
        np.asarray(ops.convert_to_numpy(each)) for each in (first, second)
    )
    if one.shape != two.shape and one.ndim == two.ndim and one.ndim:
        # The same for each entry of a batch.
        one, two = one[:1], two[:1]
    if not np.array_equal(one, two, equal_nan=True):
        raise _Stays(layer, "computes with the size of its inputs")
    return ops.convert_to_tensor(one)


def _reshape(before, after) -> Any:
    """Returns an operation for tensors of any size, of those for two sizes."""
    shape = [
        a if a == b else -1 for a, b in zip(before, after, strict=True)
    ]
    if shape.count(-1) == 1:
        return functions.numpy.Reshape(tuple(shape))
    if shape.count(-1) == 2 and (before[0], after[0]) == (BATCH, BATCH + 2):
        return keras.layers.Reshape(shape[1:])
    return None


def _structures(graph: Graph) -> tuple[Any, Any]:
    """Returns how inputs and outputs are nested; `None` for not at all."""
    if backend.as_function(graph.model) is not None:
        return backend.structures_of(graph.model)
    args, kwargs = _arguments(graph)
    return (None if kwargs or len(args) > 1 else args[0]), None


def _arguments(graph: Graph) -> tuple[tuple, dict[str, Any]]:
    """Returns the arguments of a subclassed model's call."""
    (whole,) = (each for each in graph.expansions if each.layer is graph.model)
    return whole.arguments


def _packed(structure: Any, flat: Sequence[Any]) -> Any:
    if structure is None:
        return flat[0] if len(flat) == 1 else [*flat]
    return keras.tree.pack_sequence_as(structure, [*flat])


def _compare(graph: Graph, found: keras.Model) -> None:
    """Runs the new model beside the old one on random input.

    Raises:
        ValueError: If they differ.
    """
    model = graph.model
    failure: Exception | None = None
    for length in LENGTHS:
        rng = np.random.default_rng(0)
        values = [
            random_value(
                rng, keras.KerasTensor(concrete(e.shape, length), e.dtype)
            )
            for e in found.inputs
        ]
        try:
            with no_gradients(), keras.StatelessScope():
                outputs = found(
                    _packed(backend.structures_of(found)[0], values),
                    training=False,
                )
                if backend.as_function(model) is None:
                    args, kwargs = filled(_arguments(graph), values)
                    expected = model(*args, **kwargs, training=False)
                else:
                    into, _ = backend.structures_of(model)
                    expected = model(_packed(into, values), training=False)
        except Exception as error:  # Too short for some layers, or too long.
            failure = failure or error
            continue
        fault = difference(
            keras.tree.flatten(expected), keras.tree.flatten(outputs)
        )
        if fault:
            raise ValueError(
                f"Expected a model that computes what '{model.name}' does. "
                f"Received: outputs that differ by {fault}"
            )
        return
    raise ValueError(
        f"Cannot hold the new model against '{model.name}'"
    ) from failure

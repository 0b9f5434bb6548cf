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
from keras_apoptosis.backend.following import Record
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
from keras_apoptosis.surgery.any_size import (
    SIZES,
    OfOneSize,
    apply,
    argument_of,
)
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
            print(
                "STAYS",
                type(stays.layer).__name__,
                stays.layer.name,
                stays.reason[:300],
            )
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
        try:
            return self._recorded(step, one, two, given)
        except OfOneSize as error:
            raise _Stays(layer, str(error)) from error

    def _recorded(
        self,
        step: Step,
        one: Record,
        two: Record,
        given: Sequence[keras.KerasTensor],
    ) -> list[keras.KerasTensor]:
        """Returns the outputs of a call inside a followed layer."""
        operation = one.operation
        if one.computed:
            raise OfOneSize("computes with numbers made of its weights")
        if isinstance(operation, Parameter):
            return [self._weight(operation, step.path)]
        known = dict(zip(map(id, one.arguments.keras_tensors), given))
        args, kwargs = keras.tree.pack_sequence_as(
            (one.args, one.kwargs),
            [
                known[id(first)]
                if isinstance(first, keras.KerasTensor)
                else argument_of(first, second)
                for first, second in zip(
                    keras.tree.flatten((one.args, one.kwargs)),
                    keras.tree.flatten((two.args, two.kwargs)),
                    strict=True,
                )
            ],
        )
        if isinstance(operation, Exit):
            return [*args]
        if isinstance(operation, keras.Layer):
            around = one.inside[-1] if one.inside else None
            return self._call(operation, step.path, args, kwargs, around)

        def copied(function: Any) -> Any:
            if function is operation:
                return self._copy(function, step.path)
            function.name = self._name(step.path)
            return function

        try:
            return apply(one, two, args, kwargs, copied, self.reference)
        except OfOneSize:
            raise
        except Exception as error:  # Whatever it objects to.
            raise OfOneSize(f"{SIZES} ({str(error).strip()[:100]})") from error

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
        shape = parameter.shape
        if len(shape) < 2:  # Broadcast along a first axis, as to a batch.
            shape = (1, *shape)
        if tuple(value.shape) != shape:
            value = ops.reshape(value, shape)
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
        self,
        operation: Any,
        path: str,
        args: tuple,
        kwargs: Mapping[str, Any],
        around: Any = None,
    ) -> list[keras.KerasTensor]:
        """Calls a copy of an operation, one for all calls of a layer."""
        _, copied = self.copies.get(id(operation), (None, None))
        if copied is None:
            copied = self._copy(operation, path, around)
            if isinstance(operation, keras.Layer):
                self.copies[id(operation)] = operation, copied
        return keras.tree.flatten(copied(*args, **kwargs))

    def _copy(self, operation: Any, path: str, around: Any = None) -> Any:
        try:
            return backend.copy_of(operation, self._name(path))
        except Exception as error:  # Whatever its class objects to.
            fault = str(error).strip()[:200]
            reason = f"cannot be made again of its own config ({fault})"
            if around is not None:
                raise _Stays(around, f"holds one that {reason}") from error
            why = self.reasons.get(id(operation), "")
            raise ValueError(
                f"{type(operation).__name__} '{path}' "
                f"{why and f'{why}, and '}{reason}"
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
    for length in (*LENGTHS, 64):
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

"""Layers of layers to a flat functional model of what they call."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend.calls import mask_of, masked
from keras_apoptosis.backend.following import Record
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
from keras_apoptosis.graph.rules import Arithmetic, Elementwise, MultiHead
from keras_apoptosis.graph.sizes import first_difference
from keras_apoptosis.surgery.any_size import (
    SIZES,
    OfOneSize,
    apply,
    argument_of,
    known_settings,
    takes_more_axes,
)
from keras_apoptosis.surgery.conversion import copy_state


def inline(
    model: keras.Model, length: int | Mapping[str, int] | None = None
) -> keras.Model:
    """Makes a flat functional model of the layers inside a model's layers.

    A block that is written as a layer of its own can only become as small as
    the arguments of its class can say: a transformer block that computes the
    width of a head as `hidden_dim // num_heads` can lose no head, and an
    encoder with one `mlp_dim` for all blocks no unit of one of them. The
    layers inside can, each by itself. This function calls every layer that
    has no rule, and attention, on symbolic tensors, and makes a model of the
    layers and `keras.ops` functions that it calls. Use it before training:
    all units inside are units of the model then, which every method measures
    and prunes, and what is saved loads without this package.

    A layer stays as it is where its calls do not say all that it does: where
    it does something else in training, adds losses, or computes with the size
    of a batch. If it holds weights, a warning tells why.

    Weights that a layer uses by itself (a class token, a scale) become those
    of an `Embedding` that looks them up. A mean over the last axis becomes a
    sum times a constant, so that removed units count as zeros.

    Args:
        model: A built model, subclassed ones included. It is left as it is.
            What its class adds (a `train_step`, a `generate`) is not copied.
        length: Integer, at least 1: the size of every axis but the batch that
            is unknown, which is then fixed in the new model. Or a dictionary
            of such integers by the names of inputs. By default unknown sizes
            stay unknown, and layers that compute with them (causal masks,
            positions) stay as they are.

    Returns:
        A functional model with copies of the weights, not compiled. Layers
        are named by their paths, such as `"block_1_attention_query"`.

    Raises:
        ValueError: If `length` is out of range, a subclassed model cannot be
            followed, a layer cannot be made again of its config, or the new
            model computes something else than `model` on random inputs.

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
    ['block_up', 'block_down']
    """
    lengths = _lengths(model, length)
    reasons: dict[int, str] = {}
    while True:
        graph = read(model, Opened(frozenset(reasons)))
        if not graph.whole:
            raise ValueError(
                f"Cannot inline model '{model.name}': what its own `call` does "
                f"cannot be followed. Received: model={model}"
            )
        making = _Inlining(graph, lengths, reasons)
        try:
            made = making.run()
        except _Stays as stays:
            if stays.layer is model:
                raise ValueError(
                    f"Cannot inline model '{model.name}': it {stays.reason}. "
                    f"Received: model={model}"
                ) from stays
            reasons[id(stays.layer)] = stays.reason
            continue
        _compare(graph, made)
        if length is not None and any(step.reason for step in graph.steps):
            return inline(made)  # More can be followed at known sizes.
        making.tell()
        return made


@dataclasses.dataclass(frozen=True)
class Opened:
    """Says which layers to replace by what they call.

    Those that have no rule, and attention: what is inside it can be measured
    only where it is called by the model itself.

    Args:
        kept: Ids of layers that stay as they are.
    """

    kept: frozenset[int]

    def __call__(self, layer: keras.Layer) -> bool:
        known = rule_of(layer)
        return id(layer) not in self.kept and (
            known is None or isinstance(known, MultiHead)
        )


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
        lengths: The size of unknown axes, by the names of inputs.
        reasons: Why layers stay as they are, by their ids.
    """

    def __init__(
        self,
        graph: Graph,
        lengths: Mapping[str, int | None],
        reasons: Mapping[int, str],
    ):
        self.graph = graph
        self.lengths = lengths
        self.reasons = reasons
        self.values: dict[int, keras.KerasTensor] = {}
        self.copies: dict[int, tuple[keras.Layer, keras.Layer]] = {}
        self.weights: dict[int, keras.KerasTensor] = {}
        self.names: set[str] = set()
        self.calls = collections.Counter(
            id(step.operation) for step in graph.steps
        )
        self.followed: dict[int, tuple[Expansion, Expansion]] = {}

    def run(self) -> keras.Model:
        """Returns the model."""
        graph = self.graph
        inputs = [self._input(graph.tensors[key]) for key in graph.inputs]
        self.reference = inputs[0]
        self.values.update(zip(graph.inputs, inputs, strict=True))
        for step in graph.steps:
            outputs = self._made(step)
            self.values.update(zip(step.outputs, outputs, strict=True))
        outputs = [self.values[key] for key in graph.outputs]
        into, out = _structures(graph)
        made = keras.Model(
            _packed(into, inputs), _packed(out, outputs), name=graph.model.name
        )
        for layer, copied in self.copies.values():
            copy_state(layer, copied)
        return made

    def tell(self) -> None:
        """Warns of layers with weights that stay as they are."""
        told = [
            f"{type(layer).__name__} '{layer.name}' {self.reasons[key]}"
            for key, (layer, _) in self.copies.items()
            if key in self.reasons and layer.weights
        ]
        if told:
            warnings.warn(
                f"Layers that stay as they are: {'; '.join(told)}",
                stacklevel=3,
            )

    def _input(self, tensor: keras.KerasTensor) -> keras.KerasTensor:
        named = backend.as_function(self.graph.model) is not None
        name = tensor.name if named else "inputs"
        length = self.lengths.get(name)
        batch, *sizes = tensor.shape
        return keras.Input(
            batch_shape=(
                batch,
                *(length if size is None else size for size in sizes),
            ),
            dtype=tensor.dtype,
            name=self._name(name),
        )

    def _made(self, step: Step) -> list[keras.KerasTensor]:
        """Returns the outputs of a step, as tensors of the new model."""
        given = [self.values[key] for key in step.inputs]
        if step.node is None:  # The border of a model or of a layer.
            value, *masks = given
            if masks and mask_of(value) is not masks[0]:
                value = masked(ops.copy(value), masks[0])
            return [value]
        if step.expansion is None:
            args, kwargs = step.filled(given)
            return self._call(step.operation, step.path, args, kwargs)
        if step.index < 0:
            return self._enter(step.expansion, given)
        one, two = (
            each.records[step.index]
            for each in self.followed[id(step.expansion)]
        )
        try:
            return self._recorded(step.path, one, two, given)
        except OfOneSize as error:
            layer = one.inside[-1] if one.inside else step.expansion.layer
            raise _Stays(layer, str(error)) from error

    def _enter(
        self, expansion: Expansion, given: Sequence[keras.KerasTensor]
    ) -> list[keras.KerasTensor]:
        """Follows a layer at two sizes of all that is unknown."""
        layer = expansion.layer
        if layer.activity_regularizer is not None:
            raise _Stays(layer, "has an activity regularizer")
        count = len(expansion.inputs) - len(expansion.masked)
        pairs = [*zip(given, expansion.inputs[:count], strict=True)]
        try:
            one, two = (
                expansion.at(
                    [
                        _sized(tensor.shape, own.shape, batch, shorter)
                        for tensor, own in pairs
                    ]
                )
                for batch, shorter in ((BATCH, 0), (BATCH + 2, 2))
            )
            in_training = one.in_training()
        except NotFollowed as error:
            raise _Stays(layer, str(error)) from error
        differing = first_difference(one, in_training)
        if differing is not None:
            raise _Stays(differing, "does something else in training")
        self.followed[id(expansion)] = one, two
        masks = [mask_of(given[place]) for place in expansion.masked]
        if any(mask is None for mask in masks):
            raise _Stays(layer, "is given a mask that no layer computes")
        # Inside, masks are arguments of the calls that take them.
        return [
            *(
                each if mask_of(each) is None else ops.copy(each)
                for each in given
            ),
            *masks,
        ]

    def _recorded(
        self,
        path: str,
        one: Record,
        two: Record,
        given: Sequence[keras.KerasTensor],
    ) -> list[keras.KerasTensor]:
        """Returns the outputs of a call inside a followed layer."""
        operation = one.operation
        if one.computed:
            raise OfOneSize("computes with numbers made of its weights")
        if isinstance(operation, Parameter):
            if operation.shape != two.operation.shape:
                raise OfOneSize(SIZES)
            return [self._weight(operation, path)]
        broadcasts = takes_more_axes(operation) or isinstance(
            rule_of(operation), (Arithmetic, Elementwise)
        )
        tensors = {
            id(recorded): tensor
            if broadcasts
            else _of_rank(tensor, len(recorded.shape))
            for recorded, tensor in zip(
                one.arguments.keras_tensors, given, strict=True
            )
        }
        flat, other = (
            keras.tree.flatten((each.args, each.kwargs)) for each in (one, two)
        )
        args, kwargs = keras.tree.pack_sequence_as(
            (one.args, one.kwargs),
            [
                tensors[id(first)]
                if isinstance(first, keras.KerasTensor)
                else argument_of(first, second)
                for first, second in zip(flat, other, strict=True)
            ],
        )
        if isinstance(operation, Exit):
            return [*args]
        around = one.inside[-1] if one.inside else None
        if isinstance(operation, keras.Layer):
            settings = None
            if self.calls[id(operation)] == 1:
                settings = known_settings(one, two)
            return self._call(operation, path, args, kwargs, around, settings)

        def copied(function: Any) -> Any:
            if function is operation:
                return self._copy(function, path, around)
            function.name = self._name(path)
            return function

        try:
            return apply(one, two, args, kwargs, copied, self.reference)
        except (OfOneSize, _Stays):
            raise
        except Exception as error:  # Whatever it objects to.
            raise OfOneSize(f"{SIZES} ({str(error).strip()[:100]})") from error

    def _call(
        self,
        operation: Any,
        path: str,
        args: tuple,
        kwargs: Mapping[str, Any],
        around: keras.Layer | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[keras.KerasTensor]:
        """Calls a copy of an operation, one for all calls of a layer."""
        _, copied = self.copies.get(id(operation), (None, None))
        if copied is None:
            copied = self._copy(operation, path, around, settings)
            if isinstance(operation, keras.Layer):
                self.copies[id(operation)] = operation, copied
        return keras.tree.flatten(copied(*args, **kwargs))

    def _copy(
        self,
        operation: Any,
        path: str,
        around: keras.Layer | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Any:
        """Makes a layer or function again, to call it in the new model.

        Args:
            operation: The layer or function.
            path: Its path.
            around: The layer whose code calls it.
            settings: Entries of its config to change.
        """
        try:
            return backend.copy_of(operation, self._name(path), settings or {})
        except Exception as error:  # Whatever its class objects to.
            fault = str(error).strip().split("\n")[0][:100]
            reason = f"cannot be made again of its own config ({fault})"
            if around is not None:
                raise _Stays(around, f"holds one that {reason}") from error
            if id(operation) in self.reasons:
                reason = f"{self.reasons[id(operation)]}, and {reason}"
            raise ValueError(
                f"Expected layers that can be copied. Received: "
                f"{type(operation).__name__} '{path}', which {reason}"
            ) from error

    def _weight(self, parameter: Parameter, path: str) -> keras.KerasTensor:
        """Returns a weight that a layer uses by itself, as a tensor.

        An `Embedding` looks it up, row by row. One without axes or with one
        gets a first axis of size 1, as to a batch.
        """
        variable = parameter.variable
        if id(variable) not in self.weights:
            self.weights[id(variable)] = self._looked_up(parameter, path)
        value = self.weights[id(variable)]
        index, shape = parameter.index, parameter.shape
        if index is not None:
            rows, width = value.shape
            starts = index.reshape(-1, index.shape[-1])[:, 0] // width
            whole = starts[:, None] * width + np.arange(width)
            if not np.array_equal(index.reshape(-1, index.shape[-1]), whole):
                value = ops.take(ops.reshape(value, (-1,)), index)
            elif not np.array_equal(starts, np.arange(rows)):
                value = ops.take(value, starts, axis=0)
        if len(shape) < 2:
            shape = (1, *(shape or (1,)))
        if tuple(value.shape) != shape:
            value = ops.reshape(value, shape)
        return value

    def _looked_up(self, parameter: Parameter, path: str) -> keras.KerasTensor:
        variable = parameter.variable
        *rows, width = tuple(variable.shape) or (1,)
        layer = keras.layers.Embedding(
            math.prod(rows),
            width,
            embeddings_regularizer=variable.regularizer,
            embeddings_constraint=variable.constraint,
            dtype=keras.DTypePolicy(parameter.dtype),
            name=self._name(path),
        )
        # Keras wants every tensor of a model to depend on an input.
        zero = ops.cast(ops.sum(ops.zeros_like(self.reference)), "int32")
        places = ops.arange(layer.input_dim, dtype="int32")
        value = layer(ops.add(zero, places))
        told = ops.convert_to_numpy(variable.value)
        layer.embeddings.assign(told.reshape(layer.embeddings.shape))
        layer.embeddings.trainable = variable.trainable
        return value

    def _name(self, path: str) -> str:
        """Returns a name for an operation, which no other has."""
        base = path.replace("/", "_")
        names = (f"{base}_{number}" for number in itertools.count(2))
        name = next(
            each
            for each in itertools.chain([base], names)
            if each not in self.names
        )
        self.names.add(name)
        return name


def _lengths(
    model: keras.Model, length: int | Mapping[str, int] | None
) -> dict[str, int | None]:
    """Returns the size of unknown axes, by the names of inputs.

    Raises:
        ValueError: If a length is out of range, or names no input.
    """
    function = backend.as_function(model)
    names = [each.name for each in function.inputs] if function else ["inputs"]
    given: dict[str, int | None] = dict.fromkeys(names)
    if isinstance(length, Mapping):
        given |= length
    else:
        given = dict.fromkeys(names, length)
    for name, size in given.items():
        whole = isinstance(size, int) and not isinstance(size, bool)
        if name not in names or not (size is None or (whole and size >= 1)):
            raise ValueError(
                "Expected `length` to be an integer of at least 1, `None`, or "
                f"a dictionary of such by the names of inputs ({names}). "
                f"Received: length={length}"
            )
    return given


def _sized(
    shape: Sequence[int | None], own: Sequence[int], batch: int, shorter: int
) -> tuple[int, ...]:
    """Returns a shape with sizes for those that are not known."""
    return tuple(
        size if size is not None else other - shorter if axis else batch
        for axis, (size, other) in enumerate(zip(shape, own, strict=True))
    )


def _of_rank(tensor: keras.KerasTensor, rank: int) -> keras.KerasTensor:
    """Returns a tensor without the first axis that a weight was given."""
    if len(tensor.shape) <= rank:
        return tensor
    return ops.reshape(tensor, tensor.shape[1:])


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


def _compare(graph: Graph, made: keras.Model) -> None:
    """Runs the new model beside the old one on random input.

    Raises:
        ValueError: If they differ.
    """
    model, failure = graph.model, None
    into, _ = backend.structures_of(made)
    for length in (*LENGTHS, 128):
        rng = np.random.default_rng(0)
        # Another batch than those that layers were followed with.
        shapes = [
            (2, *sizes[1:]) if each.shape[0] is None else sizes
            for each in made.inputs
            for sizes in [concrete(each.shape, length)]
        ]
        values = [
            random_value(rng, keras.KerasTensor(shape, each.dtype))
            for shape, each in zip(shapes, made.inputs, strict=True)
        ]
        args, kwargs = (_packed(into, values),), {}
        if backend.as_function(model) is None:
            args, kwargs = filled(_arguments(graph), values)
        try:
            with backend.inference_scope(made):
                outputs = made(_packed(into, values), training=False)
            with backend.inference_scope(model):
                expected = model(*args, **kwargs, training=False)
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
        f"Expected a model that runs on random inputs. Received: "
        f"'{model.name}', which fails ({failure})"
    ) from failure

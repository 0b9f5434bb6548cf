"""Reads the private structure of models and of their graphs."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.backend import compute_output_spec
from keras.src.models.functional import Functional
from keras.src.ops.symbolic_arguments import SymbolicArguments


def as_function(operation: Any) -> Any:
    """Returns the Functional graph of a model, or `None` if it has none."""
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    if isinstance(operation, keras.Model) and hasattr(
        operation, "_nodes_by_depth"
    ):
        return operation
    return None


def follows_its_graph(model: keras.Model) -> bool:
    """Returns whether a model's `call` is no other than Keras' own.

    A subclass may be made of inputs and outputs and still compute something
    else than the graph between them.
    """
    own = (Functional.call, keras.Sequential.call)
    return type(model).call in own


def is_nested(layer: keras.Layer) -> bool:
    """Returns whether a layer is a model that its graph describes."""
    return as_function(layer) is not None and follows_its_graph(layer)


def maker_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that made a tensor of a graph."""
    return tensor._keras_history.operation


def flat_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """Returns a batch of inputs as a list of tensors, as `call` makes them.

    Args:
        model: A built model.
        inputs: The batch, in any structure that the model's `call` takes.
    """
    function = as_function(model)
    if function is None:
        return [ops.convert_to_tensor(e) for e in keras.tree.flatten(inputs)]
    return function._standardize_inputs(inputs)


def possible_inputs(model: keras.Model) -> Iterator[SymbolicArguments]:
    """Yields arguments that a model's `call` may take, most likely first.

    Of a subclassed model Keras knows the shapes that it was built with, but
    not what it was called on.

    Args:
        model: A model.
    """
    function = as_function(model)
    if function is not None:
        yield SymbolicArguments(function._inputs_struct)
        return
    shapes = model._build_shapes_dict
    if not shapes:
        return
    names = [*inspect.signature(model.call).parameters]
    for dtype in (model.input_dtype, "int32"):
        given = []
        for key, shape in shapes.items():
            tensors = keras.tree.map_shape_structure(
                lambda each: keras.KerasTensor(tuple(each), dtype=dtype),  # noqa: B023
                shape,
            )
            name = key.removesuffix("_shape")
            given.append((name if name in names else names[0], tensors))
        (_, first), *rest = given
        yield SymbolicArguments(first, **dict(rest))


def structures_of(model: keras.Model) -> tuple[Any, Any]:
    """Returns how a model's inputs and outputs are nested."""
    function = as_function(model)
    return function._inputs_struct, function._outputs_struct


def models_of(model: keras.Model) -> Iterator[keras.Model]:
    """Iterates over the model and all models nested in it, each once."""
    inside = (
        layer
        for layer in layers_inside(model)
        if isinstance(layer, keras.Model)
    )
    seen: set[int] = set()
    for each in itertools.chain([model], inside):
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            function = as_function(each)
            if function is not None and function is not each:
                yield function


def layers_inside(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer or model and all layers nested in it."""
    return list(layer._flatten_layers())


def seeds_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of a model's random seed generators, in order.

    Keras saves them with no model.
    """
    found = {}
    for layer in layers_inside(model):
        for generator in layer._seed_generators:
            found[id(generator)] = generator.state
    return list(found.values())


def direct_operations(model: keras.Model) -> list[keras.Operation]:
    """Returns the operations in a model's config, input layers included."""
    if isinstance(model, keras.Sequential):
        return model._layers
    return model.operations


def ordered_nodes(function: Any) -> Iterator[Any]:
    """Nodes that belong to the function, inputs first, without its inputs."""
    given = {id(tensor) for tensor in function.inputs}
    for _, nodes in sorted(function._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if not node.is_input and not all(
                id(tensor) in given for tensor in node.outputs
            ):
                yield node


def recorded_nodes(model: Any) -> Iterator[Any]:
    """Returns the nodes of a model or `keras.Function`, if it records any."""
    function = as_function(model) or model
    if hasattr(function, "_nodes_by_depth"):
        yield from ordered_nodes(function)


def output_shapes(node: Any) -> list[tuple]:
    """Computes the shapes that a recorded call returns for its inputs now.

    The layer's own code runs on tensors without values.

    Args:
        node: Keras' record of a call.

    Raises:
        Exception: Whatever the layer raises if it cannot take its inputs.
    """
    arguments = node.arguments
    args, kwargs = arguments.fill_in(
        {
            id(tensor): keras.KerasTensor(tensor.shape, tensor.dtype)
            for tensor in arguments.keras_tensors
        }
    )
    with keras.StatelessScope():
        outputs = compute_output_spec(node.operation.call, *args, **kwargs)
    return [tuple(each.shape) for each in keras.tree.flatten(outputs)]


def call_on_shapes(
    operation: keras.Operation, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[keras.KerasTensor]:
    """Returns what an operation makes of symbolic tensors, leaving no record.

    Args:
        operation: A built layer, or a function.
        args: Positional arguments, with symbolic tensors of known sizes.
        kwargs: Keyword arguments.

    Raises:
        Exception: Whatever the operation raises if it cannot take them.
    """
    with keras.StatelessScope():
        outputs = keras.tree.flatten(
            operation.compute_output_spec(*args, **kwargs)
        )
        if any(None in each.shape for each in outputs):
            # Some layers say less of their outputs than they could.
            outputs = keras.tree.flatten(
                compute_output_spec(operation.call, *args, **kwargs)
            )
    return outputs


def parameters_of(model: keras.Model) -> int:
    """Counts the parameters of a model, which need not be built."""
    weights = {id(weight): weight for weight in model.weights}
    return sum(math.prod(weight.shape) for weight in weights.values())


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Returns the arguments that a model was compiled with, as given.

    Args:
        model: A model.

    Returns:
        The arguments, by name, or `None` if it is not compiled by Keras' own
        `compile`.
    """
    found = getattr(model, "_compile_config", None)
    return dict(found.config) if model.compiled and found else None

"""Applies a plan to a model in place: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import as_function, layers_inside, models_of
from keras_apoptosis.graph import Analysis, Step
from keras_apoptosis.surgery.draft import cut
from keras_apoptosis.surgery.plan import Plan


def resize(model: keras.Model, analysis: Analysis, plan: Plan) -> None:
    """Makes a model what a plan says.

    Weights, the optimizer's slots, config, recorded shapes and compiled
    steps all follow. If anything fails, the model is as it was.

    Args:
        model: The model.
        analysis: Its units.
        plan: What it becomes.
    """
    slots = _new_slots(model, plan)
    attributes = _new_attributes(analysis, plan)
    touched = _touched_layers(analysis, plan)
    undo: list[Callable[[], None]] = []
    try:
        for variable, value in slots:
            undo.append(backend.snapshot(variable))
            backend.resize_variable(variable, value)
        for layer in touched:
            for variable in layer.variables:
                if id(variable) in plan.values:
                    undo.append(backend.snapshot(variable))
                    backend.resize_variable(variable, plan.values[id(variable)])
        for thing, new in attributes:
            old = {name: thing.__dict__[name] for name in new}
            undo.append(_attribute_setter(thing, old))
            backend.set_attributes(thing, new)
        for key, shape in plan.shapes.items():
            tensor = analysis.graph.tensors[key]
            undo.append(_shape_setter(tensor, tensor.shape))
            backend.set_shape(tensor, shape)
        refresh(model, touched)
    except BaseException:
        for step in reversed(undo):
            step()
        refresh(model, touched)
        raise


def refresh(model: keras.Model, touched: list[keras.Layer]) -> None:
    """Lets everything that keeps references of its own look again."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        backend.reindex(optimizer)
    models = list(models_of(model))
    for layer in touched:
        for inner in reversed(layers_inside(layer)):
            backend.track_again(inner)
    for each in models:
        backend.track_again(each)
    for each in models:
        backend.forget_compiled(each)
    backend.sync_to_jax(model)


def _touched_layers(analysis: Analysis, plan: Plan) -> list[keras.Layer]:
    layers = {}
    for step in analysis.graph.steps:
        layer = step.operation
        if (
            step.node is not None
            and isinstance(layer, keras.Layer)
            and any(id(v) in plan.values for v in layer.variables)
        ):
            layers[id(layer)] = layer
    return list(layers.values())


def _new_slots(
    model: keras.Model, plan: Plan
) -> list[tuple[keras.Variable, np.ndarray]]:
    """The optimizer's variables that follow a weight, and their values."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return []
    weights = backend.weights_of(optimizer)
    found = []
    for slot, axes in backend.slots_of(optimizer, weights):
        kept = {
            axis: plan.kept[id(weights[origin[0]])][origin[1]]
            for axis, origin in enumerate(axes)
            if origin is not None
            and origin[1] in plan.kept.get(id(weights[origin[0]]), {})
        }
        if kept:
            value = backend.peek(slot)
            found.append((slot, cut(value, kept)))
    return found


def _new_attributes(
    analysis: Analysis, plan: Plan
) -> list[tuple[Any, dict[str, Any]]]:
    """Plain attributes of layers that follow their sizes.

    What a layer derives from its sizes is known to the layer alone. So it is
    made twice, as it was and as it becomes, and takes over what differs.
    """
    found, seen = [], set()
    twins: dict[str, tuple] = {}
    for step in analysis.graph.steps:
        layer = step.operation
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        config = plan.config.get(id(layer), {})
        if not isinstance(layer, keras.Layer):
            if config:
                new = backend.function_attributes(layer, config)
                found.append((layer, new))
            continue
        old_shapes = backend.build_shapes(layer)
        new_shapes = _with_new_shapes(
            old_shapes, plan, _input_keys(analysis, step)
        )
        if not config and new_shapes == old_shapes:
            continue
        if isinstance(layer, keras.Model):
            found.append((layer, backend.built_with(new_shapes)))
            continue
        own = {**layer.get_config(), "name": None}
        kind = repr((type(layer), own, config, old_shapes, new_shapes))
        if kind not in twins:  # Most models repeat their blocks.
            twins[kind] = _twins(layer, config, old_shapes, new_shapes)
        old_sizes, new_sizes, changes = twins[kind]
        _check_sizes(layer, old_sizes, new_sizes, plan)
        for part, new in zip(layers_inside(layer), changes, strict=True):
            has = {k: v for k, v in new.items() if k in part.__dict__}
            found.append((part, has))
    return found


def _twins(
    layer: keras.Layer, config: dict[tuple, Any], old_shapes: Any, shapes: Any
) -> tuple[list[tuple], list[tuple], list[dict[str, Any]]]:
    """What distinguishes a layer as it was from the same as it becomes.

    Returns:
        The shapes of its weights, before and after; and for it and each
        layer inside it the plain attributes that differ.
    """
    old, old_sizes = backend.pristine(layer, {}, old_shapes)
    new, new_sizes = backend.pristine(layer, config, shapes)
    changes = []
    for one, other in zip(layers_inside(old), layers_inside(new), strict=True):
        before = backend.plain_attributes(one)
        changes.append(
            {
                name: value
                for name, value in backend.plain_attributes(other).items()
                if not _same(value, before.get(name))
            }
        )
    return old_sizes, new_sizes, changes


def _check_sizes(
    layer: keras.Layer,
    old: list[tuple],
    new: list[tuple],
    plan: Plan,
) -> None:
    """A layer that its config would build otherwise than the plan says."""
    planned = [
        plan.values[id(v)].shape if id(v) in plan.values else tuple(v.shape)
        for v in layer.variables
    ]
    if old == [tuple(v.shape) for v in layer.variables] and new != planned:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} would build "
            f"weights of shapes {new} from its config after the removal, but "
            f"its rule gives {planned}. Check its rule."
        )


def _input_keys(analysis: Analysis, step: Step) -> tuple[int, ...]:
    """Keys of the tensors that a layer, or a nested model, is called on."""
    if step.node is not None:
        return step.read
    function = as_function(step.operation)
    entered = {id(tensor) for tensor in function.inputs} if function else ()
    tensors = analysis.graph.tensors
    return tuple(k for k, each in enumerate(tensors) if id(each) in entered)


def _with_new_shapes(shapes: Any, plan: Plan, inputs: tuple[int, ...]) -> Any:
    """The arguments of a layer's `build`, after the removal."""
    if shapes is None:
        return None
    keys = iter(inputs)

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: new(each) for name, each in value.items()}
        if _is_shape(value):
            size = plan.shapes.get(next(keys, None), value)
            return type(value)((*value[:1], *size[1:]))
        if isinstance(value, (list, tuple)):
            return type(value)(new(each) for each in value)
        return value

    return new(shapes)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        each is None or isinstance(each, int) for each in value
    )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, keras.InputSpec) and isinstance(other, keras.InputSpec):
        return vars(one) == vars(other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and one == other


def _attribute_setter(thing: Any, values: dict[str, Any]):
    return lambda: backend.set_attributes(thing, values)


def _shape_setter(tensor: keras.KerasTensor, shape: tuple):
    return lambda: backend.set_shape(tensor, shape)

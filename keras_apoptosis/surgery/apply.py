"""Applies a plan to a model in place: all of it, or nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import (
    Holders,
    as_function,
    cut,
    layers_inside,
)
from keras_apoptosis.graph import Analysis, Step
from keras_apoptosis.surgery.arguments import new_arguments
from keras_apoptosis.surgery.followed import followed_changes, tensors_of
from keras_apoptosis.surgery.parts import cut_parts
from keras_apoptosis.surgery.plan import Plan


def apply_plan(analysis: Analysis, plan: Plan, holders: Holders) -> None:
    """Makes a model what a plan says.

    Weights, the slots of optimizers, config, recorded shapes and compiled
    steps all follow, those of other models that share layers as well. If
    anything fails, all is as it was.

    Args:
        analysis: The model's units.
        plan: What it becomes.
        holders: What else holds its layers and weights.

    Raises:
        ValueError: If a layer or an optimizer does not fit the plan, or
            another model uses units that the plan removes.
    """
    changes = [(each.variable, each.typed()) for each in plan.changes]
    changes += _implied_slots(plan, holders)
    slots = _slots_to_cut(plan, holders, {id(each) for each, _ in changes})
    for variable, value in changes:
        backend.check_split(variable, value.shape)
    for variable, kept in slots:
        backend.check_split(variable, backend.cut_shape(variable.shape, kept))
    attributes = _new_attributes(analysis, plan)
    tensors = analysis.graph.tensors
    shapes = [(tensors[key], shape) for key, shape in plan.shapes.items()]
    inside: list[keras.KerasTensor] = []
    for layer, new, found in followed_changes(analysis, plan):
        attributes.append((layer, new))
        inside.extend(tensors_of(layer))
        shapes.extend(found)
    cut_state, restore_state = backend.cut_torch_state(
        holders.torch_optimizers,
        (
            (each.variable, plan.kept[each.key])
            for each in plan.changes
            if each.key in plan.kept and each.key == id(each.variable)
        ),
    )
    replaced = [backend.held_value(variable) for variable, _ in changes]
    undo: list[Callable[[], None]] = [restore_state]
    try:
        for variable, value in changes:
            undo.append(backend.snapshot(variable))
            backend.resize_variable(variable, value)
        cut_state()
        for thing, new in attributes:
            old = {name: thing.__dict__[name] for name in new}
            undo.append(_attribute_setter(thing, old))
            backend.set_attributes(thing, new)
        for tensor, shape in shapes:
            _set_shape(tensor, shape, undo)
        set_other_shapes(
            holders,
            [*analysis.graph.tensors, *inside],
            {id(tensor) for tensor, _ in shapes},
            {*plan.values, *(id(thing) for thing, _ in attributes)},
            undo,
        )
        # Last, and without a second copy: they are most of the memory.
        for variable, kept in slots:
            undo.append(backend.cut_variable(variable, kept))
        refresh(holders)
    except BaseException:
        for step in reversed(undo):
            step()
        refresh(holders)
        raise
    for each in replaced:
        backend.invalidate(each)


def refresh(holders: Holders) -> None:
    """Makes everything that keeps references of its own look again."""
    for optimizer in holders.optimizers:
        backend.reindex(optimizer)
    renew_steps(holders)


def renew_training(holders: Holders) -> None:
    """Lets trainings go on, once all variables are there, those of hooks too.

    Under a `keras.distribution` Keras fixes where a step leaves the variables
    when it makes the step.
    """
    renew_steps(holders)
    backend.renew_wrappers(holders.torch_wrappers)


def renew_steps(holders: Holders) -> None:
    """Drops compiled steps."""
    for each in holders.models:
        backend.forget_compiled(each)
    for each in holders.models:
        backend.sync_to_jax(each)


def set_other_shapes(
    holders: Holders,
    tensors: Iterable[keras.KerasTensor],
    changed: set[int],
    resized: Container[int],
    undo: list[Callable[[], None]],
) -> None:
    """Corrects the recorded shapes of other models that share layers.

    Args:
        holders: The models.
        tensors: Tensors whose shapes are corrected already.
        changed: `id` of those of them that have another shape than before.
        resized: `id` of the weights that have another shape than before, and
            of the layers that have other settings.
        undo: A list that functions to undo the changes are appended to.

    Raises:
        UsedElsewhere: If another model cannot take the new shapes.
    """
    known = {id(tensor) for tensor in tensors}
    changed = set(changed)
    for each in reversed(holders.models):
        for node in backend.recorded_nodes(each):
            if all(id(tensor) in known for tensor in node.outputs):
                continue
            reads = any(
                id(tensor) in changed for tensor in node.arguments.keras_tensors
            )
            weights = getattr(node.operation, "weights", ())
            touched = id(node.operation) in resized or any(
                id(weight) in resized for weight in weights
            )
            if not (reads or touched):
                continue
            shapes = _shapes_of(each, node, reads and not touched)
            for tensor, shape in zip(node.outputs, shapes, strict=True):
                if shape != tuple(tensor.shape):
                    changed.add(id(tensor))
                    _set_shape(tensor, shape, undo)


def _shapes_of(model: Any, node: Any, only_reads: bool) -> list[tuple]:
    """Computes the shapes that a call in another model has from now on."""
    operation = node.operation
    problem: Any = "its weights stay as they are"
    if not (only_reads and getattr(operation, "weights", None)):
        try:
            shapes = backend.output_shapes(node)
        except Exception as error:  # Whatever a layer's own code may raise.
            problem = error
        else:
            same = shapes == [tuple(tensor.shape) for tensor in node.outputs]
            if not (only_reads and same):
                return shapes
            problem = "it combines units"
    raise UsedElsewhere(
        f"Another model, '{model.name}', uses units that would be removed: its "
        f"layer '{operation.name}' takes them, but is no part of the model to "
        "shrink. Shrink the larger model, or delete the other one first. "
        f"Received: {problem}"
    )


class UsedElsewhere(ValueError):
    """Units to remove are used by another model."""


def _slots_to_cut(
    plan: Plan, holders: Holders, known: Container[int]
) -> list[tuple[keras.Variable, dict[int, np.ndarray]]]:
    """Returns variables of optimizers that are cut as a weight is.

    Args:
        plan: What the model becomes.
        holders: The optimizers.
        known: `id` of variables to leave out.
    """
    found: dict[int, tuple[keras.Variable, dict[int, np.ndarray]]] = {}
    for optimizer in holders.optimizers:
        weights = backend.weights_of(optimizer)
        for slot, axes in backend.slots_of(optimizer, weights):
            kept = {
                axis: plan.kept[id(weights[origin[0]])][origin[1]]
                for axis, origin in enumerate(axes)
                if origin is not None
                and origin[1] in plan.kept.get(id(weights[origin[0]]), {})
            }
            if kept and id(slot) not in known:
                found[id(slot)] = slot, kept
    return list(found.values())


def _implied_slots(
    plan: Plan, holders: Holders
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Computes variables of optimizers that follow the values of weights."""
    found = []
    for optimizer in holders.optimizers:
        for weight, slot, new_value in backend.implied_slots(optimizer):
            if id(weight) in plan.values:
                keep = functools.partial(
                    cut, kept=plan.kept.get(id(weight), {})
                )
                old = keep(backend.peek(weight))
                new = plan.values[id(weight)]
                found.append((slot, new_value(old, new, keep)))
    return found


def _new_attributes(
    analysis: Analysis, plan: Plan
) -> list[tuple[Any, dict[str, Any]]]:
    """Computes the attributes of layers that follow their sizes.

    What a layer derives from its sizes is known to the layer alone. So it is
    made twice, as it was and as it becomes, and takes over what differs.
    """
    found: list[tuple[Any, dict[str, Any]]] = []
    found.extend(cut_parts(analysis.graph, plan))
    found.extend(new_arguments(analysis.graph, plan))
    seen = set()
    twins: dict[str, tuple] = {}
    for step in analysis.graph.steps:
        layer = step.operation
        if id(layer) in seen or _follows(step, analysis):
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


def _follows(step: Step, analysis: Analysis) -> bool:
    """Returns whether a step is of a followed layer."""
    whole = step.expansion
    if whole is not None:
        return (
            not isinstance(step.operation, keras.Layer)
            or whole.layer is not analysis.graph.model
        )
    return any(
        each.layer is step.operation for each in analysis.graph.expansions
    )


def _twins(
    layer: keras.Layer, config: dict[tuple, Any], old_shapes: Any, shapes: Any
) -> tuple[list[tuple], list[tuple], list[dict[str, Any]]]:
    """Compares a layer as it was with the same as it becomes.

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
                if not backend.is_same(value, before.get(name))
            }
        )
    return old_sizes, new_sizes, changes


def _check_sizes(
    layer: keras.Layer,
    old: list[tuple],
    new: list[tuple],
    plan: Plan,
) -> None:
    """Checks that a layer's config builds what the plan says.

    Raises:
        ValueError: If it does not, or does not even build the layer as it is.
    """
    present = [tuple(v.shape) for v in layer.variables]
    if old and old != present:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} cannot be "
            "resized, as its config does not rebuild it: saved and loaded it "
            f"would be another layer. Received: weights of shapes {present}, "
            f"and {old} by its config"
        )
    planned = plan.shapes_of(layer)
    if old and new != planned:
        raise ValueError(
            f"Layer '{layer.name}' of type {type(layer).__name__} would build "
            f"weights of shapes {new} from its config after the removal, but "
            f"its rule gives {planned}. Check its rule."
        )


def _input_keys(analysis: Analysis, step: Step) -> tuple[int, ...]:
    """Returns keys of the tensors that a layer or nested model is called on."""
    if step.node is not None:
        return step.read
    function = as_function(step.operation)
    entered = {id(tensor) for tensor in function.inputs} if function else ()
    tensors = analysis.graph.tensors
    return tuple(k for k, each in enumerate(tensors) if id(each) in entered)


def _with_new_shapes(shapes: Any, plan: Plan, inputs: tuple[int, ...]) -> Any:
    """Returns the arguments of a layer's `build`, after the removal."""
    if shapes is None:
        return None
    keys = iter(inputs)

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: new(each) for name, each in value.items()}
        if _is_shape(value):
            size: Any = plan.shapes.get(next(keys, -1), value)
            return type(value)((*value[:1], *size[1:]))
        if isinstance(value, (list, tuple)):
            return type(value)(new(each) for each in value)
        return value

    return new(shapes)


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        each is None or isinstance(each, int) for each in value
    )


def _attribute_setter(thing: Any, values: dict[str, Any]) -> Callable[[], None]:
    return lambda: backend.set_attributes(thing, values)


def _set_shape(
    tensor: keras.KerasTensor, shape: tuple, undo: list[Callable[[], None]]
) -> None:
    old = tuple(tensor.shape)
    undo.append(lambda: backend.set_shape(tensor, old))
    backend.set_shape(tensor, shape)

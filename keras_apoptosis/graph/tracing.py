"""Follows the units of a graph, call by call, with a rule for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.expansion import NotFollowed
from keras_apoptosis.graph.reading import Graph, Step, is_mask
from keras_apoptosis.graph.sizes import first_difference
from keras_apoptosis.graph.trace import Trace
from keras_apoptosis.graph.whole_parts import hold_whole


def trace(
    graph: Graph,
    rule_of: Callable[[Any], Any],
    border: Any,
    prune_normalized: bool = False,
) -> Trace:
    """Follows the units of a graph.

    Args:
        graph: The graph.
        rule_of: Returns the rule of an operation, or `None` if there is none.
        border: The rule of the borders of nested models.
        prune_normalized: Whether normalizations may read a removed unit as
            the mean of those that stay.

    Returns:
        The trace.
    """
    result = Trace(graph, rule_of, prune_normalized)
    touched: dict[int, list[tuple[Call, set[tuple]]]] = {}
    unfollowed: list[tuple[str, Any, str]] = []
    for step in graph.steps:
        rule = border if step.node is None else rule_of(step.operation)
        call = Call.of(result, step)
        result.touched = set()
        touched.setdefault(id(step.operation), []).append(
            (call, result.touched)
        )
        _hold_masks(call)
        if rule is None:
            why = step.reason or "has no rule (see `ka.register_rule`)"
            call.hold(why)
            unfollowed.append((call.who, step.operation, why))
            continue
        made = rule.trace(call)
        for key, axes in zip(step.outputs, made or (), strict=bool(made)):
            result.units[key] = axes
    for calls in touched.values():
        _hold_shared(result, calls)
    for who, operation, why in unfollowed:
        # Its weights may be those of layers that are called elsewhere, too.
        for variable in getattr(operation, "variables", ()):
            for labels in result.axes.get(id(variable), {}).values():
                result.hold(labels, who, why)
    for expansion in graph.expansions:
        who = f"{type(expansion.layer).__name__} '{expansion.layer.name}'"
        for variable, axis in expansion.held:
            for each, labels in result.axes.get(id(variable), {}).items():
                if axis is None or axis == each:
                    why = "uses them in a way that is not followed"
                    result.hold(labels, who, why)
    _hold_in_training(result)
    hold_whole(result)
    who = "the model" if graph.whole else "a part of the model"
    for key in graph.outputs:
        for units in result.units.get(key, NONE).values():
            result.hold(units.labels, who, "returns them")
    return result


def _hold_masks(call: Call) -> None:
    """Keeps units that a mask tells apart.

    A mask has no units of its own that could be removed with those of the
    tensor that it masks.
    """
    step = call.recorded
    for name, places in step.given.items():
        if not is_mask(name):
            continue
        tensors = call.trace.graph.tensors
        for key in (step.inputs[place] for place in places):
            units = call.trace.units.get(key, NONE)
            call.hold("uses the units as a mask", units.values())
            if not isinstance(step.operation, keras.Layer):
                continue  # A function's mask is no mask of its first tensor.
            shape = tensors[key].shape
            for place in call.places_of(_masked_argument(step, name)):
                along = [
                    units
                    for axis, units in call.inputs[place].items()
                    if axis < len(shape) and shape[axis] != 1
                ]
                call.hold("is given a mask with one entry per unit", along)


def _hold_in_training(trace: Trace) -> None:
    """Keeps what a followed layer may tie together in training only.

    Such as the mean and the variance of which a layer draws in training,
    where in inference it takes the mean. With one input there is no other.
    """
    for step in trace.graph.steps:
        expansion = step.expansion
        if expansion is None or step.index >= 0:
            continue
        having = [
            trace.units[key]
            for key in step.inputs
            if "float" in trace.graph.tensors[key].dtype
            and trace.units.get(key)
        ]
        if len(having) < 2:
            continue
        try:
            same = first_difference(expansion, expansion.in_training()) is None
        except NotFollowed:
            same = False
        layer = expansion.layer
        who = f"{type(layer).__name__} '{layer.name}'"
        for units in () if same else having:
            for each in units.values():
                why = "does something else with them in training"
                trace.hold(each.labels, who, why)


def _hold_shared(
    trace: Trace, calls: Sequence[tuple[Call, set[tuple]]]
) -> None:
    """Keeps units where a layer is also called on a tensor without units."""
    everything = set().union(*(touched for _, touched in calls))
    for call, touched in calls:
        for thing, place in everything - touched:
            call.hold_labels(
                "is also called on a tensor without prunable units",
                trace.labels_of(thing, place),
            )


def _masked_argument(step: Step, mask: str) -> str:
    """Returns the name of the argument that a mask belongs to."""
    return next(iter(step.given)) if mask == "mask" else mask[: -len("_mask")]

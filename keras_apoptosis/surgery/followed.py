"""Changes followed layers with the sizes of what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_apoptosis import backend
from keras_apoptosis.backend import as_function, layers_inside, ordered_nodes
from keras_apoptosis.graph import Analysis
from keras_apoptosis.graph.sizes import twin_of
from keras_apoptosis.surgery.plan import Plan


def followed_changes(
    analysis: Analysis, plan: Plan
) -> Iterator[tuple[keras.Layer, dict[str, Any], list[tuple[Any, tuple]]]]:
    """Yields what changes in layers that are followed.

    What a layer derives from its sizes is known to its own code alone. So it
    is made twice, as it was and as it becomes, and takes over what differs.

    Args:
        analysis: The model's units.
        plan: What the model becomes.

    Yields:
        A layer, its new plain attributes, and tensors of models inside it
        with their new shapes.

    Raises:
        ValueError: If a layer would not build the planned weights from its
            new config.
    """
    graph, seen = analysis.graph, set()
    for step in graph.steps:
        expansion = step.expansion
        if expansion is None or step.index >= 0:
            continue
        layer = expansion.layer
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if layer is graph.model and fault_of_class(analysis, plan):
            continue
        count = len(step.inputs)
        before = [tuple(each.shape) for each in expansion.inputs[:count]]
        after = [
            tuple(plan.shapes.get(key, shape))
            for key, shape in zip(step.outputs, before, strict=False)
        ]
        config = plan.config.get(id(layer), {})
        cut = any(id(each) in plan.kept for each in layer.variables)
        if not cut and before == after:
            continue
        one, sizes, _ = twin_of(layer, expansion, {}, before)
        other, built, _ = twin_of(layer, expansion, config, after)
        planned = plan.shapes_of(layer)
        if sizes != [tuple(v.shape) for v in layer.variables]:
            raise ValueError(
                f"Layer '{layer.name}' of type {type(layer).__name__} has "
                "other weights than its config says. Received: config of "
                f"weights of shapes {sizes}"
            )
        if built != planned:
            raise ValueError(
                f"Layer '{layer.name}' of type {type(layer).__name__} would "
                f"build weights of shapes {built} from its config after the "
                f"removal. Expected: {planned}"
            )
        trio = zip(
            layers_inside(layer),
            layers_inside(one),
            layers_inside(other),
            strict=True,
        )
        for live, old, new in trio:
            yield (
                live,
                backend.differences(live, old, new),
                _shapes(live, old, new),
            )


def fault_of_class(analysis: Analysis, plan: Plan) -> str:
    """Says why no file could hold a model whose own `call` is followed.

    Args:
        analysis: The model's units.
        plan: What the model becomes.

    Returns:
        What its class does otherwise; `""` if nothing, or if its class does
        not matter.
    """
    model = analysis.graph.model
    whole = [
        (step.expansion, len(step.inputs))
        for step in analysis.graph.steps
        if step.expansion is not None
        and step.index < 0
        and step.expansion.layer is model
    ]
    if not whole or not plan.kept:
        return ""
    expansion, count = whole[0]
    config = plan.config.get(id(model), {})
    inputs = [tuple(tensor.shape) for tensor in expansion.inputs[:count]]
    try:
        _, built, _ = twin_of(model, expansion, config, inputs)
    except Exception as error:  # Whatever its class does.
        return str(error).strip().split("\n")[-1][:300]
    if built != plan.shapes_of(model):
        return "its config does not say how many units its layers have"
    return ""


def _shapes(live: Any, old: Any, new: Any) -> list[tuple[Any, tuple]]:
    """Returns the tensors of a model's graph that get new shapes."""
    found = []
    nodes = zip(*map(tensors_of, (live, old, new)), strict=True)
    for tensor, one, other in nodes:
        shape = backend.patched(
            tuple(tensor.shape), tuple(one.shape), tuple(other.shape)
        )
        if shape != tuple(tensor.shape):
            found.append((tensor, shape))
    return found


def tensors_of(layer: keras.Layer) -> list[Any]:
    """Returns the tensors of a model's graph; none for other layers."""
    function = as_function(layer)
    if function is None:
        return []
    made = [each for node in ordered_nodes(function) for each in node.outputs]
    return [*function.inputs, *made]

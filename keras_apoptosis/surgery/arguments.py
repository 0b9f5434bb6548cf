"""Changes arguments of functions that stand for fixed places of units."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.backend.arguments import changed_arguments
from keras_apoptosis.graph import Graph
from keras_apoptosis.surgery.plan import Plan


def new_arguments(graph: Graph, plan: Plan) -> list[tuple[Any, dict[str, Any]]]:
    """Finds the calls whose arguments change.

    Args:
        graph: The model's graph.
        plan: What the model becomes.

    Returns:
        Keras' records of the arguments, with their new attributes.
    """
    found = {}
    for step in graph.steps:
        operation = step.operation
        if step.expansion is not None or isinstance(operation, keras.Layer):
            continue
        changes = plan.arguments.get(id(operation))
        if changes:
            arguments = step.node.arguments
            new = changed_arguments(arguments, changes)
            found[id(arguments)] = arguments, new
    return list(found.values())

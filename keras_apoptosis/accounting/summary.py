"""Summarizes the unit groups of a model in a table."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_apoptosis.accounting.costs import (
    known_flop_cost,
    parameter_cost,
    widths_of,
)
from keras_apoptosis.accounting.flops import flops_header, whole
from keras_apoptosis.graph import UnitGroup, analyse
from keras_apoptosis.graph.groups import obstacle
from keras_apoptosis.graph.saturation import silent_groups
from keras_apoptosis.utils.tables import table


def report(model: keras.Model, input_shape: Any = None) -> str:
    """Summarizes the unit groups of a model, and what can be pruned.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        input_shape: Shapes of the inputs, where the model leaves lengths
            open; see `ka.flops`.

    Returns:
        A table with one row for each unit group: its size, the parameters
        and the forward FLOPs that removing one of its units saves (of one
        sample, or of one position of the input, as the header says), which
        methods can prune it (with `"*"` only by criteria that need no data)
        and, if it is not prunable, why. For a model without unit groups a
        sentence that says so.

    Raises:
        ValueError: If the model's graph cannot be read.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> print(ka.report(model))
     group    units   parameters a unit   FLOPs a unit   methods ...
     ─────...
     hidden       8                   7             12   apoptosis, ...
     logits       2                                      ...
    """
    analysis = analyse(model)
    if not analysis.groups:
        return (
            f"Model '{model.name}' has no unit groups: no layer of a known "
            "type has units."
        )
    widths = widths_of(analysis)
    parameters = parameter_cost(analysis).savings(widths)
    work = known_flop_cost(analysis, input_shape).savings(widths)
    rows = []
    silent = silent_groups(analysis)
    for number, group in enumerate(analysis.groups):
        weights: Any = ""
        flops: Any = ""
        if group.removable and group.size > 1:
            weights = int(parameters[number])
            saved = float(work[number])
            flops = "unknown" if math.isnan(saved) else whole(saved)
        methods = _methods(group, number in silent) if group.removable else ""
        rows.append(
            (group.name, group.size, weights, flops, methods, group.reason)
        )
    header = (
        "group",
        "units",
        "parameters a unit",
        flops_header(analysis, input_shape).replace("FLOPs", "FLOPs a unit"),
        "methods",
        "not prunable because",
    )
    return table(header, rows)


def _methods(group: UnitGroup, silent: bool) -> str:
    """Names the methods that can prune a group."""
    points = group.observations
    seen = bool(points) and all(point.measurable for point in points)
    found = {
        "apoptosis": not obstacle(group, measured=True),
        "saliency" if seen else "saliency*": True,
        "demon": silent,
    }
    return ", ".join(name for name, able in found.items() if able)

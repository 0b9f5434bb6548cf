"""Parameters and FLOPs, as the papers' tables count them."""

from __future__ import annotations

import dataclasses
import math

import keras

from keras_apoptosis.accounting.capacity import pruning_state
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.utils.tables import table

# A training step runs forward, and backward to inputs and to weights.
TRAINING = 3


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """The cost of one layer.

    Args:
        name: Path of the layer.
        parameters: Its weights, trained or not. A layer that is called
            several times has them once.
        flops: Floating-point operations of one sample's forward pass.
    """

    name: str
    parameters: int
    flops: int


def flops(model: keras.Model, training: bool = False) -> int:
    """Counts the floating-point operations of one sample.

    Counts the multiplications and additions of dense layers, convolutions,
    attention and recurrent layers: two for each weight and position. Leaves
    out activations, normalization and pooling, which cost little.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        training: Whether to count a training step, which takes three times
            as many as a forward pass.

    Returns:
        The number of operations.

    Raises:
        ValueError: If the model's graph cannot be read, or a layer works on
            an unknown shape.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.flops(model)
    96
    """
    total = sum(cost.flops for cost in layer_costs(model))
    return total * TRAINING if training else total


def parameters(model: keras.Model) -> int:
    """Counts the parameters of a model, trained or not.

    Unlike `model.count_params()` it leaves out the masks and statistics of
    Prunable layers.

    Args:
        model: A built model.

    Returns:
        The number of parameters.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), ka.layers.PrunableDense(2, masked=True)]
    ... )
    >>> ka.accounting.parameters(model), model.count_params()
    (10, 18)
    """
    _, added = pruning_state(model)
    return sum(
        math.prod(weight.shape)
        for weight in model.weights
        if id(weight) not in added
    )


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """Counts parameters and forward FLOPs, layer by layer.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Returns:
        One entry for each layer that has weights or costs operations, in the
        order of the graph. See `flops` for what is counted.

    Raises:
        ValueError: If the model's graph cannot be read, or a layer works on
            an unknown shape.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> print(ka.accounting.cost_table(model))
     layer    parameters   FLOPs
     ─────...
     hidden           40      64
     logits           18      32
     all              58      96
    """
    analysis = analyse(model)
    work = _work_of(analysis)
    costs, seen = [], set()
    for step in analysis.graph.steps:
        layer = step.operation
        # A nested model has none of its own: its layers are steps as well.
        layered = isinstance(layer, keras.Layer) and step.node is not None
        weights = layer.count_params() if layered else 0
        if id(layer) in seen:
            weights = 0
        seen.add(id(layer))
        found = 2 * sum(work.pop(step.path, ()))
        if math.isnan(found):
            raise ValueError(
                f"Cannot count the FLOPs of layer '{step.path}', which works "
                "on an unknown shape. Received: input shapes "
                f"{[analysis.graph.tensors[k].shape for k in step.read]}"
            )
        if weights or found:
            costs.append(LayerCost(step.path, weights, int(found)))
    return costs


def cost_table(model: keras.Model) -> str:
    """Formats the costs of a model as a table, layer by layer.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Returns:
        The table.
    """
    costs = layer_costs(model)
    rows = [(cost.name, cost.parameters, cost.flops) for cost in costs]
    rows.append(
        ("all", sum(c.parameters for c in costs), sum(c.flops for c in costs))
    )
    return table(("layer", "parameters", "FLOPs"), rows)


def _work_of(analysis: Analysis) -> dict[str, list[float]]:
    """Multiplications of each step of the graph, by path.

    Layers inside others count for the step that they are part of.
    """
    found: dict[str, list[float]] = {}
    for each in analysis.trace.work:
        sizes = math.prod(labels.size for labels in each.axes)
        found.setdefault(each.path, []).append(each.factor * sizes)
    return found

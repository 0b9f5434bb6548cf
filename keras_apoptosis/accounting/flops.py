"""Parameters and FLOPs, as the papers' tables count them."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import keras

from keras_apoptosis.accounting.capacity import pruning_state
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.expansion import Parameter
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
    flops: float


def flops(
    model: keras.Model, training: bool = False, input_shape: Any = None
) -> float:
    """Counts the floating-point operations of one sample.

    Counts the multiplications and additions of dense layers, convolutions,
    attention, recurrent layers and products of tensors: two for each weight
    and position. Leaves out activations, normalization and pooling, which
    cost little.

    Where the model's inputs leave lengths open (text of any length, images of
    any size) give `input_shape`. Otherwise the operations are counted for
    each position of the input, that is, for an unknown length of 1; after a
    stride of 2, half of a layer's. Attention compares each position with each
    other; it costs the square of the length, of which next to nothing is left
    for a length of 1.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        training: Whether to count a training step, which takes three times
            as many as a forward pass.
        input_shape: Shape of the input without the batch: `(128,)`. For
            several inputs a list of shapes, or a dictionary by their names.

    Returns:
        The number of operations; for each position of the input, and with a
        warning, where a length is neither known nor given.

    Raises:
        ValueError: If the model's graph cannot be read, a layer works on an
            unknown shape, or `input_shape` does not fit the model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.flops(model)
    96
    >>> model = keras.Sequential([
    ...     keras.Input((None,)),
    ...     keras.layers.Embedding(100, 4),
    ...     keras.layers.LSTM(8),
    ... ])
    >>> ka.flops(model, input_shape=(10,))
    7680
    """
    total = sum(cost.flops for cost in layer_costs(model, input_shape))
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


def layer_costs(model: keras.Model, input_shape: Any = None) -> list[LayerCost]:
    """Counts parameters and forward FLOPs, layer by layer.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        input_shape: See `flops`.

    Returns:
        One entry for each layer that has weights or costs operations, in the
        order of the graph. See `flops` for what is counted.

    Raises:
        ValueError: If the model's graph cannot be read, a layer works on an
            unknown shape, or `input_shape` does not fit the model.

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
    if analysis.has_open_lengths and input_shape is None:
        warnings.warn(
            f"The inputs of model '{model.name}' leave lengths open, so its "
            "FLOPs are counted for each position of the input. To count those "
            "of a sample give its shape, as in `input_shape=(128,)`.",
            stacklevel=3,
        )
    return _costs(analysis, input_shape)


def cost_table(model: keras.Model, input_shape: Any = None) -> str:
    """Formats the costs of a model as a table, layer by layer.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        input_shape: See `flops`.

    Returns:
        The table. Its header says where FLOPs are those for each position of
        the input.
    """
    analysis = analyse(model)
    costs = _costs(analysis, input_shape)
    rows = [(cost.name, cost.parameters, cost.flops) for cost in costs]
    rows.append(
        ("all", sum(c.parameters for c in costs), sum(c.flops for c in costs))
    )
    header = flops_header(analysis, input_shape)
    return table(("layer", "parameters", header), rows)


def flops_header(analysis: Analysis, input_shape: Any) -> str:
    """Returns the header of a column of FLOPs."""
    single = analysis.has_open_lengths and input_shape is None
    return "FLOPs per position" if single else "FLOPs"


def whole(count: float) -> float:
    """Returns a count as an integer, if it is one."""
    return int(count) if float(count).is_integer() else count


def _costs(analysis: Analysis, input_shape: Any) -> list[LayerCost]:
    work = _work_of(analysis, input_shape)
    costs = []
    counted: set[int] = set()
    for step in analysis.graph.steps:
        operation = step.operation
        # A nested model has none of its own: its layers are steps as well.
        weights: list[Any] = []
        if step.node is not None and isinstance(operation, keras.Layer):
            weights = operation.weights
        elif isinstance(operation, Parameter):
            weights = [operation.variable]
        new = {id(each): each for each in weights if id(each) not in counted}
        counted.update(new)
        found = whole(2 * sum(work.pop(step.path, ())))
        if math.isnan(found):
            raise ValueError(
                f"Cannot count the FLOPs of layer '{step.path}', which works "
                "on an unknown shape. Received: input shapes "
                f"{[analysis.graph.tensors[k].shape for k in step.read]}"
            )
        size = sum(math.prod(each.shape) for each in new.values())
        if size or found:
            costs.append(LayerCost(step.path, size, found))
    return costs


def _work_of(analysis: Analysis, input_shape: Any) -> dict[str, list[float]]:
    """Multiplications of each step of the graph, by path.

    Layers inside others count for the step that they are part of.
    """
    found: dict[str, list[float]] = {}
    for each in analysis.work(input_shape):
        sizes = math.prod(labels.size for labels in each.axes)
        found.setdefault(each.path, []).append(each.factor * sizes)
    return found

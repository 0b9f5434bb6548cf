"""Scores units by the change of the loss when they are replaced by means.

After Evci, "Detecting dead weights and units in neural networks", 2018,
chapters 3 and 4. Each function scores the units of every prunable group; the
lower the score, the more expendable the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_apoptosis.criteria.registry import register
from keras_apoptosis.criteria.scores import UnitScores
from keras_apoptosis.criteria.weight_saliency import check_labelled
from keras_apoptosis.distributed import collectives
from keras_apoptosis.distributed.long_work import tracked
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.named_groups import named_groups
from keras_apoptosis.statistics.replaced_units import ReplacedUnits
from keras_apoptosis.statistics.unit_weights import incoming_kernels, per_unit


@register("mean_replacement_penalty", needs_labels=True)
def mean_replacement_penalty(
    model: keras.Model,
    data: Any,
    *,
    at: str = "post",
    replacement: str = "mean",
    layers: Any = None,
    loss: Any = None,
    batch_size: int = 512,
) -> UnitScores:
    """Computes the change of the loss with a unit's mean (definition 3.1.1).

    The score is the absolute change of each sample's loss, summed over the
    samples. It takes one pass over the data for each unit;
    `mean_replacement_saliency` estimates it for all units in one.

    Args:
        model: A compiled model, Sequential or Functional.
        data: A labelled sample: `(x, y)`, or batches of that, but no
            generator: it can be read only once.
        at: `"post"` to replace the values after the activation, `"pre"` to
            replace those before it, as the thesis does.
        replacement: What replaces them: `"mean"`, `"median"`, `"minimum"` or
            `"maximum"`, over the sample.
        layers: Names of groups or layers, layers, patterns such as `"conv*"`,
            or a list of those: what to score. All prunable groups by default.
        loss: Instead of the model's loss: one of Keras, or a function of
            labels and predictions that returns a number for each sample.
        batch_size: How many samples of an array to run at once.

    Returns:
        For each group, by name, shape `(units,)`. Groups that are not
        prunable are absent, and so are those inside a layer, where activations
        cannot be measured.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example: unit 1 is constant, so nothing is lost by its mean.

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(1, kernel_initializer="ones"),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[1.0, 0.0]])
    >>> model.compile(loss="mae")
    >>> sample = np.array([[1.0], [3.0]]), np.zeros((2, 1))
    >>> ka.criteria.mean_replacement_penalty(model, sample)["hidden"].tolist()
    [2.0, 0.0]
    """
    units = _replaced("mean_replacement_penalty", model, data, at, layers, loss)
    constants = units.constants(data, replacement, batch_size)
    return penalties(units, data, constants, batch_size)


@register("mean_replacement_saliency", needs_labels=True)
def mean_replacement_saliency(
    model: keras.Model,
    data: Any,
    *,
    at: str = "post",
    replacement: str = "mean",
    layers: Any = None,
    loss: Any = None,
    batch_size: int = 512,
) -> UnitScores:
    """Estimates the penalty to first order, for all units (definition 3.1.2).

    That is, `|(mean − h)ᵀ ∂L/∂h|` of each sample, summed over the samples. The
    absolute value needs the mean before the first sample counts, so it takes
    one forward pass for the means, and one forward and backward.

    Args:
        model: See `mean_replacement_penalty`.
        data: See `mean_replacement_penalty`.
        at: See `mean_replacement_penalty`.
        replacement: See `mean_replacement_penalty`.
        layers: See `mean_replacement_penalty`.
        loss: See `mean_replacement_penalty`.
        batch_size: See `mean_replacement_penalty`.

    Returns:
        For each group, by name, shape `(units,)`; see
        `mean_replacement_penalty`.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(1, kernel_initializer="ones"),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[1.0, 0.0]])
    >>> model.compile(loss="mae")
    >>> sample = np.array([[1.0], [3.0]]), np.zeros((2, 1))
    >>> ka.criteria.mean_replacement_saliency(model, sample)["hidden"].tolist()
    [2.0, 0.0]
    """
    units = _replaced(
        "mean_replacement_saliency", model, data, at, layers, loss
    )
    constants = units.constants(data, replacement, batch_size)
    total = dict.fromkeys(units.groups, 0.0)
    for slopes, _ in units.slopes(data, constants, batch_size):
        for name, slope in slopes.items():
            total[name] = total[name] + abs(slope).sum(0, dtype="float64")
    return {
        name: collectives.all_reduce_sum(each, name)
        for name, each in total.items()
    }


@register("l1_norm")
def l1_norm(model: keras.Model, data: Any = None) -> UnitScores:
    """Computes the sum of each unit's absolute incoming weights (table 4.1).

    Args:
        model: A built model, Sequential or Functional.
        data: Not used.

    Returns:
        For each prunable group, by name, shape `(units,)`. Of units
        that several layers make, the sums add up; biases do not count.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0, 1.0], [-4.0, 0.0]])
    >>> ka.criteria.l1_norm(model)["hidden"].tolist()
    [7.0, 1.0]
    """
    return _norms(model, np.abs)


@register("squared_norm")
def squared_norm(model: keras.Model, data: Any = None) -> UnitScores:
    """Computes the sum of each unit's squared incoming weights (table 4.1).

    Args:
        model: See `l1_norm`.
        data: Not used.

    Returns:
        For each prunable group, by name, shape `(units,)`; see
        `l1_norm`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0, 1.0], [-4.0, 0.0]])
    >>> ka.criteria.squared_norm(model)["hidden"].tolist()
    [25.0, 1.0]
    """
    return _norms(model, np.square)


def penalties(
    units: ReplacedUnits,
    data: Any,
    constants: Mapping[str, Mapping[str, np.ndarray]],
    batch_size: int = 512,
) -> UnitScores:
    """Computes mean replacement penalties with functions already compiled."""
    full = units.losses(data, constants, {}, batch_size)
    sizes = {
        name: next(iter(constants[name].values())).size for name in units.groups
    }
    found = {name: np.zeros(size) for name, size in sizes.items()}
    one_by_one = [
        (name, n) for name, size in sizes.items() for n in range(size)
    ]
    for name, unit in tracked(
        one_by_one, "Replacing units one by one", len(one_by_one)
    ):
        only = {name: np.eye(sizes[name])[unit]}
        losses = units.losses(data, constants, only, batch_size)
        found[name][unit] = abs(losses - full).sum(dtype="float64")
    return {
        name: collectives.all_reduce_sum(each, name)
        for name, each in found.items()
    }


def _replaced(
    name: str,
    model: keras.Model,
    data: Any,
    at: str,
    layers: Any,
    loss: Any,
) -> ReplacedUnits:
    check_labelled(name, data)
    analysis = analyse(model)
    wanted = [group.name for _, group in named_groups(analysis, layers)]
    units = ReplacedUnits(analysis, at, loss, wanted)
    if not units.groups:
        where = {
            observation.name
            for group in analysis.groups
            if group.name in wanted
            for observation in group.observations
        }
        raise ValueError(
            "Expected units whose activations can be measured. Received: "
            f"model '{model.name}', whose prunable units are used at "
            f"{', '.join(sorted(where)) or 'no place'}"
        )
    return units


def _norms(
    model: keras.Model, measure: Callable[[np.ndarray], np.ndarray]
) -> UnitScores:
    analysis = analyse(model)
    found = per_unit(analysis, incoming_kernels(analysis), measure)
    return {g.name: found[g.name] for g in analysis.groups if g.removable}

"""Scores units by their effect on the loss and on the gradient flow.

Scores of the structured methods that demon pruning is compared with (Demon
pruning, section 4 and appendix I.4): each unit is multiplied by a gate c = 1,
and its score is a derivative with respect to that gate. The lower the score,
the more expendable the unit.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend import peek
from keras_apoptosis.criteria.registry import register
from keras_apoptosis.criteria.scores import UnitScores
from keras_apoptosis.criteria.weight_saliency import check_labelled
from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits
from keras_apoptosis.statistics.unit_weights import incoming_weights, per_unit
from keras_apoptosis.training.penalty import scales_of


@register("snap", needs_labels=True)
def snap(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batch_size: int = 512,
) -> UnitScores:
    """Computes the slope of the loss in a gate behind each unit: `|∂L/∂c|`.

    The sensitivity of SNAP (Verdenius, Stol and Forré, "Pruning via iterative
    ranking of sensitivity statistics", 2020), which prunes before training;
    pruned early in training it is EarlySNAP (Rachwan et al., 2022). It is the
    sum of `h ∂L/∂h` over samples and positions, by one backward pass.

    In their authors' code SNAP and CroPit-S prune in seven rounds, each of
    which scores anew: to a half, then five times half of the way from there
    to the wanted share, then to it. `SaliencyPruning(rounds=7)` halves the
    way from nothing, `ka.prune(steps=7)` that to a target. EarlyCroP-S has one
    round there, though EarlyCroP, for single weights, has a hundred.

    Args:
        model: A compiled model, Sequential or Functional.
        data: A labelled sample: `(x, y)`, or batches of that.
        loss: Instead of the model's loss: one of Keras, or a function of
            labels and predictions that returns a number for each sample.
        batch_size: How many samples of an array to run at once.

    Returns:
        For each prunable group, by name, shape `(units,)`.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example: the loss is the sum of units of 3 and 1, so these are its slopes.

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.Dense(2, name="hidden"),
    ...     keras.layers.Dense(1, kernel_initializer="ones"),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0, 1.0]])
    >>> model.compile(loss="mae")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.snap(model, sample)["hidden"].tolist()
    [3.0, 1.0]
    """
    check_labelled("snap", data)
    analysis = analyse(model)
    wanted = [group for group in analysis.groups if group.removable]
    units = ReplacedUnits(analysis, "post", loss, [g.name for g in wanted])
    zeros = {
        name: {point: np.zeros_like(mean) for point, mean in points.items()}
        for name, points in units.means(data, batch_size).items()
    }
    total = dict.fromkeys(units.groups, 0.0)
    for slopes, _ in units.slopes(data, zeros, batch_size):
        for name, slope in slopes.items():
            total[name] = total[name] + slope.sum(0, dtype="float64")
    return {
        name: abs(collectives.all_reduce_sum(each, name))
        for name, each in total.items()
    }


@register("cropit", needs_labels=True)
def cropit(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batch_size: int = 512,
) -> UnitScores:
    """Computes the slope of the gradient flow `‖g‖²` in a gate on each unit.

    The score of CroPit-S, which prunes before training, and EarlyCroP-S,
    which does so early in training (Rachwan et al., "Winning the lottery
    ahead of time", 2022): units whose removal would change the gradient
    flow, `|Σ w (H g)|` over the weights that make the unit, stay.

    Args:
        model: See `snap`.
        data: See `snap`.
        loss: See `snap`.
        batch_size: See `snap`.

    Returns:
        For each prunable group, by name, shape `(units,)`.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example: of a loss (v w)² at v = 1 and w = 3 the gradient is (6, 18) in w
    and v, and the row of w in its Hessian (2, 12): 3 · (2 · 6 + 12 · 18).

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.Dense(1, name="hidden", use_bias=False),
    ...     keras.layers.Dense(1, kernel_initializer="ones", use_bias=False),
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> model.compile(loss="mse")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.cropit(model, sample)["hidden"].tolist()
    [684.0]
    """
    check_labelled("cropit", data)
    analysis = analyse(model)
    derivatives = WeightDerivatives(model, loss)
    gradients = derivatives.gradients(data, batch_size)
    _, products = derivatives.hessian_products(data, gradients, batch_size)
    index = {id(weight): n for n, weight in enumerate(derivatives.weights)}
    flow = [
        (
            analysis.trace.axes[id(weight)][axis],
            np.moveaxis(peek(weight) * products[index[id(weight)]], axis, 0),
        )
        for weight, axis, _ in incoming_weights(analysis)
    ]
    found = per_unit(analysis, flow, lambda values: values)
    return {g.name: abs(found[g.name]) for g in analysis.groups if g.removable}


@register("normalization_scale")
def normalization_scale(model: keras.Model, data: Any = None) -> UnitScores:
    """Computes the absolute scales of the normalizations of a unit: `Σ|γ|`.

    The score of network slimming (Liu et al., "Learning efficient
    convolutional networks through network slimming", 2017), for models that
    were trained with an ℓ1 penalty on these scales.

    Args:
        model: A built model, Sequential or Functional.
        data: Not used.

    Returns:
        For each prunable group that passes a normalization with a scale,
        by name, shape `(units,)`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, name="hidden"),
    ...     keras.layers.BatchNormalization(),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[1].gamma.assign([1.0, -2.0, 0.5])
    >>> ka.criteria.normalization_scale(model)["hidden"].tolist()
    [1.0, 2.0, 0.5]
    """
    analysis = analyse(model)
    parts = [
        (labels, np.moveaxis(abs(peek(scale)), axis, 0))
        for scale in scales_of(model)
        for axis, labels in analysis.trace.axes.get(id(scale), {}).items()
    ]
    found = per_unit(analysis, parts, lambda values: values)
    return {
        g.name: found[g.name]
        for g in analysis.groups
        if g.removable and found[g.name].any()
    }

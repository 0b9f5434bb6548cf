"""Scores weights by the change of the loss when they are set to zero.

After Evci, "Detecting dead weights and units in neural networks", 2018,
chapter 2. Each function scores every trainable weight of a model; the lower
the score, the more expendable the weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend import peek
from keras_apoptosis.criteria.registry import register
from keras_apoptosis.criteria.scores import WeightScores
from keras_apoptosis.distributed.long_work import tracked
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.utils.checks import check_choice, check_count, check_size


@register("magnitude", granularity="weights")
def magnitude(model: keras.Model, data: Any = None) -> WeightScores:
    """Computes the absolute value of each weight (table 2.1).

    Args:
        model: A built model.
        data: Not used.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> _ = model.layers[0].kernel.assign([[3.0, -4.0]])
    >>> ka.criteria.magnitude(model)[0].tolist()
    [[3.0, 4.0]]
    """
    return [abs(each) for each in _weights(model)]


@register("taylor", granularity="weights", needs_labels=True)
def taylor(
    model: keras.Model,
    data: Any,
    *,
    absolute: bool = False,
    perturbation: str = "weights",
    loss: Any = None,
    batch_size: int = 512,
) -> WeightScores:
    """Computes the change of the loss to first order: `Δw_i ∇L_i` (table 2.1).

    Args:
        model: A compiled model.
        data: A labelled sample: `(x, y)`, or batches of that.
        absolute: Whether to score by the absolute value, so that weights
            whose removal seems to lower the loss stay, too.
        perturbation: `"weights"` for Δw = −w, the removal of each weight, or
            `"signs"` for Δw = −sign(w), a step towards zero.
        loss: Instead of the model's loss: one of Keras, or a function of
            labels and predictions that returns a number for each sample.
        batch_size: How many samples of an array to run at once.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example: a loss of (3 x)² at x = 1 has a slope of 6 · 3 in Δw = −3.

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> model.compile(loss="mse")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.taylor(model, sample)[0].tolist()
    [[-18.0]]
    """
    steps = _steps(model, perturbation)
    check_labelled("taylor", data)
    gradients = WeightDerivatives(model, loss).gradients(data, batch_size)
    scores = [s * g for s, g in zip(steps, gradients, strict=True)]
    return _signed(scores, absolute)


@register("taylor2", granularity="weights", needs_labels=True)
def taylor2(
    model: keras.Model,
    data: Any,
    *,
    hessian_weight: float = 1.0,
    diagonal: bool = False,
    probes: int = 16,
    seed: int = 0,
    absolute: bool = False,
    perturbation: str = "weights",
    loss: Any = None,
    batch_size: int = 512,
) -> WeightScores:
    """Computes the change to second order, with whole rows of the Hessian.

    `Δw_i (∇L_i + λ Σ_j H_ij Δw_j)`: equation 2.3. The sum is the i-th entry
    of a Hessian-vector product, so that it takes only a few times as long as
    a gradient. It counts what other weights that go as well do to this one.
    With `diagonal=True` it is `Δw_i (∇L_i + λ H_ii Δw_i)`: equation 2.2, as if
    no other weight went.

    Args:
        model: See `taylor`.
        data: See `taylor`.
        hessian_weight: λ. The thesis takes 1 for removal; the Taylor series
            itself has ½.
        diagonal: Whether only the diagonal of the Hessian counts, which is
            estimated: the mean of `z_i (H z)_i` over vectors z of random
            signs. What the rest of a row adds cancels in the mean.
        probes: Integer > 0: how many such vectors, each of a Hessian-vector
            product. The error falls with their root; it is nothing where the
            Hessian is diagonal, or with as many vectors as there are weights
            (the next power of two), which are orthogonal then.
        seed: Integer: of the signs.
        absolute: See `taylor`.
        perturbation: See `taylor`.
        loss: See `taylor`.
        batch_size: See `taylor`.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example: of (3 x)², by Taylor's own λ, the loss falls by all of its 9.

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> model.compile(loss="mse")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.taylor2(model, sample, hessian_weight=0.5)[0].tolist()
    [[-9.0]]
    """
    check_size("hessian_weight", hessian_weight)
    check_count("probes", probes)
    products = None
    if diagonal:
        products = functools.partial(
            _diagonal_products, probes=probes, seed=seed
        )
    steps, gradients, rows = _second_order(
        "taylor2", model, data, perturbation, loss, batch_size, products
    )
    scores = [
        s * (g + hessian_weight * r)
        for s, g, r in zip(steps, gradients, rows, strict=True)
    ]
    return _signed(scores, absolute)


@register("hessian", granularity="weights", needs_labels=True)
def hessian(
    model: keras.Model,
    data: Any,
    *,
    absolute: bool = False,
    perturbation: str = "weights",
    loss: Any = None,
    batch_size: int = 512,
) -> WeightScores:
    """Computes the second-order term: `Δw_i Σ_j H_ij Δw_j` (table 2.1).

    Args:
        model: See `taylor`.
        data: See `taylor`.
        absolute: See `taylor`.
        perturbation: See `taylor`.
        loss: See `taylor`.
        batch_size: See `taylor`.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> model.compile(loss="mse")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.hessian(model, sample)[0].tolist()
    [[18.0]]
    """
    steps, _, rows = _second_order(
        "hessian", model, data, perturbation, loss, batch_size
    )
    scores = [s * r for s, r in zip(steps, rows, strict=True)]
    return _signed(scores, absolute)


@register("loss_change", granularity="weights", needs_labels=True)
def loss_change(
    model: keras.Model,
    data: Any,
    *,
    loss: Any = None,
    batch_size: int = 512,
) -> WeightScores:
    """Computes the exact change of the loss, setting each weight to zero.

    It takes one pass over the data for each weight that is not zero: for
    small models, as the measure by which others are judged (section 2.1).

    Args:
        model: See `taylor`.
        data: See `taylor`; read once for each weight.
        loss: See `taylor`.
        batch_size: See `taylor`.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Raises:
        ValueError: If there is no loss, or the data has no labels.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> model.compile(loss="mse")
    >>> sample = np.ones((1, 1)), np.zeros((1, 1))
    >>> ka.criteria.loss_change(model, sample)[0].tolist()
    [[-9.0]]
    """
    check_labelled("loss_change", data)
    derivatives = WeightDerivatives(model, loss)
    weights = [each.astype("float32") for each in _weights(model)]
    full = derivatives.loss(data, batch_size=batch_size)
    scores = [np.zeros(weight.shape) for weight in weights]
    one_by_one = [
        (number, index)
        for number, weight in enumerate(weights)
        for index in zip(*np.nonzero(weight), strict=True)
    ]
    for number, index in tracked(
        one_by_one, "Leaving out weights one by one", len(one_by_one)
    ):
        without = weights[number].copy()
        without[index] = 0
        changed = [*weights[:number], without, *weights[number + 1 :]]
        scores[number][index] = (
            derivatives.loss(data, changed, batch_size) - full
        )
    return scores


for _function in (taylor, taylor2, hessian):
    register(
        f"absolute_{_function.__name__}",
        granularity="weights",
        needs_labels=True,
    )(functools.partial(_function, absolute=True))


def _weights(model: keras.Model) -> WeightScores:
    return [peek(each).astype("float64") for each in model.trainable_variables]


def _steps(model: keras.Model, perturbation: str) -> WeightScores:
    """Returns Δw: how each weight changes when it is removed."""
    check_choice("perturbation", perturbation, ("weights", "signs"))
    weights = _weights(model)
    if perturbation == "weights":
        return [-each for each in weights]
    return [-np.sign(each) for each in weights]


def _second_order(
    name: str,
    model: keras.Model,
    data: Any,
    perturbation: str,
    loss: Any,
    batch_size: int,
    products: Callable | None = None,
) -> tuple[WeightScores, WeightScores, WeightScores]:
    """Returns Δw, gradients, and HΔw or what `products` takes for it."""
    steps = _steps(model, perturbation)
    check_labelled(name, data)
    derivatives = WeightDerivatives(model, loss)
    products = products or WeightDerivatives.hessian_products
    return steps, *products(derivatives, data, steps, batch_size)


def _diagonal_products(
    derivatives: WeightDerivatives,
    data: Any,
    steps: WeightScores,
    batch_size: int,
    probes: int,
    seed: int,
) -> tuple[WeightScores, WeightScores]:
    """Estimates `H_ii Δw_i` (Bekas, Kokiopoulou and Saad, 2007)."""
    rng = np.random.default_rng(seed)
    sizes = [each.size for each in steps]
    index = np.arange(sum(sizes))
    flips = rng.choice((-1.0, 1.0), index.size)
    # Rows of a Hadamard matrix, in which any two columns are orthogonal.
    order = 1 << (index.size - 1).bit_length()
    chosen = rng.choice(order, min(probes, order), replace=False)
    rows = [np.zeros_like(each) for each in steps]
    for number in tracked(chosen, "Probing the Hessian", chosen.size):
        signs = flips * (1.0 - 2.0 * (np.bitwise_count(index & number) % 2))
        probe = [
            part.reshape(step.shape)
            for part, step in zip(
                np.split(signs, np.cumsum(sizes)[:-1]), steps, strict=True
            )
        ]
        gradients, products = derivatives.hessian_products(
            data, probe, batch_size
        )
        for row, sign, product, step in zip(
            rows, probe, products, steps, strict=True
        ):
            row += sign * product * step / chosen.size
    return gradients, rows


def _signed(scores: WeightScores, absolute: bool) -> WeightScores:
    return [abs(each) for each in scores] if absolute else scores


def check_labelled(name: str, data: Any) -> None:
    """Raises a `ValueError` where a criterion gets no data."""
    if data is None:
        raise ValueError(
            f"Criterion '{name}' judges by the loss on a sample. Pass "
            "one, as `data=(x[:1000], y[:1000])`. Received: data=None"
        )

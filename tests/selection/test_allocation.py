"""Widths that meet limits: worked out by hand, and by search."""

import itertools

import keras
import numpy as np
import pytest

from keras_apoptosis.accounting.costs import (
    flop_cost,
    parameter_cost,
    unit_cost,
    widths_of,
)
from keras_apoptosis.graph import analyse
from keras_apoptosis.selection.allocation import allocate
from keras_apoptosis.selection.curves import score_curve
from keras_apoptosis.selection.reconstruction import Reconstruction
from tests.architectures import CATALOGUE


def mlp(*sizes):
    return keras.Sequential(
        [keras.Input((sizes[0],)), *(keras.layers.Dense(s) for s in sizes[1:])]
    )


def falling(size, power, scale=1.0):
    return scale * (1 - np.arange(size + 1) / size) ** power


def total(widths, errors):
    return sum(error[widths[group]] for group, error in errors.items())


def every_choice(cost, limit, sizes, errors):
    """The least error of all choices that meet the limit."""
    groups = list(errors)
    ranges = [range(1, sizes[group] + 1) for group in groups]
    best = np.inf
    for chosen in itertools.product(*ranges):
        widths = sizes.copy()
        widths[groups] = chosen
        if cost(widths) <= limit:
            best = min(best, total(widths, errors))
    return best


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25])
@pytest.mark.parametrize("seed", range(3))
def test_near_the_best_of_all_choices(share, seed):
    """Kernels between the groups are shared: neither can be seen alone."""
    rng = np.random.default_rng(seed)
    analysis = analyse(mlp(6, 9, 12, 7, 4))
    sizes = widths_of(analysis)
    errors = {
        group: falling(sizes[group], rng.uniform(1, 4), rng.uniform(0.5, 2))
        for group in range(3)
    }
    costs = [parameter_cost(analysis)]
    limits = [share * costs[0](sizes)]
    found = allocate(costs, limits, sizes, errors)
    assert costs[0](found) <= limits[0]
    best = every_choice(costs[0], limits[0], sizes, errors)
    assert best - 1e-12 <= total(found, errors) <= 1.15 * best + 0.02


def test_groups_exchange_units_where_one_is_too_large_for_what_is_left():
    """Units cost 6 and 9; of the limit no greedy choice uses all."""
    analysis = analyse(mlp(1, 7, 1, 10, 1))
    sizes = widths_of(analysis)
    cost = parameter_cost(analysis)
    worst = 1.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        errors = {
            group: falling(sizes[group], rng.uniform(1, 4), rng.uniform(0.5, 2))
            for group in (0, 2)
        }
        limit = rng.uniform(0.3, 0.8) * cost(sizes)
        found = total(allocate([cost], [limit], sizes, errors), errors)
        worst = max(worst, found / every_choice(cost, limit, sizes, errors))
    assert worst < 1.0 + 1e-9


def test_several_limits_are_all_met():
    analysis = analyse(CATALOGUE["residual"]())
    sizes = widths_of(analysis)
    costs = [flop_cost(analysis), unit_cost(analysis)]
    limits = [0.6 * costs[0](sizes), 0.7 * costs[1](sizes)]
    errors = {
        n: falling(g.size, 2)
        for n, g in enumerate(analysis.groups)
        if g.removable
    }
    found = allocate(costs, limits, sizes, errors)
    for cost, limit in zip(costs, limits, strict=True):
        assert cost(found) <= limit


def test_what_does_nothing_leaves_first():
    analysis = analyse(mlp(4, 8, 8, 2))
    sizes = widths_of(analysis)
    errors = {0: falling(8, 1), 1: np.where(np.arange(9) >= 3, 0.0, 1.0)}
    cost = parameter_cost(analysis)
    wanted = cost(np.array([8, 3, 2]))
    assert allocate([cost], [wanted], sizes, errors).tolist() == [8, 3, 2]


def test_round_to_and_min_units():
    analysis = analyse(mlp(4, 20, 16, 2))
    sizes = widths_of(analysis)
    errors = {0: falling(20, 2), 1: falling(16, 2)}
    cost = parameter_cost(analysis)
    limit = 0.3 * cost(sizes)
    found = allocate([cost], [limit], sizes, errors, round_to=8)
    assert cost(found) <= limit
    assert found.tolist() in ([8, 8, 2], [8, 16, 2], [16, 8, 2])
    least = allocate([cost], [1], sizes, errors, min_units=5, round_to=4)
    assert cost(least) > 1  # Out of reach.
    assert least.tolist() == [8, 8, 2]


def test_an_expensive_unit_does_not_hide_cheap_ones_behind_it():
    """A cliff and then nothing: the hull goes over the cliff in one step."""
    analysis = analyse(mlp(4, 10, 10, 2))
    sizes = widths_of(analysis)
    cliff = np.array([2.0, *[0.2] * 9, 0.0])  # One unit costs 0.2, as nine do.
    errors = {0: cliff, 1: falling(10, 1)}  # Each unit costs 0.1.
    cost = parameter_cost(analysis)
    found = allocate([cost], [0.4 * cost(sizes)], sizes, errors)
    assert found[0] <= 3


def test_an_error_is_what_is_lost_beside_what_is_left_of_the_scores():
    curve = score_curve(np.array([2.0, -1.0, 3.0, 5.0]))
    np.testing.assert_allclose(
        curve.error, [1e12, 1, 0.25, 0, 0], rtol=1e-9, atol=1e-12
    )
    assert curve.order.tolist() == [3, 2, 0, 1]
    assert score_curve(np.zeros(2)).error.tolist() == [0, 0, 0]


def test_an_error_is_what_is_lost_of_what_consumers_receive():
    """Of two independent units with variances 4 and 1, added up."""
    model = mlp(2, 2, 1)
    model.set_weights([np.eye(2), np.zeros(2), np.ones((2, 1)), np.zeros(1)])
    analysis = analyse(model)
    x = np.array([[2, 1], [2, -1], [-2, 1], [-2, -1]], "float32")
    chooser = Reconstruction(x)
    curve = chooser.curve(analysis, 0, chooser.measure(analysis, [0]))
    assert curve.order.tolist() == [0, 1]
    np.testing.assert_allclose(
        curve.error, [1e12, 1 / 4, 0], rtol=1e-6, atol=1e-12
    )


def test_units_that_all_count_the_same_go_from_every_group():
    """No group is emptied where scores do not tell groups apart."""
    analysis = analyse(mlp(8, 32, 32, 32, 4))
    sizes = widths_of(analysis)
    errors = {n: score_curve(np.ones(32)).error for n in range(3)}
    cost = parameter_cost(analysis)
    found = allocate([cost], [0.25 * cost(sizes)], sizes, errors)[:3]
    assert found.min() >= 12

"""Costs at any widths are those of the model once it has these widths."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.accounting.costs import (
    byte_cost,
    flop_cost,
    parameter_cost,
    unit_cost,
    widths_of,
)
from keras_apoptosis.graph import analyse
from tests.cases import part
from tests.random_architectures import generate
from tests.surgery.test_shrink import removal_of


def size_in_bytes(variables):
    bytes_of = {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2}
    return sum(
        bytes_of.get(each.dtype, 4) * int(np.prod(each.shape))
        for each in variables
    )


@pytest.mark.parametrize("seed", part(range(8)))
def test_costs_are_those_of_the_model_that_is_pruned_so(seed):
    model = generate(seed)
    model.compile("adam")
    analysis = analyse(model)
    costs = {
        "parameters": parameter_cost(analysis),
        "flops": flop_cost(analysis),
        "bytes": byte_cost(analysis),
        "training": byte_cost(analysis, training=True),
    }
    removal = removal_of(model, seed, replace="nothing")
    before = widths_of(analysis)
    after = before - [
        removal[group.name].size if group.name in removal else 0
        for group in analysis.groups
    ]

    def counted():
        state = [*model.weights, *model.optimizer.variables]
        return {
            "parameters": ka.accounting.parameters(model),
            "flops": ka.flops(model),
            "bytes": size_in_bytes(model.weights),
            "training": size_in_bytes(state),
        }

    assert {n: cost(before) for n, cost in costs.items()} == counted()
    ka.shrink(model, removal)
    assert {n: cost(after) for n, cost in costs.items()} == counted()


def test_units_are_those_that_can_be_pruned():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    )
    analysis = analyse(model)
    widths = np.array([[8, 2], [3, 2]])  # Several at once.
    assert unit_cost(analysis)(widths).tolist() == [8, 3]


def test_masks_and_statistics_take_memory_and_are_no_parameters():
    model = keras.Sequential(
        [keras.Input((4,)), ka.layers.PrunableDense(2, masked=True)]
    )
    analysis = analyse(model)
    widths = widths_of(analysis)
    assert parameter_cost(analysis)(widths) == 4 * 2 + 2
    assert byte_cost(analysis)(widths) == 4 * (4 * 2 + 2) + 4 * 2

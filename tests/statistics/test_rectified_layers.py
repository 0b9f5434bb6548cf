"""Which layers have units that a ReLU judges."""

import keras
import numpy as np
import pytest
from keras import activations, layers

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse, read
from keras_apoptosis.graph.activations import is_rectifier
from keras_apoptosis.statistics.rectified_layers import (
    rectified_layers,
    totals,
)


def found(model, **arguments):
    """For each layer, by name, which layer judges it."""
    return {
        each.path: each.judge.name
        for each in rectified_layers(read(model), **arguments)
    }


def sequential(*stack, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("activation", "is_one"),
    [
        ("relu", True),
        ("relu6", True),
        (layers.ReLU(), True),
        (layers.ReLU(max_value=3.0), True),
        (layers.ReLU(negative_slope=0.1), False),
        (layers.ReLU(threshold=0.5), False),
        (None, False),
        ("gelu", False),
        ("leaky_relu", False),
        ("sigmoid", False),
        (lambda x: activations.relu(x), False),
    ],
)
def test_rectifiers(activation, is_one):
    assert is_rectifier(layers.ReLU())
    assert not is_rectifier(layers.ReLU(negative_slope=0.1))
    assert not is_rectifier(layers.ReLU(threshold=0.1))
    assert is_rectifier(layers.Dense(2, activation=activation)) == is_one
    if activation is not None:
        assert is_rectifier(layers.Activation(activation)) == is_one


def test_the_output_is_not_one_unless_it_is():
    model = sequential(
        layers.Dense(3, "relu", name="one"), layers.Dense(2, name="out")
    )
    assert found(model) == {"one": "one"}
    assert found(sequential(layers.Dense(3, "relu", name="out"))) == {
        "out": "out"
    }


@pytest.mark.parametrize(
    "relu",
    [
        layers.ReLU(name="relu"),
        layers.Activation("relu", name="relu"),
        ka.layers.PrunableActivation("relu", name="relu"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_relu_that_stands_apart(relu):
    model = sequential(layers.Dense(3, name="one"), relu, layers.Dense(2))
    assert found(model) == {"one": "relu"}


def test_with_a_normalization_between_there_is_none():
    model = sequential(
        layers.Dense(3), layers.BatchNormalization(), layers.ReLU()
    )
    assert found(model) == {}


def test_who_else_reads_it_is_not_rectified():
    x = keras.Input((4,))
    before = layers.Dense(4, name="one")(x)
    y = layers.Add()([layers.ReLU()(before), before])
    assert found(keras.Model(x, y)) == {}
    assert found(keras.Model(x, [layers.ReLU()(before), before])) == {}


def test_a_relu_that_several_layers_share_judges_none():
    """Its statistics would be those of both."""
    x, relu = keras.Input((4,)), layers.ReLU()
    y = relu(layers.Dense(4)(relu(layers.Dense(4)(x))))
    assert found(keras.Model(x, y)) == {}


def test_a_shared_layer_is_one():
    x, shared = keras.Input((4,)), layers.Dense(4, "relu", name="shared")
    (one,) = rectified_layers(read(keras.Model(x, shared(shared(x)))))
    assert len(one.tensors) == 2


def test_nested_models_and_convolutions():
    inner = sequential(layers.Dense(3, "relu", name="one"), shape=(8,))
    inner.name = "inner"
    model = sequential(
        layers.Conv2D(2, 3, activation="relu", name="conv"),
        layers.Flatten(),
        inner,
        layers.Dense(2),
        shape=(4, 4, 1),
    )
    assert found(model) == {"inner/one": "one"}
    assert found(model, convolutions=True) == {
        "conv": "conv",
        "inner/one": "one",
    }


@pytest.mark.parametrize("apart", [False, True])
def test_totals_worked_out_by_hand(apart):
    """Rows 1 and 2 through weights 1, -1 and 2, with a bias of -1."""
    relu = [layers.ReLU()] if apart else []
    model = sequential(
        layers.Dense(3, None if apart else "relu", name="one"),
        *relu,
        layers.Dense(1),
        shape=(1,),
    )
    model.layers[0].set_weights(
        [np.array([[1.0, -1.0, 2.0]]), np.array([-1.0, -1.0, -1.0])]
    )
    analysis = analyse(model)
    measured = totals(
        analysis, rectified_layers(analysis.graph), np.array([[1.0], [2.0]])
    )
    np.testing.assert_array_equal(measured["one"], [0 + 1, 0, 1 + 3])


def test_totals_of_feature_maps_add_up_positions():
    model = sequential(
        layers.Conv1D(2, 1, activation="relu", name="conv"), shape=(3, 1)
    )
    model.layers[0].set_weights([np.array([[[1.0, -1.0]]]), np.zeros(2)])
    analysis = analyse(model)
    measured = totals(
        analysis,
        rectified_layers(analysis.graph, convolutions=True),
        np.array([[[1.0], [-2.0], [3.0]], [[0.5], [0.0], [0.0]]]),
    )
    np.testing.assert_allclose(measured["conv"], [4.5, 2.0], rtol=1e-6)

"""Which units are inactive, and that they leave unnoticed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.selection import inactive_units

# Three units of one input from 0 to 1. Behind a ReLU: x, 0, and 0.005 x.
X = np.linspace(0, 1, 33)[:, None].astype("float32")
KERNEL = np.array([[1.0, 1.0, 0.005]], "float32")
BIAS = np.array([0.0, -2.0, 0.0], "float32")


def three(activation="relu", after=()):
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(3, activation=activation, name="hidden"),
            *after,
            layers.Dense(2),
        ]
    )
    model.layers[0].set_weights([KERNEL, BIAS])
    return model


def removed(model, *arguments, **options):
    removal = inactive_units(model, X, *arguments, **options)
    return removal["hidden"].tolist() if "hidden" in removal else []


def test_a_tolerance():
    assert removed(three()) == [1, 2]  # 0.005 is less than 0.01.
    assert removed(three(), 0.001) == [1]
    assert removed(three(), 0.0) == [1]


def test_a_constant_is_dead_if_that_is_asked_for():
    model = three()
    model.layers[0].set_weights([KERNEL, BIAS + np.array([0, 0, 0.5])])
    # From 0.5 to 0.505: half of that from a constant.
    assert removed(model, 0.0026) == [1, 2]
    assert removed(model, 0.0024) == [1]
    assert removed(model, 0.0026, constant=False) == [1]


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "relu6"])
def test_others_that_fall_silent(activation):
    model = three(activation)
    # GELU(-2) is -0.045, silent is GELU(-9).
    model.layers[0].set_weights([KERNEL, np.array([0.0, -9.0, 2.0])])
    assert removed(model, constant=False) == [1]


def test_leaky_units_are_dead_if_never_positive():
    assert removed(three("leaky_relu"), 0.001) == [1]


def test_the_most_active_unit_stays():
    model = three()
    kernel = np.array([[0.001, 0.003, 0.002]])
    model.layers[0].set_weights([kernel, np.zeros(3)])
    assert removed(model) == [0, 2]


@pytest.mark.parametrize("normalized", ["before", "after"])
def test_outputs_stay_though_a_dead_unit_leaves_a_constant(normalized):
    """A dead unit becomes the offset of a normalization behind its ReLU."""
    norm = layers.BatchNormalization()
    stack = [layers.ReLU(), norm] if normalized == "after" else [norm]
    if normalized == "before":
        stack += [layers.ReLU()]
    model = three(None, stack)
    norm.set_weights(
        [
            np.array([1.0, 2.0, 3.0]),  # Scale, offset, mean and variance.
            np.array([0.5, -0.25, 4.0]) - (normalized == "before"),
            np.array([0.1, 0.2, 0.3]),
            np.array([1.0, 2.0, 3.0]),
        ]
    )
    before = ops.convert_to_numpy(model(X))
    assert removed(model)
    ka.shrink(model, inactive_units(model, X, 0.0))
    assert model.layers[0].units < 3
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(X)), before, rtol=1e-5, atol=1e-5
    )


def test_a_channel_of_a_stream_is_dead_if_it_is_at_every_relu():
    """Channel 0 is silent at first, and wakes behind the sum; 1 never does."""
    inputs = keras.Input((4, 4, 1))
    first = layers.Conv2D(2, 1, name="first")
    second = layers.Conv2D(2, 1, name="second")
    x = layers.ReLU()(first(inputs))
    y = layers.ReLU()(layers.Add()([x, second(x)]))
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(y))
    model = keras.Model(inputs, outputs)
    first.set_weights([np.zeros((1, 1, 1, 2)), np.array([-1.0, -1.0])])
    second.set_weights([np.zeros((1, 1, 2, 2)), np.array([1.0, -1.0])])
    data = np.ones((3, 4, 4, 1), "float32")
    removal = inactive_units(model, data, constant=False)
    assert {n: removal[n].tolist() for n in removal} == {"first": [1]}


def test_half_of_the_samples_are_enough():
    """Unit 2 wakes in the last sample only."""
    model = three()
    assert removed(model, 0.001, samples=4) == [1, 2]

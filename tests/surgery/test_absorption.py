"""Where the constant part of a replacement can go."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.surgery.absorption import absorber_of, takes_constants


def model_of(build):
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="relu", name="one")(inputs)
    two = layers.Dense(2, use_bias=False, name="two")
    return keras.Model(inputs, build(two(x)))


def normalized(x):
    return layers.BatchNormalization(name="norm")(x)


ABSORBED = {
    "by a normalization": (normalized, 1),
    "by two": (lambda x: [normalized(x), layers.BatchNormalization()(x)], 2),
    "not where it is returned": (lambda x: [x, normalized(x)], None),
    "not where others read it": (
        lambda x: [normalized(x), layers.ReLU()(x)],
        None,
    ),
    "not by an activation": (lambda x: normalized(layers.ReLU()(x)), None),
    "not by nothing": (lambda x: x, None),
}


@pytest.mark.parametrize("name", ABSORBED)
def test_a_shift_goes_where_nothing_else_sees_it(name):
    build, count = ABSORBED[name]
    model = model_of(build)
    analysis = analyse(model)
    (point,) = analysis.groups[0].observations
    ((consumer, _),) = point.consumers
    absorbers = absorber_of(analysis.graph, consumer)
    assert (absorbers and len(absorbers)) == count
    assert takes_constants(analysis.graph, point) == (count is not None)


def test_what_is_returned_beside_a_normalization_is_not_shifted():
    """The report says so, and the moving mean is as it was."""
    model = model_of(lambda x: [x, normalized(x)])
    report = ka.shrink(
        model, ka.Removal({"one": [0]}, {"one": ka.Replacement([2.0])})
    )
    assert "'two' has no bias" in report.notes[0]
    mean = ops.convert_to_numpy(model.get_layer("norm").moving_mean)
    np.testing.assert_array_equal(mean, [0, 0])


def test_constants_need_a_consumer_that_takes_them_and_a_place_for_them():
    """The second LSTM convolution has a bias, but pads with zeros."""
    inputs = keras.Input((3, 5, 5, 2))
    x = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(inputs)
    x = layers.ConvLSTM2D(2, 3, padding="same")(x)
    analysis = analyse(keras.Model(inputs, layers.Flatten()(x)))
    (point,) = analysis.groups[0].observations
    absorbers = [
        absorber_of(analysis.graph, consumer) for consumer, _ in point.consumers
    ]
    assert None not in absorbers
    assert not point.shifts
    assert not takes_constants(analysis.graph, point)

"""Constants that stand for units, against sorted values."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.constants import CONSTANTS, constants_of
from keras_apoptosis.statistics.probe import post_points
from keras_apoptosis.statistics.sample_passes import SamplePasses

# Five samples: the first unit sees them as they are, the second not at all.
X = np.array([[7.0], [-3.0], [0.1], [0.1], [1e4]], "float32")


def constants(model, x, constant):
    analysis = analyse(model)
    points = post_points(analysis, 0)
    found = constants_of(analysis, points, x, constant, batch_size=2)
    return found["units"]["units"]


def test_of_five_samples():
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(2, name="units"), layers.Dense(1)]
    )
    weights = np.array([[1.0, 0.0]]), np.array([0.0, 5.0])
    model.get_layer("units").set_weights(weights)
    expected = {
        "mean": 2000.84,
        "median": 0.1,
        "minimum": -3.0,
        "maximum": 1e4,
    }
    assert [*expected] == [*CONSTANTS]
    for constant, value in expected.items():
        # The range is 10,003, and a median is found to 2^-24 of it.
        np.testing.assert_allclose(
            constants(model, X, constant), [value, 5], rtol=1e-6, atol=7e-4
        )
    # Of two in the middle it is the lower one.
    middle = constants(model, X[:4], "median")
    np.testing.assert_allclose(middle, [0.1, 5], atol=1e-5)


def test_positions_of_a_feature_map_count_as_samples():
    model = keras.Sequential(
        [
            keras.Input((3, 2, 1)),
            layers.Conv2D(2, 1, activation="relu", name="units"),
            layers.Conv2D(1, 1),
        ]
    )
    kernel = np.array([1.0, -2.0]).reshape((1, 1, 1, 2))
    model.get_layer("units").set_weights([kernel, np.zeros(2)])
    x = np.random.default_rng(0).normal(1, 1, (5, 3, 2, 1)).astype("float32")
    values = np.sort(np.maximum(x.reshape(-1, 1) * [1.0, -2.0], 0), axis=0)
    # Most values are above zero, so that of the second unit most are zero.
    assert values[14, 0] > 0 == values[14, 1]
    found = constants(model, x, "median")
    np.testing.assert_allclose(found, values[14], atol=1e-6)
    found = constants(model, x, "maximum")
    np.testing.assert_allclose(found, values[-1], rtol=1e-6)


def test_an_unknown_constant():
    with pytest.raises(ValueError, match=r"Received: constant='mode'"):
        constants_of(None, [], X, "mode")


@pytest.mark.parametrize("constant", CONSTANTS)
def test_without_a_point_to_measure_there_is_none(constant):
    """Units deep inside a layer cannot be replaced by what they are there."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    analysis = analyse(model)
    passes = SamplePasses(X)
    assert constants_of(analysis, [], X, constant, passes=passes) == {}

"""Units that do nothing leave without a trace."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

X = np.random.default_rng(0).uniform(size=(50, 6)).astype("float32")


def network(prunable=False, bias=(-9.0, 0.5, -9.0, 0.5, 0.5)):
    """Units 0 and 2 are dead."""
    dense = ka.layers.PrunableDense if prunable else layers.Dense
    model = keras.Sequential(
        [
            keras.Input((6,)),
            dense(5, activation="relu", name="one"),
            dense(3, name="out"),
        ]
    )
    model.get_layer("one").bias.assign(np.array(bias))
    return model


def outputs(model):
    return model.predict(X, verbose=0)


def test_dead_units_leave():
    model = network()
    expected = outputs(model)
    removal = ka.selection.dead_units(model, X)
    assert removal["one"].tolist() == [0, 2]
    ka.shrink(model, removal)
    assert model.get_layer("one").units == 3
    np.testing.assert_allclose(outputs(model), expected, atol=1e-6)


def test_units_without_weights_become_constants():
    """Unit 1 has no weights left, so it always is its bias."""
    model = network(prunable=True)
    mask = np.ones((6, 5))
    mask[:, 1] = 0
    model.get_layer("one").set_mask(mask)
    expected = outputs(model)
    removal = ka.selection.dead_units(model, X)
    assert removal["one"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        removal.replacement("one", "one").constant, [0.0, 0.5, 0.0]
    )
    ka.shrink(model, removal)
    plain = ka.strip_pruning(model)
    assert [type(layer) for layer in plain.layers] == [layers.Dense] * 2
    assert plain.count_params() == 6 * 2 + 2 + 2 * 3 + 3
    np.testing.assert_allclose(outputs(plain), expected, atol=1e-6)


def test_mostly_dead_units_go_with_a_threshold():
    model = network()
    kernel = np.zeros((6, 5), "float32")
    kernel[0] = [1.0, 1.0, 1.0, 1.0, 1.0]
    # Of the 50 inputs only the largest is above: by a tenth.
    model.get_layer("one").set_weights(
        [kernel, np.array([-9.0, 0.5, 0.1 - X[:, 0].max(), 0.5, 0.5])]
    )
    total = np.maximum(X[:, 0] + 0.1 - X[:, 0].max(), 0).sum()
    assert ka.selection.dead_units(model, X)["one"].tolist() == [0]
    for threshold, gone in ((0.99 * total, [0]), (1.01 * total, [0, 2])):
        removal = ka.selection.dead_units(model, X, threshold=threshold)
        assert removal["one"].tolist() == gone
    # What stands in for it is its mean.
    np.testing.assert_allclose(
        removal.replacement("one", "one").constant, [0, total / 50], rtol=1e-5
    )


def test_a_normalization_after_the_relu_is_seen_through():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, name="one"),
            layers.ReLU(),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3),
        ]
    )
    model.get_layer("one").bias.assign(np.array([0.5, -9.0, 0.5, 0.5]))
    rng = np.random.default_rng(0)
    model.get_layer("norm").set_weights(
        [rng.uniform(1, 2, 4), *rng.normal(size=(2, 4)), rng.uniform(1, 2, 4)]
    )
    expected = outputs(model)
    removal = ka.selection.dead_units(model, X)
    assert removal["one"].tolist() == [1]
    ka.shrink(model, removal)
    np.testing.assert_allclose(outputs(model), expected, atol=1e-5)


def test_convolutions():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((6, 1)),
            layers.Conv1D(4, 2, padding="same", activation="relu", name="one"),
            layers.MaxPooling1D(2),
            layers.Conv1D(2, 3, padding="same", name="two"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model.get_layer("one").bias.assign(np.array([0.1, -9.0, 0.1, -9.0]))
    expected = outputs(model)
    removal = ka.selection.dead_units(model, X)
    assert removal["one"].tolist() == [1, 3]
    ka.shrink(model, removal)
    np.testing.assert_allclose(outputs(model), expected, atol=1e-6)


def test_of_a_sum_goes_what_is_dead_in_all_parts():
    x = keras.Input((6,))
    one = layers.Dense(4, activation="relu", name="one")
    two = layers.Dense(4, activation="relu", name="two")
    y = layers.Dense(3)(layers.Add()([one(x), two(x)]))
    model = keras.Model(x, y)
    one.bias.assign(np.array([-9.0, -9.0, 0.5, 0.5]))
    two.bias.assign(np.array([-9.0, 0.5, -9.0, 0.5]))
    assert ka.selection.dead_units(model, X)["one"].tolist() == [0]


def test_a_group_never_goes_empty():
    model = network(bias=[-9.0] * 5)
    expected = outputs(model)
    removal = ka.selection.dead_units(model, X)
    assert removal["one"].tolist() == [1, 2, 3, 4]
    ka.shrink(model, removal)
    np.testing.assert_allclose(outputs(model), expected, atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "leaky_relu"])
def test_other_activations_have_no_dead_units(activation):
    model = network()
    model.get_layer("one").activation = keras.activations.get(activation)
    assert len(ka.selection.dead_units(model, X)) == 0


def test_a_model_without_units_that_may_leave():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    assert len(ka.selection.dead_units(model, X)) == 0
    assert ops.shape(model.layers[0].kernel) == (6, 3)

"""Units that have lost their weights leave (figure 2.11)."""

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")


def network():
    """Unit 0 has no inputs, 1 no outputs, 2 one input of 4, 3 all."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            ka.layers.PrunableDense(
                4,
                activation="relu",
                name="hidden",
                bias_initializer="ones",
            ),
            ka.layers.PrunableDense(4, name="out"),
        ]
    )
    incoming = np.ones((4, 4))
    incoming[:, 0] = 0
    incoming[1:, 2] = 0
    outgoing = np.ones((4, 4))
    outgoing[1] = 0
    model.get_layer("hidden").set_mask(incoming)
    model.get_layer("out").set_mask(outgoing)
    return model


def test_units_without_weights_leave_nothing_behind():
    model = network()
    before = model.predict(X, verbose=0)
    removal = ka.selection.sparse_units(model, data=X)
    assert removal["hidden"].tolist() == [0, 1]
    small = ka.rebuild(model, removal)
    np.testing.assert_allclose(
        small.predict(X, verbose=0), before, rtol=1e-5, atol=1e-6
    )


def test_without_data_the_constant_is_lost():
    """As in the thesis, which had no bias propagation there."""
    model = network()
    before = model.predict(X, verbose=0)
    small = ka.rebuild(model, ka.selection.sparse_units(model))
    assert small.get_layer("hidden").units == 2
    assert abs(small.predict(X, verbose=0) - before).max() > 0.01


def test_the_share_is_of_each_direction():
    model = network()
    for share, expected in ((0.24, [0, 1]), (0.25, [0, 1, 2])):
        removal = ka.selection.sparse_units(model, share=share)
        assert removal["hidden"].tolist() == expected


def test_the_best_unit_stays():
    model = network()
    model.get_layer("hidden").set_mask(np.eye(4) * 0)
    removal = ka.selection.sparse_units(model)
    assert removal["hidden"].size == 3


def test_weights_of_a_plain_layer_count_as_they_are():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="hidden"),
            layers.Dense(1, name="out"),
        ]
    )
    model.get_layer("out").kernel.assign([[1.0], [0.0], [2.0]])
    assert ka.selection.sparse_units(model)["hidden"].tolist() == [1]


def test_units_that_cannot_be_pruned_stay():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            ka.layers.PrunableDense(3, name="hidden"),
            ka.layers.PrunableDense(2, name="logits"),
        ]
    )
    model.layers[1].set_mask(np.zeros((3, 2)))
    assert list(ka.selection.sparse_units(model)) == ["hidden"]

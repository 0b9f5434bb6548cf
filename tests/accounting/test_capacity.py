"""Active parameters, counted by hand (Synaptic stripping, section III-D)."""

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.accounting.capacity import Capacity, capacity
from keras_apoptosis.graph import analyse


def flags(size, *places):
    found = np.zeros(size, bool)
    found[list(places)] = True
    return found


def mlp():
    """3 inputs, 4 and 5 units, 2 outputs: 16 + 25 + 12 = 53 parameters."""
    return keras.Sequential(
        [
            keras.Input((3,)),
            ka.layers.PrunableDense(
                4, activation="relu", name="one", track_statistics=True
            ),
            ka.layers.PrunableDense(
                5, activation="relu", name="two", track_statistics=True
            ),
            layers.Dense(2, name="out"),
        ]
    )


def test_all_are_active():
    found = capacity(analyse(mlp()), {})
    assert found == {
        "one": Capacity(16, 16),
        "two": Capacity(25, 25),
        "out": Capacity(12, 12),
    }
    assert sum(found.values(), Capacity(0, 0)).share == 1.0


def test_dead_units_take_what_is_attached_to_them():
    found = capacity(
        analyse(mlp()), {"one": flags(4, 1), "two": flags(5, 0, 4)}
    )
    # Three of 4 units with 3 weights and a bias each.
    assert found["one"] == Capacity(12, 16)
    # 3 units with a bias and weights from the 3 units that are active: what
    # lies between two dead units counts once.
    assert found["two"] == Capacity(3 * 3 + 3, 25)
    assert found["out"] == Capacity(3 * 2 + 2, 12)
    assert sum(found.values(), Capacity(0, 0)) == Capacity(32, 53)


def test_pruned_weights_count_unless_they_are_attached_already():
    model = mlp()
    mask = np.ones((4, 5), bool)
    mask[0, :2] = False  # The second of them feeds an active unit.
    mask[1, 3] = False  # From a dead unit.
    model.get_layer("two").set_mask(mask)
    found = capacity(
        analyse(model), {"one": flags(4, 1), "two": flags(5, 0, 4)}
    )
    assert found["two"] == Capacity(3 * 3 + 3 - 1, 25)
    # With no unit dead all three are missing.
    assert capacity(analyse(model), {})["two"] == Capacity(22, 25)


def test_it_is_the_size_of_what_remains_after_shrinking():
    model = mlp()
    dead = {"one": flags(4, 1), "two": flags(5, 0, 4)}
    found = sum(capacity(analyse(model), dead).values(), Capacity(0, 0))
    plain = ka.strip_pruning(model)
    assert found.total == plain.count_params()
    ka.shrink(plain, ka.Removal({"one": [1], "two": [0, 4]}))
    assert found.active == plain.count_params()


def test_a_sum_of_units_is_read_while_one_of_them_is_active():
    x = keras.Input((3,))
    one = layers.Dense(4, activation="relu", name="one")(x)
    two = layers.Dense(4, activation="relu", name="two")(x)
    y = layers.Dense(2, name="out")(layers.Add()([one, two]))
    analysis = analyse(keras.Model(x, y))
    found = capacity(analysis, {"one": flags(4, 0, 1), "two": flags(4, 1)})
    assert found["one"] == Capacity(2 * 4, 16)
    assert found["two"] == Capacity(3 * 4, 16)
    assert found["out"] == Capacity(3 * 2 + 2, 10)


def test_what_passes_through_is_attached_too():
    """A normalization has 4 numbers a unit; a feature map 4 positions."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 3, activation="relu", name="one"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(2, name="out"),
        ]
    )
    found = capacity(analyse(model), {"one": flags(3, 2)})
    assert found == {
        "one": Capacity(20, 30),
        "norm": Capacity(8, 12),
        "out": Capacity(2 * 4 * 2 + 2, 3 * 4 * 2 + 2),
    }


def test_no_parameters_at_all():
    assert Capacity(0, 0).share == 1.0

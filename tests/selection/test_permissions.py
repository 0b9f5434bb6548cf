"""What removals may do is said to those that choose units, too."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka

X = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
SELECTIONS = {
    "dead": ka.selection.dead_units,
    "inactive": ka.selection.inactive_units,
    "sparse": ka.selection.sparse_units,
}


def with_a_dead_unit(normalized, first):
    """Unit 1 has no weights, and its ReLU sees -1."""
    middle = [keras.layers.ReLU(), keras.layers.LayerNormalization(name="norm")]
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="hidden"),
            *(middle[:: -1 if first else 1] if normalized else middle[:1]),
            keras.layers.Dense(2, name="out"),
        ]
    )
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 1], bias[1] = 0, -1
    model.get_layer("hidden").set_weights([kernel, bias])
    if normalized:
        model.get_layer("norm").gamma.assign([1.0, 0.0, 1.0, 1.0])
        model.get_layer("norm").beta.assign([0.0, -1.0, 0.0, 0.0])
    model.get_layer("out").trainable = normalized
    return model


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("normalized", [False, True])
def test_what_is_allowed_is_chosen(name, normalized):
    # A unit is not at rest where others are normalized with it.
    model = with_a_dead_unit(normalized, first=name == "inactive")
    assert not SELECTIONS[name](model, X)
    permission = {
        "prune_normalized" if normalized else "prune_non_trainable": True
    }
    removal = SELECTIONS[name](model, X, **permission)
    assert removal["hidden"].tolist() == [1]
    ka.shrink(model, removal, **permission)
    assert model.get_layer("hidden").units == 3

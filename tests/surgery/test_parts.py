"""Initializers, regularizers, constraints and functions of resized layers."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

rng = np.random.default_rng(0)
EMBEDDINGS = rng.normal(size=(20, 8)).astype("float32")


class Reg(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 1e-3 * ops.sum(ops.square(x))

    def get_config(self):
        return {}


class PerUnit(Reg):
    """Weighs each unit by a number of its own."""

    def __init__(self, rates):
        self.rates = rates

    def __call__(self, x):
        return ops.sum(ops.convert_to_tensor(self.rates, x.dtype) * x)


class Init(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return ops.full(shape, 0.1, dtype or "float32")

    def get_config(self):
        return {}


class Con(keras.constraints.Constraint):
    def __call__(self, w):
        return w

    def get_config(self):
        return {}


def double_relu(x):
    return 2 * ops.relu(x)


UNREGISTERED = {
    "activity_regularizer": Reg(),
    "kernel_regularizer": Reg(),
    "kernel_initializer": Init(),
    "kernel_constraint": Con(),
    "activation": double_relu,
    "bias_initializer": lambda shape, dtype=None: ops.zeros(shape, dtype),
}


@pytest.mark.filterwarnings("ignore:The object being serialized")
@pytest.mark.parametrize("name", [*UNREGISTERED, "lambda"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_not_registered(name, wrapped):
    if name == "lambda":
        arguments = {"activation": lambda x: 2 * ops.relu(x)}
        if wrapped:
            pytest.skip("Keras reads no lambda inside of another layer")
    else:
        arguments = {name: UNREGISTERED[name]}
    if wrapped and name == "bias_initializer":
        pytest.skip("Keras reads no lambda inside of another layer")
    layer = layers.Dense(6, name="two", **arguments)
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Dense(8, activation="relu", name="one"),
            layers.TimeDistributed(layer, name="outer") if wrapped else layer,
            layers.Dense(2),
        ]
    )
    x = rng.normal(size=(3, 5, 4)).astype("float32")
    kernel = ops.convert_to_numpy(layer.kernel)
    hidden = ops.convert_to_numpy(model.layers[0](x))[..., 1:]
    ka.shrink(model, ka.Removal({"one": [0]}))
    cut = ops.convert_to_numpy(layer.kernel)
    np.testing.assert_array_equal(cut, kernel[1:])
    expected = layer.activation(hidden @ kernel[1:])
    found = layer(hidden)
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), ops.convert_to_numpy(expected), atol=1e-5
    )


def embedding(array):
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(
                20,
                8,
                embeddings_initializer=keras.initializers.Constant(array),
                name="emb",
            ),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    "array", [EMBEDDINGS, EMBEDDINGS.tolist(), EMBEDDINGS[0], 0.5]
)
def test_arrays_in_the_config_are_cut_with_the_units(array, tmp_path):
    model = embedding(array)
    initializer = model.get_layer("emb").embeddings_initializer
    whole = np.array(initializer.value)
    removal = ka.Removal({"emb": [1, 5]})
    rebuilt = ka.rebuild(model, removal)
    ka.shrink(model, removal)
    # It may belong to other layers, too.
    np.testing.assert_array_equal(np.array(initializer.value), whole)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = rng.integers(0, 20, size=(3, 5))
    for each in (loaded, rebuilt):
        np.testing.assert_allclose(
            ops.convert_to_numpy(each(x)), ops.convert_to_numpy(model(x))
        )
    clone = keras.models.clone_model(model)
    kept = [0, 2, 3, 4, 6, 7]
    expected = np.broadcast_to(np.array(array), (20, 8))[:, kept]
    np.testing.assert_allclose(
        ops.convert_to_numpy(clone.get_layer("emb").embeddings), expected
    )


def test_regularizers_of_units_are_cut_with_them():
    rates = rng.normal(size=8).astype("float32")
    layer = layers.Dense(8, name="one", kernel_regularizer=PerUnit(rates))
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
    kernel = ops.convert_to_numpy(layer.kernel)
    ka.shrink(model, ka.Removal({"one": [0, 3]}))
    kept = [1, 2, 4, 5, 6, 7]
    (loss,) = model.losses
    expected = (rates[kept] * kernel[:, kept]).sum()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)


def test_a_config_that_does_not_rebuild_its_layer():
    """Nothing changes where a layer would be saved as another one."""

    class Forgetful(layers.Dense):
        def get_config(self):
            return {**super().get_config(), "use_bias": False}

    ka.register_rule(Forgetful, ka.rules.RULES[layers.Dense])
    try:
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(8, name="one"),
                Forgetful(3, name="two"),
            ]
        )
        before = model.get_weights()
        with pytest.raises(ValueError, match="its config does not rebuild it"):
            ka.shrink(model, ka.Removal({"one": [0]}))
        for one, other in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
    finally:
        del ka.rules.RULES[Forgetful]


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "SimpleRNN"])
def test_states_of_stateful_layers_are_cut(kind):
    layer = getattr(layers, kind)(6, stateful=True, name="g")
    model = keras.Sequential(
        [keras.Input(batch_shape=(4, 5, 3)), layer, layers.Dense(2)]
    )
    x = rng.normal(size=(4, 5, 3)).astype("float32")
    model(x)
    before = [ops.convert_to_numpy(state) for state in layer.states]
    assert np.abs(before[0]).max() > 0
    ka.shrink(model, ka.Removal({"g": [0, 5]}))
    for state, old in zip(layer.states, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(state), old[:, 1:5])
    if keras.backend.backend() != "torch":  # Keras 3.15 cannot train it there.
        model.compile("adam", "mse")
        model.fit(x, np.zeros((4, 2)), batch_size=4, verbose=0)

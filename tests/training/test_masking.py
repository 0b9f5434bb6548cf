"""What is masked stays exactly zero: in training, on disk, in an export."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis.training import masking
from tests.cases import RUN_EAGERLY

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")
HALF = RNG.uniform(size=(6, 8)) < 0.5

optimizers = keras.optimizers
OPTIMIZERS = {each.__name__: each for each in masking.ENTRYWISE}


class Mixing(optimizers.SGD):
    """Moves every weight by the mean gradient, as Muon mixes entries."""

    def update_step(self, gradient, variable, learning_rate):
        mean = ops.mean(gradient) + 0 * gradient
        super().update_step(mean, variable, learning_rate)


EXTRAS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "average": {"use_ema": True, "ema_overwrite_frequency": 2},
    "clipped": {"global_clipnorm": 0.1},
    "gathered": {"gradient_accumulation_steps": 2},
}


def make_model(optimizer, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            ka.layers.PrunableDense(
                8, activation="tanh", name="hidden", kernel_regularizer="l1l2"
            ),
            ka.layers.PrunableDense(3, name="out"),
        ]
    )
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, epochs=1):
    model.fit(X, Y, epochs=epochs, batch_size=12, verbose=0)


def kernel(model):
    return ops.convert_to_numpy(model.get_layer("hidden").trainable_weights[0])


def trained_under_a_mask(optimizer, **options):
    model = make_model(optimizer, **options)
    fit(model)  # So that there is momentum to clear.
    masking.mask_weights(model, {model.get_layer("hidden"): HALF})
    fit(model)
    return model


@pytest.mark.parametrize("name", [*OPTIMIZERS, "Muon", "Mixing"])
def test_zero_under_every_optimizer(name):
    make = {**OPTIMIZERS, "Mixing": Mixing, "Muon": optimizers.Muon}[name]
    model = trained_under_a_mask(
        make(learning_rate=0.01), run_eagerly=RUN_EAGERLY
    )
    assert not kernel(model)[~HALF].any()
    assert kernel(model)[HALF].all()


@pytest.mark.parametrize(
    ("make", "extra"),
    [
        (make, extra)
        for make in (optimizers.SGD, optimizers.AdamW, Mixing)
        for extra in EXTRAS
        if (make, extra) != (Mixing, "average")  # It may hold a trace.
    ],
)
def test_zero_under_every_option(make, extra):
    if keras.backend.backend() == "jax" and extra == "average":
        pytest.skip("Keras on JAX cannot fit twice with an average of weights")
    momentum = {} if make is optimizers.AdamW else {"momentum": 0.9}
    optimizer = make(0.01, **momentum, **EXTRAS[extra])
    model = trained_under_a_mask(optimizer, run_eagerly=RUN_EAGERLY)
    assert not kernel(model)[~HALF].any()
    assert kernel(model)[HALF].all()


@pytest.mark.parametrize("make", [optimizers.AdamW, Mixing])
def test_zero_after_loading_and_more_training(make, tmp_path):
    keras.saving.register_keras_serializable("tests")(Mixing)
    model = trained_under_a_mask(make(0.01))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(kernel(loaded), kernel(model))
    # Another mask is set, so a loaded model's optimizer is held as well.
    less = HALF & (RNG.uniform(size=HALF.shape) < 0.8)
    masking.mask_weights(loaded, {loaded.get_layer("hidden"): less})
    fit(loaded)
    assert not kernel(loaded)[~less].any()
    assert kernel(loaded)[less].all()


def test_a_mask_may_grow_while_zeros_are_held():
    model = trained_under_a_mask(Mixing(0.01))
    rest = {
        model.get_layer("hidden"): HALF & False,
        model.get_layer("out"): np.arange(24).reshape(8, 3) % 2 == 0,
    }
    masking.mask_weights(model, rest)
    fit(model)
    assert not kernel(model).any()
    out = ops.convert_to_numpy(model.get_layer("out").trainable_weights[0])
    np.testing.assert_array_equal(out != 0, rest[model.get_layer("out")])


def test_zeros_are_held_while_units_leave():
    model = trained_under_a_mask(Mixing(0.01))
    ka.shrink(model, ka.Removal({"hidden": [0, 3]}))
    fit(model)
    kept = np.delete(HALF, [0, 3], axis=1)
    np.testing.assert_array_equal(kernel(model) != 0, kept)


def test_zero_in_plain_layers():
    model = trained_under_a_mask(optimizers.AdamW(0.01))
    stripped = ka.strip_pruning(model)
    assert type(stripped.get_layer("hidden")) is keras.layers.Dense
    assert not kernel(stripped)[~HALF].any()


@pytest.mark.parametrize("make", [optimizers.Adam, Mixing])
def test_other_models_that_share_the_layer_hold_the_mask(make):
    model = make_model(make(learning_rate=0.01))
    extractor = keras.Model(model.inputs, model.get_layer("hidden").output)
    inputs = keras.Input((6,))
    around = keras.Model(inputs, 2 * model(inputs))
    around.compile(make(learning_rate=0.01), "mse")
    for each in (extractor, around):
        each.predict(X, verbose=0)
    fit(around)
    masking.mask_weights(model, {model.get_layer("hidden"): HALF})
    assert not kernel(model)[~HALF].any()
    for each in (extractor, around):
        found = each.predict(X, verbose=0)
        expected = ops.convert_to_numpy(each(X))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for each in (around, model, around):
        fit(each)
        assert not kernel(model)[~HALF].any()
        assert kernel(model)[HALF].all()

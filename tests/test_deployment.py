"""Small models leave Keras: what is exported computes what they compute."""

import json

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from tests.exported import FORMATS, export, load, obstacle

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 6, 6, 3)).astype("float32")


def large() -> keras.Model:
    """A model that has all layers of ours, with statistics and a mask."""
    layers = [
        keras.Input(X.shape[1:]),
        ka.layers.FeatureSelection(name="features"),
        ka.layers.PrunableConv2D(
            6, 3, strides=2, track_statistics=True, name="conv"
        ),
        keras.layers.BatchNormalization(),
        ka.layers.PrunableActivation("relu", track_statistics=True),
        keras.layers.Flatten(),
        ka.layers.PrunableDense(8, "relu", masked=True, name="hidden"),
        ka.layers.PrunableDense(3, track_statistics=True),
    ]
    model = keras.Sequential(layers)
    layers[3].set_weights(RNG.uniform(0.5, 1, (4, 6)))
    layers[6].set_mask(RNG.uniform(size=(24, 8)) < 0.7)
    return model


def shrink(model: keras.Model) -> keras.Model:
    removal = {"features": [1], "conv": [0, 4], "hidden": [2]}
    ka.shrink(model, ka.Removal(removal))
    return model


def outputs(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(X, training=False))


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_computes_the_same(form, tmp_path):
    if reason := obstacle(form):
        pytest.skip(reason)
    model = large()
    before = outputs(model)  # Keras wants a model to have been called once.
    model.predict(X, verbose=0)  # Compiled for the large variables.
    serve = load(form, export(shrink(model), form, tmp_path, len(X)))
    expected = outputs(model)  # The export left the model as it was.
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_allclose(
        np.asarray(serve(X)), expected, rtol=1e-4, atol=1e-5
    )


def test_files_of_stripped_models_load_without_this_package(tmp_path):
    model = shrink(large())
    around = keras.Sequential([keras.Input(X.shape[1:]), model])
    for each in (model, around):
        plain = ka.strip_pruning(each)
        plain.save(tmp_path / "model.keras")
        assert "keras_apoptosis" not in json.dumps(plain.get_config())
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(outputs(loaded), outputs(model), rtol=1e-5)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore:.*does not have a `quantize`:UserWarning")
def test_quantizing_a_small_model_is_quantizing_a_new_one(mode, tmp_path):
    small = shrink(large())
    plain = ka.strip_pruning(small)
    new = keras.models.clone_model(plain)
    new.set_weights(plain.get_weights())
    for each in (small, new):
        each.quantize(mode)
    assert not np.array_equal(outputs(new), outputs(plain))
    np.testing.assert_array_equal(outputs(small), outputs(new))
    small.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded), outputs(new))


def test_a_mask_does_not_go_with_float8():
    hidden = large().get_layer("hidden")
    with pytest.raises(ValueError, match=r"mask.*Received: mode=float8"):
        hidden.quantize("float8")
    assert hidden.masked

"""Prunable layers are the Keras layers they extend, in every respect."""

import inspect

import keras
import numpy as np
import pytest

from keras_apoptosis import layers
from keras_apoptosis.surgery.conversion import PLAIN

OURS = {
    "track_statistics": True,
    "activity_tolerance": 0.25,
    "masked": True,
}
# Every argument, with a value that is not its default. LoRA does not go with a
# constraint, but only once the layer is built.
BASE = {"name": "given", "trainable": False, "dtype": "mixed_bfloat16"}
KERNEL = {
    "activation": "gelu",
    "use_bias": False,
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": keras.regularizers.L2(0.1),
    "bias_regularizer": keras.regularizers.L1(0.2),
    "activity_regularizer": keras.regularizers.L2(0.3),
    "kernel_constraint": keras.constraints.MaxNorm(2),
    "bias_constraint": keras.constraints.NonNeg(),
    "lora_rank": 2,
    "lora_alpha": 5,
}
CONV = {
    "filters": 6,
    "kernel_size": 3,
    "strides": 2,
    "padding": "same",
    "data_format": "channels_first",
    "dilation_rate": 1,  # Keras allows no other beside strides.
    "groups": 2,
    **KERNEL,
}
ALL_ARGUMENTS = {
    layers.PrunableDense: {
        "units": 6,
        "quantization_config": keras.quantizers.Int8QuantizationConfig(),
        **KERNEL,
    },
    layers.PrunableConv1D: CONV,
    layers.PrunableConv2D: CONV,
    layers.PrunableConv3D: CONV,
    layers.PrunableActivation: {"activation": "gelu"},
}
ADDED = {
    kind: {k: v for k, v in OURS.items() if k != "masked"} | {"axis": 1}
    if kind is layers.PrunableActivation
    else OURS
    for kind in ALL_ARGUMENTS
}
KINDS = pytest.mark.parametrize(
    "kind", ALL_ARGUMENTS, ids=lambda kind: kind.__name__
)
# Positional arguments and the shape of one input, for layers that are called.
CALLS = {
    layers.PrunableDense: ((3,), (4,)),
    layers.PrunableConv1D: ((3, 2), (5, 4)),
    layers.PrunableConv2D: ((3, 2), (5, 5, 2)),
    layers.PrunableConv3D: ((3, 2), (3, 3, 3, 2)),
    layers.PrunableActivation: (("relu",), (4,)),
}


@KINDS
def test_every_argument_is_tried_here(kind):
    """A new argument in a later Keras fails this test; add it above."""
    names = set(inspect.signature(PLAIN[kind]).parameters) - {"kwargs"}
    hidden = {"lora_rank", "lora_alpha"}  # In `**kwargs` of convolutions.
    assert names | hidden == set(ALL_ARGUMENTS[kind]) | hidden


@KINDS
def test_config_round_trip_of_every_argument(kind):
    arguments = {**ALL_ARGUMENTS[kind], **BASE}
    config = kind(**arguments, **ADDED[kind]).get_config()
    assert kind.from_config(config).get_config() == config
    # The plain layer's config with ours added.
    plain = PLAIN[kind](**arguments).get_config()
    for name, value in {**plain, **ADDED[kind]}.items():
        assert config[name] == value
    assert config.keys() == plain.keys() | ADDED[kind].keys()


@pytest.mark.parametrize("padding", ["causal", "valid"])
def test_config_round_trip_of_dilation_and_causal_padding(padding):
    config = layers.PrunableConv1D(
        2, 3, dilation_rate=2, padding=padding
    ).get_config()
    assert config["dilation_rate"] == (2,)
    assert layers.PrunableConv1D.from_config(config).get_config() == config


@KINDS
def test_serialization_finds_the_class(kind):
    layer = kind(**ALL_ARGUMENTS[kind], **BASE, **ADDED[kind])
    saved = keras.saving.serialize_keras_object(layer)
    assert saved["registered_name"] == f"keras_apoptosis>{kind.__name__}"
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is kind
    assert again.get_config() == layer.get_config()


@KINDS
def test_the_plain_layers_outputs(kind):
    args, shape = CALLS[kind]
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer, plain = kind(*args), PLAIN[kind](*args)
    layer.build((None, *shape))
    plain.build((None, *shape))
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer(x)),
        keras.ops.convert_to_numpy(plain(x)),
    )
    for name in ("input_spec", "supports_masking", "compute_dtype"):
        assert repr(getattr(layer, name)) == repr(getattr(plain, name))
    symbolic = keras.Input(shape)
    assert layer(symbolic).shape == plain(symbolic).shape
    assert layer(symbolic).dtype == plain(symbolic).dtype


@KINDS
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "bfloat16"])
def test_saved_and_loaded(kind, policy, tmp_path):
    args, shape = CALLS[kind]
    options = {k: v for k, v in ADDED[kind].items() if k != "axis"}
    layer = kind(*args, dtype=policy, **options)
    model = keras.Sequential([keras.Input(shape), layer])
    if hasattr(layer, "set_mask"):
        layer.set_mask(np.arange(layer._kernel.shape[-1]) % 2 * mask_of(layer))
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    assert [v.name for v in loaded.variables] == [
        v.name for v in model.variables
    ]
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), y)
    model.save_weights(tmp_path / "of.weights.h5")
    again = keras.Sequential.from_config(model.get_config())
    again.load_weights(tmp_path / "of.weights.h5")
    np.testing.assert_array_equal(again.predict(x, verbose=0), y)


def mask_of(layer):
    return np.ones(layer._kernel.shape)


def test_keras_masks_pass_through():
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 3, mask_zero=True)(inputs)
    x = layers.PrunableDense(2)(x)
    x = layers.PrunableActivation("relu")(x)
    assert x._keras_mask is not None


@pytest.mark.parametrize("masked", [False, True])
def test_lora(masked, tmp_path):
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    layer = layers.PrunableDense(
        3, lora_rank=2, lora_alpha=4, masked=masked, track_statistics=True
    )
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    model.fit(x, np.ones((8, 3)), verbose=0)
    assert [v.name for v in model.trainable_variables] == [
        "bias",
        "lora_kernel_a",
        "lora_kernel_b",
    ]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6
    )

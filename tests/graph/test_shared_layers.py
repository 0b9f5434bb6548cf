"""Layers that are called more than once."""

import keras
import pytest
from keras import layers

import keras_apoptosis as ka
from tests.architectures import randomize
from tests.surgery.test_shrink import check_equal_to_masking, removal_of

VECTOR, STEPS, IMAGE = (4,), (5, 4), (5, 5, 4)


def on_itself(layer):
    return lambda x: layer(x, x)


LAYERS = {
    "dense": (VECTOR, lambda: layers.Dense(3)),
    "dense as wide": (VECTOR, lambda: layers.Dense(4, "relu")),
    "conv 1d": (STEPS, lambda: layers.Conv1D(3, 2)),
    "conv 2d": (IMAGE, lambda: layers.Conv2D(3, 2)),
    "transposed": (IMAGE, lambda: layers.Conv2DTranspose(3, 2)),
    "separable": (IMAGE, lambda: layers.SeparableConv2D(3, 2)),
    "depthwise": (IMAGE, lambda: layers.DepthwiseConv2D(2)),
    "einsum": (STEPS, lambda: layers.EinsumDense("abc,cd->abd", (5, 3))),
    "lstm": (STEPS, lambda: layers.LSTM(3)),
    "gru": (STEPS, lambda: layers.GRU(3)),
    "both ways": (STEPS, lambda: layers.Bidirectional(layers.LSTM(3))),
    "each step": (STEPS, lambda: layers.TimeDistributed(layers.Dense(3))),
    "attention": (STEPS, lambda: on_itself(layers.MultiHeadAttention(2, 2))),
    "batch normalization": (VECTOR, layers.BatchNormalization),
    "rms normalization": (VECTOR, layers.RMSNormalization),
    "prelu": (VECTOR, layers.PReLU),
    "rescaling": (VECTOR, lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0])),
    "reshape": (VECTOR, lambda: layers.Reshape((1, 4))),
    "noise": (STEPS, lambda: layers.Dropout(0.5, noise_shape=(None, 1, 4))),
    "spectral": (VECTOR, lambda: layers.SpectralNormalization(layers.Dense(3))),
    "prunable": (VECTOR, lambda: ka.layers.PrunableDense(3)),
    "prunable activation": (
        VECTOR,
        lambda: ka.layers.PrunableActivation("relu", track_statistics=True),
    ),
    "nested": (
        VECTOR,
        lambda: keras.Sequential([keras.Input(VECTOR), layers.Dense(3)]),
    ),
    "groups": (IMAGE, lambda: layers.Conv2D(4, 2, groups=2)),
    "each channel": (IMAGE, lambda: layers.Conv2D(4, 2, groups=4)),
}


def model_of(name, before_both):
    shape, make = LAYERS[name]
    inputs = keras.Input(shape), keras.Input(shape)
    shared = make()
    one = shared(layers.Dense(4, name="pre")(inputs[0]))
    two = inputs[1]
    if before_both:
        two = layers.Dense(4, name="other")(two)
    parts = [layers.Flatten()(one), layers.Flatten()(shared(two))]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(parts)))


@pytest.mark.parametrize("name", LAYERS)
def test_units_are_kept_where_another_call_has_none(name):
    groups = {g.name: g for g in ka.unit_groups(model_of(name, False))}
    assert not groups["pre"].removable
    assert (
        "is also called on a tensor without prunable units"
        in groups["pre"].reason
    )


@pytest.mark.parametrize("name", LAYERS)
def test_units_of_two_calls_are_removed_together(name):
    model = randomize(model_of(name, True), seed=0)
    groups = {g.name: g for g in ka.unit_groups(model)}
    (together,) = {"pre", "other"} & groups.keys()
    assert groups[together].removable
    removal = removal_of(model, seed=1, share=0.5, replace="nothing")
    assert together in removal
    check_equal_to_masking(model, removal)


def test_a_layer_on_its_own_outputs_and_on_an_input():
    inputs = keras.Input((4,))
    layer = layers.Dense(4, "relu", name="twice")
    model = keras.Model(inputs, layers.Dense(2)(layer(layer(inputs))))
    assert not ka.unit_groups(model)[0].removable


def test_without_weights_or_sizes_a_call_holds_nothing():
    one, two = keras.Input((4,)), keras.Input((4,))
    shared = layers.ReLU()
    x = shared(layers.Dense(3, name="one")(one))
    x = layers.Concatenate()([x, shared(two)])
    model = keras.Model([one, two], layers.Dense(2)(x))
    assert ka.unit_groups(model)[0].removable

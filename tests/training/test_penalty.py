"""A scheduled penalty equals one in the loss, on every optimizer."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_apoptosis.backend import step_hooks
from keras_apoptosis.schedules import Constant, OneCycle
from keras_apoptosis.training.penalty import Regularization, scales_of
from tests.cases import combinations

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
}


def make_model(optimizer, regularizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6),
            layers.BatchNormalization(gamma_regularizer=regularizer),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "mse")
    return model


def fit(model, epochs=2):
    model.fit(
        X, X[:, :1], batch_size=16, epochs=epochs, shuffle=False, verbose=0
    )


def penalize(model, strength, penalty="l1"):
    scales = scales_of(model)
    hook = Regularization(strength, penalty, scales)
    step_hooks.attach(model, hook)
    return hook


@pytest.mark.parametrize(
    ("optimizer", "penalty"), combinations(OPTIMIZERS, ["l1", "l2"])
)
def test_it_equals_a_penalty_in_the_loss(optimizer, penalty):
    """So adaptive optimizers scale it; nothing is decoupled."""
    kind = {"l1": keras.regularizers.L1, "l2": keras.regularizers.L2}[penalty]
    other = make_model(optimizer, kind(0.05))
    model = make_model(optimizer)
    penalize(model, Constant(0.05), penalty)
    fit(other)
    fit(model)
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(mine),
            ops.convert_to_numpy(theirs),
            rtol=2e-3,
            atol=1e-4,
        )


def test_it_follows_the_schedule():
    """Gradients of 0: SGD subtracts rate * Σλ of every step from a scale."""
    model = make_model("sgd")
    model.compile(keras.optimizers.SGD(0.5), "mse")
    hook = penalize(model, OneCycle(0.1, warmup=0.5))
    hook.tell_time(0.25, 0.125)
    zeros = [ops.zeros(w.shape) for w in model.trainable_variables]
    for _ in range(4):
        model.optimizer.apply(zeros)
    # At 0.25, 0.375, 0.5 and 0.625 of the training: up, up, peak, and down
    # to (1 + cos 45°) / 2.
    total = 0.05 + 0.075 + 0.1 + 0.1 * (2 + np.sqrt(2)) / 4
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.layers[1].gamma), 1 - 0.5 * total, rtol=1e-5
    )


def test_the_scales_of_every_normalization():
    inputs = keras.Input((4, 4, 4))
    x = layers.BatchNormalization(name="batch")(inputs)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.LayerNormalization(name="layer")(x)
    x = layers.GroupNormalization(2, name="group")(x)
    frozen = layers.BatchNormalization(trainable=False)
    model = keras.Model(inputs, layers.RMSNormalization(name="rms")(frozen(x)))
    found = [each.path for each in scales_of(model)]
    assert found == [
        "batch/gamma",
        "layer/gamma",
        "group/gamma",
        "rms/scale",
    ]

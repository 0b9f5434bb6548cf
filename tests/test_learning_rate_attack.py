"""An attack moves the weights of one unit further, at chosen steps only."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from examples.experiments.learning_rate_attack import LearningRateAttack

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6, 6, 2)).astype("float32")
Y = RNG.normal(size=(32, 1)).astype("float32")

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


def network(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(1, name="out"),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "mse")
    return model


class Tape(keras.callbacks.Callback):
    """The kernel and bias of the convolution, before and after each step."""

    def on_train_begin(self, logs=None):
        self.kernels, self.biases = [], []
        self.on_train_batch_end(0)

    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.get_layer("conv")
        self.kernels.append(np.array(ops.convert_to_numpy(layer.kernel)))
        self.biases.append(np.array(ops.convert_to_numpy(layer.bias)))


def moves(optimizer, **attack):
    """How far kernel and bias moved in each of 8 steps."""
    model, tape = network(optimizer), Tape()
    callbacks = [tape]
    if attack:
        callbacks.insert(0, LearningRateAttack("conv", 1, **attack))
    model.fit(X, Y, 4, epochs=1, shuffle=False, verbose=0, callbacks=callbacks)
    assert "apply" not in model.optimizer.__dict__
    return np.diff(tape.kernels, axis=0), np.diff(tape.biases, axis=0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_attacked_step_goes_further(optimizer):
    plain, plain_bias = moves(optimizer)
    kernel, bias = moves(
        optimizer, multiplier=5.0, start=3, repeats=1, interval=1
    )
    # Until then the trainings are the same, so the step would be, too. They
    # are two programs, and a compiler may round each in its own way.
    np.testing.assert_allclose(kernel[:3], plain[:3], rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        kernel[3, ..., 1], 5 * plain[3, ..., 1], rtol=1e-3, atol=1e-6
    )
    others = [0, 2, 3]
    np.testing.assert_allclose(
        kernel[3][..., others], plain[3][..., others], atol=1e-7
    )
    np.testing.assert_allclose(bias[3], plain_bias[3], atol=1e-7)


def test_when_it_attacks():
    """A multiplier of zero shows itself: the unit stands still."""
    kernel, _ = moves("adam", multiplier=0.0, start=1, repeats=3, interval=2)
    still = abs(kernel[..., 1]).max((1, 2, 3)) < 1e-6
    assert still.tolist() == [i in (1, 3, 5) for i in range(8)]


def test_a_multiplier_of_one_changes_nothing():
    plain, _ = moves("adam")
    same, _ = moves("adam", multiplier=1.0, start=0)
    np.testing.assert_array_equal(same, plain)


def test_units_that_leave_under_attack_end_it():
    model = network("sgd")
    pruning = ka.callbacks.SaliencyPruning(
        "l1_norm", schedule=ka.schedules.AtEpochs({1: 0.5}), data=X
    )
    attack = LearningRateAttack("conv", 1)
    with pytest.raises(ValueError, match="Units left group 'conv'"):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[attack, pruning])


@pytest.mark.parametrize(
    ("group", "units", "message"),
    [
        ("three", 0, "Expected the name of a unit group: .* group='three'"),
        ("conv", 99, r"has . units. Received: units=\[99\]"),
    ],
)
def test_an_attack_on_nothing(group, units, message):
    attack = LearningRateAttack(group, units)
    with pytest.raises(ValueError, match=message):
        network("sgd").fit(X, Y, verbose=0, callbacks=[attack])


def test_an_attack_every_0_steps():
    with pytest.raises(ValueError, match="Received: interval=0"):
        LearningRateAttack("conv", 0, interval=0)

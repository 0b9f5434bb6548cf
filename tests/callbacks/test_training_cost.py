"""What a training costs while its model shrinks."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.serialization import from_json, to_json


class Shrinking(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            ka.shrink(self.model, ka.Removal({"hidden": range(6)}))


def test_flops_are_counted_at_the_size_that_the_model_had():
    """4 × 8 + 8 × 2 weights, then 4 × 2 + 2 × 2: 96 and 24 operations."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(2),
        ]
    )
    model.compile("adam", "mse")
    x = np.zeros((64, 4), "float32")
    cost = ka.callbacks.TrainingCost(batch_size=8)
    history = model.fit(
        x, x[:, :2], batch_size=8, verbose=0, callbacks=[Shrinking(), cost]
    ).history
    # Three of eight steps were whole; a step is three passes.
    assert cost.flops == 3 * 8 * (3 * 96 + 5 * 24)
    assert cost.whole_flops == 3 * 8 * 8 * 96
    assert history["training_flops"] == [(3 * 96 + 5 * 24) / (8 * 96)]
    assert history["neuron_sparsity"] == [0.75]
    assert history["weight_sparsity"] == [1 - 16 / 58]
    assert history["flop_sparsity"] == [0.75]
    assert cost.seconds > 0
    # Resumed, it goes on: a second epoch at the size that is left.
    resumed = ka.callbacks.TrainingCost(batch_size=8)
    resumed.set_state(from_json(to_json(cost.get_state())))
    model.fit(x, x[:, :2], batch_size=8, verbose=0, callbacks=[resumed])
    assert resumed.flops == 3 * 8 * (3 * 96 + 13 * 24)
    assert resumed.whole_flops == 3 * 8 * 16 * 96
    assert resumed.seconds > cost.seconds


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="PyTorch runs single steps"
)
def test_several_steps_an_execution():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.compile("adam", "mse", steps_per_execution=4)
    x = np.zeros((64, 4), "float32")
    cost = ka.callbacks.TrainingCost(batch_size=8)
    model.fit(x, x[:, :2], batch_size=8, epochs=2, verbose=0, callbacks=[cost])
    assert cost.flops == 3 * 2 * 64 * 16


@pytest.mark.parametrize(
    ("shape", "forward"),
    # Four gates of 4 units from 3 inputs and themselves.
    [((5, 3), 2 * 5 * 4 * 4 * 7), (None, 2 * 4 * 4 * 7)],
)
def test_flops_of_any_length(shape, forward):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    model.compile("sgd", "mse")
    cost = ka.callbacks.TrainingCost(8, input_shape=shape)
    x = np.zeros((16, 5, 3), "float32")
    model.fit(x, x[:, 0, :1], batch_size=8, verbose=0, callbacks=[cost])
    assert cost.flops == 3 * 16 * forward

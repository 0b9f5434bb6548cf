"""Targets: shares or absolute numbers, checked, and serialized by Keras."""

import copy
import pickle

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.targets import as_targets

TARGETS = [
    ka.targets.Parameters(0.5),
    ka.targets.Flops(1e6, input_shape=[(128,), (32, 32, 3)]),
    ka.targets.Units(20),
    ka.targets.Bytes(0.25, of="training"),
    ka.targets.Latency("5 ms", batch_size=8),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda each: each.name)
def test_copies_pickles_and_serializes(target):
    config = keras.saving.serialize_keras_object(target)
    loaded = keras.saving.deserialize_keras_object(config)
    for other in (loaded, copy.deepcopy(target), target.__reduce__ and target):
        assert other == target
    assert pickle.loads(pickle.dumps(target)) == target
    assert hash(loaded) == hash(target)


def test_a_share_is_of_the_model_as_it_was_and_a_number_is_absolute():
    assert ka.targets.Parameters(0.25).limit(400) == 100
    assert ka.targets.Parameters(250).limit(400) == 250


def test_follows_a_schedule():
    target = ka.targets.Flops(ka.schedules.LinearDegree(0.9, 0.5))
    assert target.limit(100, progress=0.5) == pytest.approx(70)
    assert target.limit(100) == 50


@pytest.mark.parametrize("at_most", [0, 1, -3, float("nan"), "half", True])
def test_anything_else_is_an_error(at_most):
    with pytest.raises(ValueError, match="Received: at_most="):
        ka.targets.Parameters(at_most)


def test_a_schedule_is_checked_where_it_is_read():
    target = ka.targets.Parameters(ka.schedules.LinearDegree(0.9, 0.0))
    with pytest.raises(ValueError, match="Received: at_most="):
        target.limit(100)


def test_several_count_different_things():
    weights, training = (
        ka.targets.Bytes(0.5, of=of) for of in ("weights", "training")
    )
    one, many = (ka.targets.Latency(0.5, batch_size=size) for size in (1, 128))
    assert len(as_targets([weights, training, one, many])) == 4
    assert as_targets(TARGETS) == tuple(TARGETS)
    assert as_targets(TARGETS[0]) == (TARGETS[0],)
    for wrong in (0.5, [], [0.5], [TARGETS[0], ka.targets.Parameters(3)]):
        with pytest.raises(ValueError, match="Received: target="):
            as_targets(wrong)


def test_bytes_of_what():
    with pytest.raises(ValueError, match="'weights' or 'training'"):
        ka.targets.Bytes(0.5, of="file")


@pytest.mark.parametrize("at_most", ["5", "5 hours", "0 ms", 5.0, 1])
def test_a_latency_is_a_share_or_a_time(at_most):
    with pytest.raises(ValueError, match="'5 ms'"):
        ka.targets.Latency(at_most)


def test_a_latency_of_unknown_shapes_needs_inputs():
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)])
    with pytest.raises(ValueError, match="Expected `inputs`"):
        ka.targets.Latency(0.5).measure(model)
    inputs = np.zeros((2, 5, 3))
    assert ka.targets.Latency(0.5, inputs=inputs).measure(model) > 0


class Measuring(keras.callbacks.Callback):
    """Measures latency and loss after some batches."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches
        self.measured = []

    def on_train_batch_end(self, batch, logs=None):
        if batch in self.batches:
            x = np.ones((8, 4))
            limit = ka.Limit("loss", 0.1, data=(x, x[:, :2]))
            for each in (ka.targets.Latency(0.5), limit):
                self.measured.append(each.measure(self.model))


def test_measuring_changes_nothing_in_the_middle_of_an_epoch():
    """Nor at its end, which comes as a surprise where lengths are unknown."""
    x = np.random.default_rng(0).normal(size=(4, 8, 4)).astype("float32")
    found = []
    for batches in ((), (1, 3)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(8, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Dense(2),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")
        measuring = Measuring(batches)
        history = model.fit(
            ((each, each[:, :2]) for each in x),
            callbacks=[measuring],
            verbose=0,
        )
        assert len(measuring.measured) == 2 * len(batches)
        found.append([history.history["loss"], *model.get_weights()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)

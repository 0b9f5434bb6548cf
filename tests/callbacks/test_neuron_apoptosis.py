"""Neuron apoptosis in `fit`, on real digits."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

apoptosis = ka.callbacks.NeuronApoptosis
schedules = ka.schedules


def network(activation="relu", width=32, **arguments):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(width, activation, name="one", **arguments),
            layers.Dense(width, activation, name="two", **arguments),
            layers.Dense(10, name="logits"),
        ]
    )
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(model, digits, callback, epochs=8, **arguments):
    x, y = digits
    return model.fit(
        x[:512],
        y[:512],
        **{"batch_size": 64, "epochs": epochs, "verbose": 0, **arguments},
        callbacks=[callback],
    )


def planted(model):
    """Doubles units: 3 is 2 times unit 1, 4 is unit 1 and 5 is dead."""
    kernel, bias = (np.array(w) for w in model.get_layer("one").get_weights())
    for unit, scale in ((3, 2.0), (4, 1.0), (5, 0.0)):
        kernel[:, unit] = scale * kernel[:, 1]
        bias[unit] = scale * bias[1] - (unit == 5)
    model.get_layer("one").set_weights([kernel, bias])
    return model


def test_reconstruction_shrinks_and_keeps_the_accuracy(digits):
    x, y = digits
    model = network(width=64)
    callback = apoptosis("normal", data=x[:512])
    history = fit(model, digits, callback, epochs=12)
    assert callback.history[0].progress == 0.25
    before, after = callback.history[0].parameters
    assert after < 0.8 * before
    assert model.count_params() == history.history["parameters"][-1] < after
    assert history.history["units/one"][-1] == model.get_layer("one").units
    assert model.evaluate(x[600:], y[600:], verbose=0)[1] > 0.8


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "linear"])
def test_weights_merge_parallel_units_exactly(activation, digits):
    x, _ = digits
    model = planted(network(activation))
    model.optimizer.learning_rate = 0.0
    expected = model.predict(x[:50], verbose=0)
    callback = apoptosis(
        metric="weights",
        factor=100.0,
        layers=["one"],
        schedule=schedules.HalfLife(),
        min_gain=0.0,
    )
    fit(model, digits, callback, epochs=2)
    assert model.get_layer("one").units == 30
    np.testing.assert_allclose(
        model.predict(x[:50], verbose=0), expected, rtol=1e-4, atol=1e-4
    )


def test_weights_of_others_merge_only_when_equal(digits):
    x, _ = digits
    model = planted(network("tanh"))
    model.optimizer.learning_rate = 0.0
    expected = model.predict(x[:50], verbose=0)
    callback = apoptosis(
        metric="weights",
        factor=100.0,
        layers=["one"],
        schedule=schedules.HalfLife(),
        min_gain=0.0,
    )
    fit(model, digits, callback, epochs=2)
    assert model.get_layer("one").units == 31  # 4 is 1; 3 is not.
    np.testing.assert_allclose(
        model.predict(x[:50], verbose=0), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("after", [False, True])
def test_weights_fold_a_normalization_in(after, digits):
    """Parallel up to what BatchNormalization makes of the weights."""
    x, _ = digits
    middle = [layers.BatchNormalization(name="norm"), layers.ReLU()]
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(4, name="one"),
            *(middle[::-1] if after else middle),
            layers.Dense(3, name="two"),
        ]
    )
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(64, 4)), rng.normal(size=4)
    gamma, beta = rng.uniform(0.5, 2, 4), rng.normal(size=4)
    mean, variance = rng.normal(size=4), rng.uniform(0.5, 2, 4)
    scale = gamma / np.sqrt(variance + 1e-3)
    if after:
        kernel[:, 2], bias[2] = 3 * kernel[:, 0], 3 * bias[0]
    else:  # gamma (k x + b - mean) / sd + beta is three times that of unit 0.
        kernel[:, 2] = 3 * kernel[:, 0] * scale[0] / scale[2]
        folded = scale[0] * (bias[0] - mean[0]) + beta[0]
        bias[2] = mean[2] + (3 * folded - beta[2]) / scale[2]
    model.get_layer("one").set_weights([kernel, bias])
    model.get_layer("norm").set_weights([gamma, beta, mean, variance])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.get_layer("norm").momentum = 1.0  # Its statistics stay.
    expected = model.predict(x[:50], verbose=0)
    callback = apoptosis(
        metric="weights",
        factor=100.0,
        schedule=schedules.HalfLife(),
        min_gain=0.0,
    )
    model.fit(
        x[:64], np.zeros((64, 3)), epochs=2, verbose=0, callbacks=[callback]
    )
    assert model.get_layer("one").units == 3
    np.testing.assert_allclose(
        model.predict(x[:50], verbose=0), expected, rtol=1e-3, atol=1e-3
    )


def test_outgoing_synapses_of_sigmoid_units(digits):
    model = network("sigmoid", width=8)
    kernel = np.array(model.get_layer("two").get_weights()[0])
    kernel[3] = 0.5 * kernel[1]
    model.get_layer("two").kernel.assign(kernel)
    model.optimizer.learning_rate = 0.0
    one = [np.array(w) for w in model.get_layer("one").get_weights()]
    callback = apoptosis(
        metric="weights",
        synapses="outgoing",
        factor=100.0,
        layers=["one"],
        schedule=schedules.HalfLife(),
        min_gain=0.0,
    )
    fit(model, digits, callback, epochs=2)
    stays = [0, 1, 2, 4, 5, 6, 7]
    # Unit 1, the more important, becomes (v₁ + v₃ / 2) / (1 + 1 / 2).
    merged = [w.copy() for w in one]
    for w in merged:
        w[..., 1] = (w[..., 1] + 0.5 * w[..., 3]) / 1.5
    for found, expected in zip(
        model.get_layer("one").get_weights(), merged, strict=True
    ):
        np.testing.assert_allclose(found, expected[..., stays], rtol=1e-5)
    kernel[1] += kernel[3]
    np.testing.assert_allclose(
        model.get_layer("two").kernel, kernel[stays], rtol=1e-5
    )


def test_merging_by_weights_measures_its_error_where_there_is_data(digits):
    x, _ = digits
    model = network(width=8)
    weights = model.get_layer("one").get_weights()
    kernel, bias = (np.array(w) for w in weights)
    kernel[:, 3] = 10 * kernel[:, 1] + 0.1 * np.sin(np.arange(64))
    model.get_layer("one").set_weights([kernel, bias])
    callback = apoptosis(
        metric="weights", layers=["one"], min_gain=0.0, data=x[:100]
    )
    callback.set_model(model)
    (change,) = callback.fire(2.0).groups
    assert (change.before, change.after) == (8, 7)
    values = np.maximum(x[:100] @ kernel + bias, 0)
    # The longer unit stays, which is 3.
    alpha = kernel[:, 3] @ kernel[:, 1] / np.sum(kernel[:, 3] ** 2)
    missed = values[:, 1] - alpha * values[:, 3]
    assert change.residual == pytest.approx(
        np.sqrt(np.mean(missed**2)), rel=1e-3
    )


def test_nothing_merges_and_it_says_why(digits, capsys):
    model = network()
    callback = apoptosis(metric="weights", verbose=True)
    fit(model, digits, callback)
    assert model.count_params() == network().count_params()
    assert [event.units["one"] for event in callback.history] == [(32, 32)] * 2
    printed = capsys.readouterr().out
    found = re.search(r"'one': the closest .* differ by (0\.\d+)", printed)
    assert float(found[1]) > 1 / 1.75
    assert "small initial weights" in printed


SCHEDULES = {
    "quarter-life": (schedules.QuarterLife(), [0.25]),
    "half-life": (schedules.HalfLife(), [0.5]),
    "end": (schedules.EndOfTraining(), [1.0]),
    "random": (
        schedules.Random(seed=3),
        [pytest.approx(schedules.Random(seed=3).times()[0], abs=1 / 64)],
    ),
    "logarithmic": (schedules.Logarithmic(0.125), [0.125, 0.25, 0.5]),
    "fixed": (schedules.Fixed(0.25, start=0.5), [0.5, 0.75]),
    "every epoch": (
        schedules.EveryEpoch(),
        [pytest.approx((n + 1) / 8) for n in range(8)],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name, digits):
    schedule, times = SCHEDULES[name]
    x, _ = digits
    callback = apoptosis(data=x[:256], schedule=schedule, min_gain=0.9)
    fit(network(width=8), digits, callback)
    assert [event.progress for event in callback.history] == times


def test_degrees_change_over_the_events(digits):
    x, _ = digits
    callback = apoptosis(
        data=x[:256],
        tolerance=schedules.LinearDegree(0.02, 0.10),
        schedule=schedules.Fixed(0.25, start=0.25),
        min_gain=0.0,
    )
    fit(network(width=16), digits, callback)
    degrees = [event.amount for event in callback.history]
    assert degrees == pytest.approx([0.02, 0.06, 0.10])


def test_data_of_unknown_length(digits):
    """A filter hides how many batches an epoch has, until one is over."""
    import tensorflow as tf

    x, y = digits
    data = tf.data.Dataset.from_tensor_slices((x[:256], y[:256]))
    data = data.filter(lambda x, y: True).batch(64)
    sizes = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sizes.append(self.model.count_params())

    callback = apoptosis(
        "very_aggressive",
        data=data,
        schedule=schedules.Fixed(0.3, 0.125),
        min_gain=0.0,
    )
    model = network(width=64)
    model.fit(data, epochs=4, verbose=0, callbacks=[callback, Watch()])
    # 1/8 lies in the first epoch, whose length is not known before its end.
    assert [e.progress for e in callback.history] == [0.25, 0.4375, 0.75]
    assert sizes[3] == sizes[0] > sizes[4] == sizes[5] > sizes[-1]


def test_initial_epoch_and_several_calls(digits):
    x, _ = digits
    callback = apoptosis(
        data=x[:256],
        schedule=schedules.Fixed(0.25, start=0.25),
        total_epochs=8,
        min_gain=0.9,
    )
    model = network(width=8)
    fit(model, digits, callback, epochs=3)
    assert [e.progress for e in callback.history] == [0.25]
    fit(model, digits, callback, epochs=8, initial_epoch=3)
    assert [e.progress for e in callback.history] == [0.25, 0.5, 0.75]
    assert [e.epoch for e in callback.history] == [1, 3, 5]


def test_steps_per_execution(digits):
    if keras.backend.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution on PyTorch")
    x, _ = digits
    model = network(width=64)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=3,
    )
    callback = apoptosis(data=x[:256], schedule=schedules.Logarithmic(0.3))
    fit(model, digits, callback, epochs=2)
    # 8 steps an epoch: calls end after 3, 6 and 8.
    assert [e.progress for e in callback.history] == [6 / 16, 11 / 16]
    assert callback.history[0].parameters[0] > model.count_params()


def test_early_stopping_brings_the_last_event_forward(digits):
    x, _ = digits

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    callback = apoptosis(data=x[:256], schedule=schedules.EndOfTraining())
    model = network(width=64)
    data_x, data_y = digits
    model.fit(
        data_x[:256],
        data_y[:256],
        epochs=9,
        verbose=0,
        callbacks=[callback, Stop()],
    )
    (event,) = callback.history
    assert event.progress == pytest.approx(2 / 9)
    assert event.parameters[1] == model.count_params() < event.parameters[0]


def test_limits(digits):
    x, _ = digits
    model = network(width=64)
    callback = apoptosis(
        "very_aggressive",
        data=x[:256],
        layers=["one"],
        min_units=20,
        round_to=8,
        schedule=schedules.HalfLife(),
    )
    fit(model, digits, callback, epochs=2)
    assert model.get_layer("two").units == 64
    units = model.get_layer("one").units
    assert 24 <= units < 64
    assert units % 8 == 0


def test_exclude(digits):
    x, _ = digits
    model = network(width=64)
    callback = apoptosis(
        data=x[:256], exclude=["one"], schedule=schedules.HalfLife()
    )
    fit(model, digits, callback, epochs=2)
    assert model.get_layer("one").units == 64
    assert model.get_layer("two").units < 64


def test_too_little_gain_is_skipped(digits):
    x, _ = digits
    model = network(width=64)
    callback = apoptosis(data=x[:256], min_gain=0.999)
    fit(model, digits, callback, epochs=4)
    assert model.get_layer("one").units == 64
    for event in callback.history:
        assert "less than min_gain=100%" in event.skipped


def test_events_are_logged(digits, capsys):
    x, _ = digits
    model = network(width=64)
    callback = apoptosis(data=x[:256], schedule=schedules.HalfLife())
    history = fit(model, digits, callback, epochs=4, verbose=2).history
    printed = capsys.readouterr().out
    (event,) = callback.history
    assert "NeuronApoptosis at 50% of the training: one 64→" in printed
    assert "parameters: " in printed
    # The progress line has few numbers, the history has all.
    assert "neuron_apoptosis_seconds" not in printed
    assert "units/one" not in printed
    assert history["parameters"][0] == event.parameters[0]
    assert history["parameters"][3] == event.parameters[1]
    assert event.seconds > 0
    assert set(event.residuals) == {"one", "two"}
    assert all(0 < residual < 5 for residual in event.residuals.values())
    assert event.saving is not None


@pytest.mark.parametrize("metric", ["reconstruction", "weights"])
def test_input_features_leave_too(metric, digits):
    x, _y = digits
    model = keras.Sequential(
        [
            keras.Input((64,)),
            ka.layers.FeatureSelection(name="inputs"),
            layers.Dense(32, "relu", name="one"),
            layers.Dense(10),
        ]
    )
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    data = {"data": x[:512]} if metric == "reconstruction" else {}
    callback = apoptosis(metric=metric, **data)
    fit(model, digits, callback)
    kept = model.get_layer("inputs").indices
    if metric == "weights":  # Pixels have no incoming weights to compare.
        assert kept is None
    else:
        assert len(kept) < 64
        never = np.flatnonzero(x[:512].max(0) == 0)
        assert not set(kept) & set(never)
        assert model.get_layer("one").kernel.shape[0] == len(kept)


def test_same_seed_same_result(digits):
    x, _ = digits
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        model = network(width=64)
        fit(model, digits, apoptosis(data=x[:256]), epochs=4)
        found.append([ops.convert_to_numpy(v) for v in model.variables])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["prunable", "convolution"])
def test_other_models(kind, digits, tmp_path):
    x, _y = digits
    if kind == "prunable":
        model = ka.make_prunable(network(width=64), track_statistics=True)
    else:
        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Reshape((8, 8, 1)),
                layers.Conv2D(16, 3, padding="same", use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.MaxPooling2D(2),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    before = model.count_params()
    fit(model, digits, apoptosis("aggressive", data=x[:256]), epochs=8)
    assert model.count_params() < before
    expected = model.predict(x[:20], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x[:20], verbose=0), expected, rtol=1e-5, atol=1e-5
    )
    if kind == "prunable":
        plain = ka.strip_pruning(model)
        np.testing.assert_allclose(
            plain.predict(x[:20], verbose=0), expected, rtol=1e-5, atol=1e-5
        )

import keras
import numpy as np
import pytest

from keras_apoptosis import layers
from keras_apoptosis.layers import activation_statistics

TRACKED = {"track_statistics": True}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def expected(outputs, unit_axis=-1, tolerance=0.0):
    """The statistics by another route: all outputs at once, in float64."""
    units = np.moveaxis(outputs, unit_axis, -1).astype("float64")
    units = units.reshape(-1, units.shape[-1])
    return {
        "count": len(units),
        "total": units.sum(0),
        "max_abs": np.abs(units).max(0),
        "active": (np.abs(units) > tolerance).sum(0),
    }


def assert_statistics(layer, wanted):
    seen = layer.statistics
    assert seen.count == wanted["count"]
    np.testing.assert_allclose(
        seen.total, wanted["total"], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(seen.max_abs, wanted["max_abs"], rtol=1e-5)
    np.testing.assert_array_equal(seen.active, wanted["active"])
    np.testing.assert_allclose(
        seen.mean, wanted["total"] / wanted["count"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        seen.active_share, wanted["active"] / wanted["count"], rtol=1e-6
    )


def test_by_hand():
    layer = layers.PrunableActivation(
        "linear", activity_tolerance=1.0, **TRACKED
    )
    layer(np.array([[1.0, -5.0], [2.0, 0.0]]))
    layer(np.array([[-4.0, 1.5]]))
    seen = layer.statistics
    assert seen.count == 3
    assert seen.total.tolist() == [-1.0, -3.5]
    assert seen.max_abs.tolist() == [4.0, 5.0]
    assert seen.active.tolist() == [2.0, 2.0]  # Beyond 1, not at it.
    np.testing.assert_allclose(seen.mean, [-1 / 3, -3.5 / 3], rtol=1e-6)
    np.testing.assert_allclose(seen.active_share, [2 / 3, 2 / 3], rtol=1e-6)


def test_before_the_first_sample():
    layer = layers.PrunableDense(2, **TRACKED)
    assert layer.statistics is None  # It is not built.
    layer.build((None, 3))
    seen = layer.statistics
    assert seen.count == 0
    assert seen.max_abs.tolist() == [0.0, 0.0]
    assert np.isnan(seen.mean).all()
    assert np.isnan(seen.active_share).all()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_fit_and_evaluate_dense(activation, tolerance):
    # 10 samples in batches of 4: the last batch is smaller. The learning rate
    # is 0, so what the layer puts out is known.
    x, y = normal(10, 3), np.zeros((10, 1))
    hidden = layers.PrunableDense(
        5, activation, activity_tolerance=tolerance, **TRACKED
    )
    model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    kernel, bias = hidden.get_weights()[:2]
    outputs = x @ kernel + bias
    outputs = np.tanh(outputs) if activation == "tanh" else outputs.clip(0)

    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    twice = np.concatenate([outputs, outputs])
    assert_statistics(hidden, expected(twice, tolerance=tolerance))

    model.evaluate(x[:7], y[:7], batch_size=4, verbose=0)
    more = np.concatenate([twice, outputs[:7]])
    assert_statistics(hidden, expected(more, tolerance=tolerance))

    hidden.reset_statistics()
    assert hidden.statistics.count == 0
    assert hidden.statistics.max_abs.tolist() == [0.0] * 5
    model.fit(x[:6], y[:6], batch_size=4, verbose=0)
    assert_statistics(hidden, expected(outputs[:6], tolerance=tolerance))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_fit_and_evaluate_convolution(data_format):
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if data_format == "channels_first" and on_tensorflow:
        pytest.skip("TensorFlow's CPU kernels know channels_last only.")
    channels_last = data_format == "channels_last"
    shape = (6, 5, 2) if channels_last else (2, 6, 5)
    x, y = normal(5, *shape), np.zeros((5, 1))
    conv = layers.PrunableConv2D(
        3, 2, activation="elu", data_format=data_format, **TRACKED
    )
    plain = keras.layers.Conv2D(3, 2, activation="elu", data_format=data_format)
    model = keras.Sequential(
        [
            keras.Input(shape),
            conv,
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    plain.build((None, *shape))
    plain.set_weights(conv.get_weights()[:2])
    outputs = keras.ops.convert_to_numpy(plain(x))
    wanted = expected(np.concatenate([outputs, outputs[:2]]), conv.unit_axis)
    assert wanted["count"] == 7 * 5 * 4  # Every position is a sample.

    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, y, batch_size=2, verbose=0)
    model.evaluate(x[:2], y[:2], verbose=0)
    assert_statistics(conv, wanted)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(layers.PrunableConv1D, (7, 2)), (layers.PrunableConv3D, (3, 4, 5, 2))],
)
def test_other_ranks(kind, shape):
    x = normal(3, *shape)
    conv = kind(4, 2, **TRACKED)
    assert_statistics(conv, expected(keras.ops.convert_to_numpy(conv(x))))


def test_dense_on_sequences_counts_every_step():
    x = normal(2, 6, 3)
    layer = layers.PrunableDense(4, **TRACKED)
    y = keras.ops.convert_to_numpy(layer(x))
    assert layer.statistics.count == 12
    assert_statistics(layer, expected(y))


@pytest.mark.parametrize("axis", [1, -1, 2, -3])
def test_activation_along_an_axis(axis):
    x = normal(2, 3, 4, 5)
    layer = layers.PrunableActivation("relu", axis=axis, **TRACKED)
    layer(x)
    assert_statistics(layer, expected(x.clip(0), axis))


def test_after_a_normalization_in_training():
    # In training the normalization uses the batch: mean 0 and variance 1 (but
    # for epsilon). Units are (x - mean) / sqrt(variance + 0.001).
    x = normal(8, 3)
    activation = layers.PrunableActivation("tanh", **TRACKED)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(), activation]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, np.zeros((8, 3)), batch_size=8, verbose=0)
    normalized = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3)
    assert_statistics(activation, expected(np.tanh(normalized)))


def test_a_shared_layer_counts_all_its_calls():
    x = normal(4, 3)
    shared = layers.PrunableDense(3, **TRACKED)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, shared(shared(inputs)))
    model.compile(loss="mse")
    model.evaluate(x, x, verbose=0)
    once = x @ shared.get_weights()[0]
    twice = once @ shared.get_weights()[0]
    assert_statistics(shared, expected(np.concatenate([once, twice])))


def test_training_is_not_affected():
    x, y = normal(32, 4), normal(32, 1, seed=1)
    weights = []
    for tracked in (True, False):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.PrunableDense(8, "tanh", track_statistics=tracked),
                keras.layers.Dense(1),
            ]
        )
        model.compile("adam", "mse")
        model.fit(x, y, batch_size=8, epochs=2, verbose=0)
        weights.append(model.trainable_variables)
    for with_it, without in zip(*weights, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(with_it.value),
            keras.ops.convert_to_numpy(without.value),
            rtol=1e-5,
            atol=1e-7,
        )


def test_without_tracking_there_is_nothing():
    layer = layers.PrunableDense(2)
    layer(np.ones((1, 3)))
    assert layer.statistics is None
    assert layer.statistics_variables == []
    assert len(layer.variables) == 2
    layer.reset_statistics()  # Nothing to do.


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_statistics_in_float32(policy):
    # 256 samples of 1024 sum up to 2^18, which float16 does not reach, and
    # bfloat16 cannot count to 257.
    layer = layers.PrunableDense(
        1, kernel_initializer="ones", dtype=policy, **TRACKED
    )
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(loss="mse")
    x = np.full((257, 1), 1024.0, "float32")
    model.evaluate(x, np.zeros((257, 1)), batch_size=257, verbose=0)
    assert {v.dtype for v in layer.statistics_variables} == {"float32"}
    seen = layer.statistics
    assert (seen.count, seen.active[0]) == (257, 257)
    assert (seen.total[0], seen.max_abs[0]) == (257 * 1024, 1024)


def test_quantized_layers_are_observed():
    layer = layers.PrunableDense(2, dtype="int8_from_float32", **TRACKED)
    layer(np.ones((5, 3)))
    assert layer.statistics.count == 5


def test_the_statistics_are_saved(tmp_path):
    hidden = layers.PrunableDense(3, "relu", masked=True, **TRACKED)
    activation = layers.PrunableActivation("tanh", **TRACKED)
    model = keras.Sequential([keras.Input((2,)), hidden, activation])
    model.predict(normal(6, 2), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for old, new in zip(model.layers, loaded.layers, strict=True):
        assert new.statistics.count == 6
        for name in ("total", "max_abs", "active"):
            np.testing.assert_array_equal(
                getattr(new.statistics, name), getattr(old.statistics, name)
            )


@pytest.mark.parametrize(
    "function", activation_statistics.NON_NEGATIVE, ids=lambda f: f.__name__
)
def test_what_is_called_non_negative_is(function):
    x = np.linspace(-50, 50, 2001, dtype="float32")[None]
    y = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(x)))
    assert y.min() >= 0


class TestBadInput:
    @pytest.mark.parametrize("tolerance", [-0.1, float("inf"), float("nan")])
    def test_tolerance(self, tolerance):
        with pytest.raises(ValueError, match=r"at least 0. Received"):
            layers.PrunableDense(2, activity_tolerance=tolerance)

    @pytest.mark.parametrize("axis", [0, 1.0, None, True])
    def test_axis(self, axis):
        with pytest.raises(ValueError, match=r"`axis` must be .* Received"):
            layers.PrunableActivation("relu", axis=axis)

    @pytest.mark.parametrize("axis", [2, -2])
    def test_axis_that_the_output_has_not(self, axis):
        layer = layers.PrunableActivation("relu", axis=axis, **TRACKED)
        with pytest.raises(ValueError, match=r"besides the batch.*Received"):
            layer.build((None, 3))

    def test_axis_of_unknown_size(self):
        layer = layers.PrunableActivation("relu", axis=1, **TRACKED)
        with pytest.raises(ValueError, match=r"must be known.*Received"):
            layer.build((None, None, 3))

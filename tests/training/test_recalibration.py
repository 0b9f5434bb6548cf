"""Checks statistics by hand, and that nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

X = np.array([[1.0, 0.0], [2.0, 4.0], [3.0, 0.0], [6.0, 4.0]], "float32")


def statistics(layer) -> tuple[np.ndarray, np.ndarray]:
    return (
        ops.convert_to_numpy(layer.moving_mean),
        ops.convert_to_numpy(layer.moving_variance),
    )


def assert_statistics(layer, mean, variance) -> None:
    found = statistics(layer)
    np.testing.assert_allclose(found[0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=1e-5, atol=1e-6)


def values_of(variables) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(each)) for each in variables]


def convolutional() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.GaussianNoise(0.9),
            layers.Conv2D(6, 3, strides=2, name="one"),
            layers.BatchNormalization(name="first"),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Conv2D(5, 3, name="two"),
            layers.BatchNormalization(name="second"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) + 0.1)
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_batches_add_up_to_the_exact_moments(batch_size) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization()])
    found = ka.recalibrate(model, X, batch_size=batch_size)
    # By hand: (1+2+3+6)/4, (4+1+0+9)/4.
    assert_statistics(model.layers[0], [3.0, 2.0], [3.5, 4.0])
    assert (len(found.layers), found.samples) == (1, 4)
    assert not found.skipped


def test_no_more_than_the_samples_asked_for_are_used() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization()])
    found = ka.recalibrate(model, (X, X), samples=3, batch_size=2)
    assert_statistics(model.layers[0], [2.0, 4 / 3], [2 / 3, 32 / 9])
    assert found.samples == 3


def test_layers_that_follow_each_other() -> None:
    """On one batch, inference is then what training computes on it."""
    model = convolutional()
    x = np.random.default_rng(1).normal(2.0, 3.0, (32, 8, 8, 3))
    # By another route: the same layers, without those that are random,
    # normalized by NumPy.
    value = x.astype("float32")
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta = values_of(layer.trainable_variables)
            axes = tuple(range(value.ndim - 1))
            deviation = np.sqrt(value.var(axes) + layer.epsilon)
            value = gamma * (value - value.mean(axes)) / deviation + beta
        elif not isinstance(layer, layers.Dropout | layers.GaussianNoise):
            value = ops.convert_to_numpy(layer(value))

    before = model.predict(x, verbose=0)
    ka.recalibrate(model, x)
    after = model.predict(x, verbose=0)
    assert np.abs(before - value).max() > 1.0
    np.testing.assert_allclose(after, value, rtol=1e-3, atol=1e-3)


def test_masked_positions_do_not_count() -> None:
    model = keras.Sequential(
        [keras.Input((3, 2)), layers.Masking(), layers.BatchNormalization()]
    )
    x = np.zeros((2, 3, 2), "float32")
    x[0, :2], x[1, :2] = X[:2], X[2:]
    ka.recalibrate(model, x)
    assert_statistics(model.layers[-1], [3.0, 2.0], [3.5, 4.0])


def test_a_mask_along_the_normalized_axis_is_told() -> None:
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            layers.Masking(),
            layers.BatchNormalization(axis=1, name="normal"),
        ]
    )
    found = ka.recalibrate(model, np.ones((2, 3, 2), "float32"))
    assert found.layers == ()
    assert "masked along the axis" in found.skipped[model.layers[-1].path]
    assert_statistics(model.layers[-1], np.zeros(3), np.ones(3))


def test_another_axis() -> None:
    model = keras.Sequential(
        [keras.Input((2, 3)), layers.BatchNormalization(axis=1)]
    )
    x = np.repeat(X[:, :, None], 3, axis=-1)
    ka.recalibrate(model, x)
    assert_statistics(model.layers[0], [3.0, 2.0], [3.5, 4.0])


def test_a_shared_layer_counts_all_its_calls() -> None:
    one, two = keras.Input((2,)), keras.Input((2,))
    shared = layers.BatchNormalization()
    model = keras.Model([one, two], layers.Add()([shared(one), shared(two)]))
    ka.recalibrate(model, [X, X + 2])
    # The mean of both; the variance within, and 1 for the distance between.
    assert_statistics(shared, [4.0, 3.0], [4.5, 5.0])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.normal = layers.BatchNormalization()
        self.unused = layers.BatchNormalization()
        self.unused.build((None, 2))

    def call(self, inputs):  # Without `training`: Keras hands it on.
        return self.normal(inputs)


def nested() -> tuple[keras.Model, keras.Layer]:
    inner = keras.Sequential([keras.Input((2,)), layers.BatchNormalization()])
    return keras.Sequential([keras.Input((2,)), inner]), inner.layers[0]


def distributed_over_time() -> tuple[keras.Model, keras.Layer]:
    inner = layers.BatchNormalization()
    wrapped = layers.TimeDistributed(inner)
    model = keras.Sequential(
        [keras.Input((2,)), layers.Reshape((1, 2)), wrapped]
    )
    return model, inner


def subclassed() -> tuple[keras.Model, keras.Layer]:
    model = Subclassed()
    model(X)
    return model, model.normal


def half_precision() -> tuple[keras.Model, keras.Layer]:
    layer = layers.BatchNormalization(dtype="mixed_float16")
    return keras.Sequential([keras.Input((2,)), layer]), layer


@pytest.mark.parametrize(
    "build", [nested, distributed_over_time, subclassed, half_precision]
)
def test_wherever_the_layer_stands(build) -> None:
    model, layer = build()
    found = ka.recalibrate(model, X)
    assert_statistics(layer, [3.0, 2.0], [3.5, 4.0])
    assert found.layers == (layer.path,)


def test_a_layer_that_nothing_reaches_keeps_its_statistics() -> None:
    model, _ = subclassed()
    found = ka.recalibrate(model, X)
    assert_statistics(model.unused, [0.0, 0.0], [1.0, 1.0])
    assert list(found.skipped) == [model.unused.path]


def test_a_layer_that_is_not_trainable_keeps_its_statistics() -> None:
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.BatchNormalization(trainable=False, name="fixed"),
            layers.BatchNormalization(name="free"),
        ]
    )
    found = ka.recalibrate(model, X)
    assert_statistics(model.layers[0], [0.0, 0.0], [1.0, 1.0])
    # It normalizes by what it has: a division by the root of 1.001.
    assert_statistics(
        model.layers[1],
        np.array([3.0, 2.0]) / np.sqrt(1.001),
        np.array([3.5, 4.0]) / 1.001,
    )
    assert found.skipped == {model.layers[0].path: "it has `trainable=False`"}


def test_batch_renormalization() -> None:
    renormal = layers.BatchNormalization(renorm=True, epsilon=0.5)
    last = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((2,)), renormal, last])
    ka.recalibrate(model, X)
    assert_statistics(renormal, [3.0, 2.0], [3.5, 4.0])
    deviation = np.sqrt([4.0, 4.5])
    for name, expected in [
        ("moving_stddev", deviation),
        ("renorm_stddev", deviation),
        ("renorm_mean", [3.0, 2.0]),
    ]:
        found = ops.convert_to_numpy(getattr(renormal, name))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Not by the old statistics: what follows sees the mean 0.
    assert_statistics(last, [0.0, 0.0], [3.5 / 4.0, 4.0 / 4.5])
    assert renormal.renorm


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow only"
)
def test_a_synchronized_layer() -> None:
    layer = layers.BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input((2,)), layer])
    ka.recalibrate(model, X)
    assert_statistics(layer, [3.0, 2.0], [3.5, 4.0])


def test_nothing_else_changes() -> None:
    model = ka.make_prunable(convolutional(), track_statistics=True)
    model.layers[2].activity_regularizer = keras.regularizers.L2(0.1)
    model.compile("adam", "mse", metrics=["mae"])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 8, 8, 3)), rng.normal(size=(16, 4))
    model.fit(x, y, verbose=0)

    normal = [each for each in model.layers if hasattr(each, "moving_mean")]
    moving = {
        id(variable)
        for layer in normal
        for variable in (layer.moving_mean, layer.moving_variance)
    }
    others = [
        *(each for each in model.variables if id(each) not in moving),
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    attributes = [set(layer.__dict__) for layer in normal]
    before = values_of(others)
    ka.recalibrate(model, x)
    for old, new in zip(before, values_of(others), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not model.losses
    assert [set(layer.__dict__) for layer in normal] == attributes


@pytest.mark.parametrize("fault", [np.nan, RuntimeError("no more")])
def test_a_failure_leaves_the_model_as_it_was(fault) -> None:
    model = convolutional()
    x = np.ones((4, 8, 8, 3), "float32")

    def batches():
        yield x
        if isinstance(fault, Exception):
            raise fault
        yield fault * x

    before = values_of(model.variables)
    with pytest.raises((ValueError, RuntimeError), match=r"finite|no more"):
        ka.recalibrate(model, batches())
    for old, new in zip(before, values_of(model.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "call" not in model.get_layer("first").__dict__


@pytest.mark.parametrize("moment", ["on_train_batch_end", "on_epoch_end"])
def test_in_the_middle_of_fit(moment) -> None:
    # A momentum of 1 leaves the averages as they are, and a rate of 0 all
    # weights: what is there at the end is what was put there in between.
    layer = layers.BatchNormalization(momentum=1.0)
    model = keras.Sequential([keras.Input((2,)), layer, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")

    class Recalibrate(keras.callbacks.Callback):
        pass

    def recalibrate(self, number, logs=None):
        if not number:
            ka.recalibrate(self.model, X)

    setattr(Recalibrate, moment, recalibrate)
    model.fit(
        np.tile(X, (8, 1)),
        np.zeros((32, 1)),
        batch_size=8,
        epochs=2,
        callbacks=[Recalibrate()],
        verbose=0,
    )
    assert_statistics(layer, [3.0, 2.0], [3.5, 4.0])


def test_a_model_without_normalization() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    unread = iter([X])
    found = ka.recalibrate(model, unread)
    assert (found.layers, found.samples) == ((), 0)
    assert next(unread) is X


def test_it_prints() -> None:
    model, _ = subclassed()
    assert str(ka.recalibrate(model, X)).split("\n") == [
        "Recalibrated 1 normalization layer on 4 samples.",
        f"Skipped {model.unused.path}: no values that are not masked reached "
        "it.",
    ]


def test_a_model_that_is_not_built() -> None:
    with pytest.raises(ValueError, match="Expected a built"):
        ka.recalibrate(Subclassed(), X)

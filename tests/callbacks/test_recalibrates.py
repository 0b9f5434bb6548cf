"""Checks that methods compute moving statistics anew after they prune."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = X[:, :1]

METHODS = {
    "apoptosis": lambda **options: ka.callbacks.NeuronApoptosis(
        "very_aggressive", schedule=ka.schedules.HalfLife(), data=X, **options
    ),
    "saliency": lambda **options: ka.callbacks.SaliencyPruning(
        "l1_norm",
        schedule=ka.schedules.OneShot(0.5, at=0.5),
        data=(X, Y),
        **options,
    ),
    "weights": lambda **options: ka.callbacks.SaliencyPruning(
        "magnitude",
        granularity="weights",
        schedule=ka.schedules.OneShot(0.5, at=0.5),
        data=(X, Y),
        **options,
    ),
    "demon": lambda **options: ka.callbacks.DemonPruning(
        1e-3, schedule=ka.schedules.HalfLife(), data=X, **options
    ),
}


def network() -> keras.Model:
    """Half of its units are dead, and its averages never move by training."""
    hidden = ka.layers.PrunableDense(8, name="hidden")
    normal = layers.BatchNormalization(momentum=1.0, name="normal")
    model = keras.Sequential(
        [keras.Input((4,)), hidden, normal, layers.ReLU(), layers.Dense(1)]
    )
    normal.beta.assign(np.repeat([-30.0, 0.0], 4))
    hidden.bias.assign(np.full(8, 2.0))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def moving(model: keras.Model) -> np.ndarray:
    normal = model.get_layer("normal")
    found = ops.stack([normal.moving_mean.value, normal.moving_variance.value])
    return ops.convert_to_numpy(found)


def exact(model: keras.Model) -> np.ndarray:
    values = ops.convert_to_numpy(model.get_layer("hidden")(X))
    return np.stack([values.mean(axis=0), values.var(axis=0)])


class Seen(keras.callbacks.Callback):
    """Averages and exact values at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[np.ndarray, np.ndarray]] = []

    def on_epoch_end(self, epoch, logs=None) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.found.append((moving(self.model), exact(self.model)))


def train(method) -> tuple[keras.Model, Seen]:
    model, seen = network(), Seen()
    model.fit(
        X, Y, epochs=4, batch_size=32, verbose=0, callbacks=[method, seen]
    )
    assert any(not event.skipped for event in method.history)
    return model, seen


@pytest.mark.parametrize("name", METHODS)
def test_after_the_event_and_at_the_end(name) -> None:
    model, seen = train(METHODS[name]())
    untouched = np.stack([np.zeros(8), np.ones(8)])
    np.testing.assert_array_equal(seen.found[0][0], untouched)
    np.testing.assert_allclose(*seen.found[1], rtol=1e-4, atol=1e-5)
    # Weights move on, and averages do not until the end.
    np.testing.assert_array_equal(seen.found[2][0], seen.found[1][0])
    assert np.abs(seen.found[3][0] - seen.found[3][1]).max() > 1e-5
    np.testing.assert_allclose(
        moving(model), exact(model), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_last_validation_is_of_the_model_that_is_left(name) -> None:
    model = network()
    history = model.fit(
        X,
        Y,
        validation_data=(X, Y),
        epochs=3,
        batch_size=32,
        verbose=0,
        callbacks=[METHODS[name]()],
    ).history
    left = model.evaluate(X, Y, batch_size=32, verbose=0)
    assert history["val_loss"][-1] == pytest.approx(left, rel=1e-5)


def test_not_unless_wanted() -> None:
    model, _ = train(METHODS["saliency"](recalibrate=False))
    np.testing.assert_array_equal(moving(model)[0], np.zeros(4))


def test_not_if_nothing_is_pruned() -> None:
    model = network()
    method = METHODS["apoptosis"](min_gain=0.99)
    model.fit(X, Y, epochs=4, verbose=0, callbacks=[method])
    np.testing.assert_array_equal(moving(model)[0], np.zeros(8))


def test_at_the_end_though_the_last_event_was_undone() -> None:
    """What an undone event has recalibrated is undone with it."""
    model = network()
    limit = ka.Limit("loss", 0.5, data=(X, Y), attempts=1)
    values = iter([0.0, 0.0, 0.0, 1.0])  # The second event costs too much.
    object.__setattr__(limit, "measure", lambda _: next(values))
    method = ka.callbacks.SaliencyPruning(
        "l1_norm",
        schedule=ka.schedules.AtEpochs({2: 0.25, 4: 0.5}),
        data=(X, Y),
        limit=limit,
    )
    model.fit(X, Y, epochs=4, batch_size=32, verbose=0, callbacks=[method])
    assert [bool(event.skipped) for event in method.history] == [False, True]
    np.testing.assert_allclose(
        moving(model), exact(model), rtol=1e-4, atol=1e-5
    )

"""What is removed for a target, and when living units are."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.callbacks.pressure_control import PressureControl
from keras_apoptosis.graph import analyse
from keras_apoptosis.selection.inactive_units import Activity


@pytest.fixture
def model():
    """Two hidden layers of four units."""
    keras.utils.set_random_seed(0)
    stack = [layers.Dense(4, activation="relu", name=n) for n in ("one", "two")]
    model = keras.Sequential(
        [keras.Input((3,)), *stack, layers.Dense(2, name="out")]
    )
    model.compile("sgd", "mse")
    return model


def test_units_are_compared_with_the_others_of_their_layer(model):
    """Half of each layer, though the second is a hundredth as active."""
    analysis = analyse(model)
    numbers = {group.name: n for n, group in enumerate(analysis.groups)}
    one, two = numbers["one"], numbers["two"]
    peaks = {one: np.array([3.0, 1.0, 4.0, 2.0])}
    peaks[two] = peaks[one] / 100
    target = ka.targets.Units(at_most=0.5)
    control = PressureControl([target], [target.measure(model)])
    candidates = {n: np.array([1, 3, 0]) for n in (one, two)}
    chosen = control.choose(analysis, Activity(peaks, {}), candidates)
    assert {n: units.tolist() for n, units in chosen.items()} == {
        one: [1, 3],
        two: [1, 3],
    }


def test_living_units_leave_in_time_to_make_up_for_it(model):
    """Without any pressure nothing dies: at 60 % of 20 steps the rest goes."""
    x = np.random.default_rng(0).uniform(0.5, 1, (40, 3)).astype("float32")
    for name in ("one", "two"):
        hidden = model.get_layer(name)
        hidden.set_weights([np.abs(w) + 0.1 for w in hidden.get_weights()])
    seen = []

    class Widths(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(sum(model.get_layer(n).units for n in ("one", "two")))

    model.optimizer.learning_rate = 0.0
    demon = ka.callbacks.DemonPruning(
        0.0,
        noise_variance=0.0,
        target=ka.targets.Units(at_most=0.5),
        data=x,
        verbose=0,
    )
    model.fit(
        x,
        x[:, :2],
        batch_size=4,
        epochs=2,
        verbose=0,
        callbacks=[demon, Widths()],
    )
    assert set(seen[:11]) == {8}
    assert set(seen[12:]) == {4}

"""What is removed for a target, when living units are, and the pressure."""

import math

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


PEAKS = ([1, 2, 6, 7, 8, 9, 9, 9], [3, 5, 8, 8])


def control(at_most, **options):
    """A controller: with widths a and b there are 5a + ab + 3b + 2 weights."""
    model = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(n) for n in (8, 4, 2))]
    )
    target = ka.targets.Parameters(at_most)
    found = PressureControl([target], [target.measure(model)], **options)
    return found, analyse(model)


def chosen(at_most, *candidates, **options):
    found, analysis = control(at_most, **options)
    activity = Activity({n: np.array(each) for n, each in enumerate(PEAKS)}, {})
    units = {n: np.array(each) for n, each in enumerate(candidates)}
    result = found.choose(analysis, activity, units)
    return [result[number].tolist() for number in (0, 1)]


def test_as_few_as_it_takes():
    """77, 68 and then 59 parameters, without 0 and 1, and 0 of the second."""
    assert chosen(62, range(4), range(2)) == [[0, 1], [0]]
    assert chosen(68, range(4), range(2)) == [[0, 1], []]
    assert chosen(20, range(2), range(1)) == [[0, 1], [0]]  # All there are.


def test_spares_active_ones_for_which_there_is_room():
    """68 are too many, and with 59 there is room for a unit of 8."""
    assert chosen(67, range(4), range(2)) == [[0], [0]]


def test_widths_are_multiples():
    """68, 59 and then 35, at widths of 6, 3 and 3."""
    assert chosen(62, range(5), range(1), round_to=3) == [[0, 1], [0]]
    assert chosen(40, range(5), range(1), round_to=3) == [[*range(5)], [0]]


@pytest.mark.parametrize(
    ("at_most", "planned"),
    [
        (0.97, 1 - 0.03 * (0.5 / 0.6) ** 2),
        (ka.schedules.LinearDegree(0.99, 0.97), 0.98),
    ],
)
def test_presses_by_how_far_it_is_behind_the_plan(at_most, planned):
    found, analysis = control(at_most)
    behind = 1 - planned
    factor = math.exp(10 * behind + 40 * 0.5 * behind)
    assert found.steer(analysis, 0.5, False) == pytest.approx(factor)
    assert found.steer(analysis, 0.6, True) == 0

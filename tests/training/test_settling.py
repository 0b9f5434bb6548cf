"""The moment when weights have settled, by weights that are set by hand."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.schedules import WhenSettled
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.trigger import Trigger

# Where the two weights are at the end of each epoch. The first are of length
# 5, and the distances to them 0, 5, 8, 9 and 9: moves of 1, 0.6, 0.2 and 0.
PATH = [(3, 4), (3, 9), (3, 12), (3, 13), (3, 13)]


def run(schedule, path=PATH, epochs=8, trigger=None, first=0):
    """Returns after which epochs it fires, and the trigger."""
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, use_bias=False)]
    )
    if trigger is None:
        trigger = Trigger(schedule, TrainingProgress())
    progress = trigger.progress
    progress.begin_fit({"epochs": epochs, "steps": 1})
    trigger.begin_fit(epochs)
    found = []
    for epoch, weights in enumerate(path, first):
        progress.begin_epoch(epoch)
        trigger.begin_epoch()
        model.layers[0].kernel.assign(np.reshape(weights, (2, 1)))
        progress.end_step(0)
        assert trigger.due(model) is None  # Only when an epoch is over.
        progress.end_epoch()
        if trigger.due(model) is not None:
            found.append(epoch)
        assert trigger.due(model) is None
    return found, trigger


@pytest.mark.parametrize(
    ("schedule", "epoch"),
    [
        (WhenSettled(0.5, latest=1.0), 3),  # 0.2 < 0.4
        (WhenSettled(0.5, threshold=0.7), 2),  # 0.6 < 0.7
        (WhenSettled(0.5, threshold=0.1, latest=1.0), 4),
        # Settled or not.
        (WhenSettled(0.5, latest=0.375), 2),
        (WhenSettled(0.5, latest=0.01), 0),
    ],
    ids=str,
)
def test_the_moment(schedule, epoch):
    assert run(schedule)[0] == [epoch]


def test_moves_are_changes_of_the_relative_distance():
    trigger = run(WhenSettled(0.5, threshold=1e-9, latest=1.0), PATH[:4])[1]
    np.testing.assert_allclose(
        trigger._movement.moves, [1.0, 0.6, 0.2], rtol=1e-6
    )


def test_it_goes_on_from_its_state():
    schedule = WhenSettled(0.5, latest=1.0)
    before = run(schedule, PATH[:2])[1]
    after = Trigger(schedule, TrainingProgress())
    after.set_state(before.get_state())
    assert run(schedule, PATH[2:], trigger=after, first=2)[0] == [3]


def test_another_training_starts_anew():
    schedule = WhenSettled(0.5, latest=1.0)
    found, trigger = run(schedule)
    assert found == run(schedule, trigger=trigger)[0] == [3]


def test_a_training_that_ends_early_has_its_event_if_that_may_be_the_last():
    for latest, event in ((1.0, 0), (0.5, None)):
        trigger = run(WhenSettled(0.5, latest=latest), PATH[:2])[1]
        assert trigger.due_at_end() == event
        assert trigger.due_at_end() is None


def test_removed_units_are_not_taken_for_moves():
    """Weights of other shapes are where it begins again."""
    schedule = WhenSettled(0.5, threshold=1e-9, latest=1.0)
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    trigger = run(schedule, PATH[:3])[1]
    trigger.progress.end_epoch()
    trigger.due(model)
    assert trigger._movement.moves == []


def test_units_leave_in_fit_once_weights_have_settled():
    """At a rate of zero they are settled after three epochs, by any means."""
    x = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.1, 0.0])
    model.compile(keras.optimizers.SGD(decay), "mse")
    pruning = ka.callbacks.SaliencyPruning(
        "snap", schedule=WhenSettled(0.5, latest=1.0), data=(x, x[:, :1])
    )
    history = model.fit(
        x, x[:, :1], batch_size=16, epochs=6, callbacks=[pruning], verbose=0
    ).history
    assert history["units/hidden"] == [4, 4, 2, 2, 2, 2]

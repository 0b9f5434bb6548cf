"""Events come due once, in order, and none that lies in the past."""

import pytest

from keras_apoptosis.schedules import (
    EndOfTraining,
    EveryEpoch,
    EverySteps,
    Fixed,
)
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.trigger import Trigger


def run(schedule, epochs=4, steps=4, initial_epoch=0, stop=None, at_end=False):
    """Returns which event fires after which step: `(epoch, step, event)`."""
    progress = TrainingProgress()
    trigger, found = Trigger(schedule, progress, at_end), []
    progress.begin_fit({"epochs": epochs, "steps": steps})
    trigger.begin_fit(epochs)
    for epoch in range(initial_epoch, epochs if stop is None else stop):
        progress.begin_epoch(epoch)
        trigger.begin_epoch()
        for step in range(steps):
            progress.end_step(step)
            found.append((epoch, step, trigger.due(None)))
        progress.end_epoch()
        found.append((epoch, steps, trigger.due(None)))
    found.append(("end", None, trigger.due_at_end()))
    return [each for each in found if each[2] is not None]


def test_each_once():
    # After 1, 5, 9 and 13 of 16 steps.
    expected = [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)]
    assert run(Fixed(0.25, start=1 / 16)) == expected


def test_several_that_are_overdue_become_the_last_of_them():
    # Half-way, at 5/8, 3/4 and 7/8 of one epoch that has two steps.
    assert run(Fixed(0.125, start=0.5), epochs=1, steps=2) == [
        (0, 0, 0),
        (0, 1, 3),
    ]


def test_a_resumed_training_does_not_make_up_for_the_past():
    found = run(EveryEpoch(), initial_epoch=2)
    assert found == [(2, 3, 2), (3, 3, 3)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(EndOfTraining(), [("end", None, 0)]), (EverySteps(99), [])],
)
def test_the_end_came_early(schedule, expected):
    assert run(schedule, stop=2) == expected


def test_after_numbers_of_steps():
    # After 6 and 12 of 16 steps.
    assert run(EverySteps(6)) == [(1, 1, 0), (2, 3, 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (EverySteps(6), [(1, 1, 0), (2, 3, 1), (3, 3, 2)]),
        (EverySteps(8), [(1, 3, 0), (3, 3, 1)]),  # One event, not two.
        (Fixed(0.5, start=0.5), [(1, 3, 0), (3, 3, 1)]),
    ],
)
def test_an_event_at_the_end_in_any_case(schedule, expected):
    assert run(schedule, at_end=True) == expected
    early = run(schedule, at_end=True, stop=2)
    assert early == [expected[0], ("end", None, 1)]

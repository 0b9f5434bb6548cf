"""Progress is counted right however a training is called."""

import pytest

from keras_apoptosis.training.progress import TrainingProgress


def run(progress, epochs, steps, known=True, initial_epoch=0, per_call=1):
    """Plays a call of `fit` and returns the fractions after each step."""
    found = []
    progress.begin_fit({"epochs": epochs, "steps": steps if known else None})
    for epoch in range(initial_epoch, epochs):
        progress.begin_epoch(epoch)
        for last in range(per_call - 1, steps, per_call):
            progress.end_step(last)
            found.append(progress.fraction)
        progress.end_epoch()
        found.append(progress.fraction)
    return found


def test_known_length():
    found = run(TrainingProgress(), epochs=2, steps=2)
    assert found == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


def test_unknown_length_counts_from_the_second_epoch():
    found = run(TrainingProgress(), epochs=2, steps=2, known=False)
    assert found == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]


def test_steps_per_execution():
    found = run(TrainingProgress(), epochs=1, steps=4, per_call=2)
    assert found == [0.5, 1.0, 1.0]


def test_initial_epoch():
    found = run(TrainingProgress(), epochs=4, steps=1, initial_epoch=2)
    assert found == [0.75, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("counts_on", [True, False])
def test_several_calls(counts_on):
    progress = TrainingProgress(total_epochs=4)
    first = run(progress, epochs=2, steps=1)
    if counts_on:
        second = run(progress, epochs=2, steps=1)
    else:
        second = run(progress, epochs=4, steps=1, initial_epoch=2)
    assert first[-1] == 0.5
    assert second == [0.75, 0.75, 1.0, 1.0]


def test_several_calls_without_a_total_are_trainings_of_their_own():
    progress = TrainingProgress()
    assert run(progress, 1, 1)[-1] == 1.0
    assert run(progress, 2, 1) == [0.5, 0.5, 1.0, 1.0]


def test_steps_left():
    progress = TrainingProgress()
    progress.begin_fit({"epochs": 3, "steps": 10})
    progress.begin_epoch(0)
    progress.end_step(3)
    assert progress.steps_left == 26


def test_total_epochs_is_checked():
    with pytest.raises(ValueError, match="Received: total_epochs=0"):
        TrainingProgress(total_epochs=0)

"""Tells which events of a schedule are due while a training goes on."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.schedules import EventSchedule, WhenSettled
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.settling import WeightMovement


class Trigger:
    """Fires the events of a schedule, each once, as they come due.

    Args:
        schedule: When the events fire: at fractions of the training, at the
            ends of epochs, after numbers of steps, or once the weights have
            settled.
        progress: How far the training has come.
        at_end: Whether an event fires when the training ends, whatever the
            schedule says.

    Attributes:
        times: The times of the events, as fractions of the training, where
            the schedule knows them.
    """

    def __init__(
        self,
        schedule: EventSchedule,
        progress: TrainingProgress,
        at_end: bool = False,
    ):
        self.schedule = schedule
        self.progress = progress
        self.at_end = at_end
        self.times: tuple[float, ...] = ()
        self._next = 0
        self._begun = False
        self._ended = False  # The event at the end has fired.
        self._resumed = False
        self._movement = (
            WeightMovement() if isinstance(schedule, WhenSettled) else None
        )
        self._measured = 0  # Epochs whose movement was measured.

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {
            "next": self._next,
            "measured": self._measured,
            "movement": self._movement and self._movement.get_state(),
            "progress": self.progress.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self._next = state["next"]
        self._resumed = True
        self._measured = state["measured"]
        if self._movement is not None:
            self._movement.set_state(state["movement"])
        self.progress.set_state(state["progress"])

    def begin_fit(self, total_epochs: int) -> None:
        """Prepares for a call of `fit`.

        Args:
            total_epochs: Epochs of the whole training.

        Raises:
            ValueError: If the schedule does not fit the training.
        """
        self.times = self.schedule.times(total_epochs)
        self._begun = False

    def begin_epoch(self) -> None:
        """Takes up an epoch, once `progress` knows which one it is."""
        if self._begun:
            return
        self._begun = True
        self._ended = False
        if self._resumed:
            self._resumed = False
            return
        if self._movement is None:
            # Events that lie before the beginning are not made up for.
            self._next = self._count()
        elif not self.progress.epoch:
            self._movement.reset()
            self._next = self._measured = 0

    def due(self, model: keras.Model) -> int | None:
        """Returns the event that is due; the last, if there are several.

        Args:
            model: The model that is trained.
        """
        if self._movement is not None:
            return self._once_settled(model, self._movement)
        if self.at_end and self.progress.fraction >= 1:
            return self._finish()
        count = self._count()
        if self._ended or count <= self._next:
            return None
        self._next = count
        return count - 1

    def due_at_end(self) -> int | None:
        """Returns the event at the end of a training that ends early."""
        if self.at_end:
            return self._finish()
        last = 1 if self._movement is not None else len(self.times)
        if self._next >= last or not self.times or self.times[-1] < 1:
            return None
        self._next = last
        return last - 1

    def _once_settled(
        self, model: keras.Model, movement: WeightMovement
    ) -> int | None:
        over = self.progress.epoch > self._measured and not self.progress.step
        if self._next or not over:
            return None
        self._measured = self.progress.epoch
        movement.measure(model)
        late = self.progress.fraction + 1e-9 >= self.times[-1]
        schedule = self.schedule
        settled = isinstance(schedule, WhenSettled) and schedule.settled(
            movement.moves
        )
        if not (late or settled):
            return None
        movement.forget_weights()
        self._next = 1
        return 0

    def _finish(self) -> int | None:
        if self._ended:
            return None
        self._ended = True
        self._next += 1
        return self._next - 1

    def _count(self) -> int:
        return self.schedule.events_until(
            self.progress.fraction,
            self.progress.steps_done,
            self.progress.epochs,
        )

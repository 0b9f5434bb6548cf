"""An event at the end of the first epoch in which weights hardly moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.schedules import EventSchedule, WhenSettled
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.trigger import Agenda


def agenda_of(
    schedule: EventSchedule,
    progress: TrainingProgress,
    model: Callable[[], keras.Model],
) -> Agenda:
    """The agenda that a schedule needs.

    Args:
        schedule: When the events fire.
        progress: How far the training has come.
        model: Gives the model that is trained, once it is.
    """
    if isinstance(schedule, WhenSettled):
        return SettlingAgenda(schedule, progress, model)
    return Agenda(schedule, progress)


class SettlingAgenda(Agenda):
    """Gives out one event, when the distance of the weights settles.

    It stands in for an `Agenda` where a model says itself when the moment has
    come, which a schedule, that knows no model, cannot.

    Args:
        schedule: How settled the weights have to be.
        progress: How far the training has come.
        model: Gives the model that is trained.
    """

    def __init__(
        self,
        schedule: WhenSettled,
        progress: TrainingProgress,
        model: Callable[[], keras.Model],
    ):
        super().__init__(schedule, progress)
        self.model = model
        self._start_anew()

    def get_state(self) -> dict[str, Any]:
        return {
            **super().get_state(),
            "moves": self.moves,
            "reference": self._reference,
            "distance": self._distance,
            "epoch": self._epoch,
            "fired": self._fired,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.moves = list(state["moves"])
        self._reference = list(state["reference"])
        self._distance = state["distance"]
        self._epoch = state["epoch"]
        self._fired = state["fired"]

    def begin_epoch(self) -> None:
        goes_on = self._begun or self._resumed is not None
        super().begin_epoch()
        if not (goes_on or self.progress.epoch):
            self._start_anew()

    def due(self) -> int | None:
        at_end_of_epoch = self.progress.epoch > self._epoch
        if self._fired or not at_end_of_epoch or self.progress.step:
            return None
        self._epoch = self.progress.epoch
        self._measure()
        late = self.progress.fraction + 1e-9 >= self.times[-1]
        if not (late or self.schedule.settled(self.moves)):
            return None
        return self._fire()

    def due_at_the_end(self) -> int | None:
        if self._fired or self.times[-1] < 1:
            return None
        return self._fire()

    def _start_anew(self) -> None:
        self.moves: list[float] = []  # Of each epoch since the first.
        self._reference: list[np.ndarray] = []
        self._distance = 0.0
        self._epoch = 0
        self._fired = False

    def _fire(self) -> int:
        self._fired = True
        self._reference = []  # As large as the model.
        return 0

    def _measure(self) -> None:
        """Takes down by how much the distance to the first weights changed."""
        backend.sync_from_jax(self.model())
        # On PyTorch what is peeked at goes on changing with the weights.
        weights = [
            np.array(backend.peek(weight))
            for weight in self.model().trainable_variables
        ]
        if [w.shape for w in weights] != [r.shape for r in self._reference]:
            # The first time, or another callback has removed units.
            self._reference, self._distance, self.moves = weights, 0.0, []
            return
        pairs = list(zip(weights, self._reference, strict=True))
        distance = _norm(w - r for w, r in pairs)
        distance /= max(_norm(r for _, r in pairs), 1e-12)
        self.moves.append(abs(distance - self._distance))
        self._distance = distance


def _norm(arrays: Any) -> float:
    return float(np.sqrt(sum(np.sum(a.astype("float64") ** 2) for a in arrays)))

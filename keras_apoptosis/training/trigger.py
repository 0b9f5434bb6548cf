"""Which events of a schedule are due while a training goes on."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_apoptosis.schedules import EventSchedule
from keras_apoptosis.training.progress import TrainingProgress


class Agenda:
    """Gives the events of a schedule out, each once, as they come due.

    Args:
        schedule: When the events fire.
        progress: How far the training has come.
    """

    def __init__(self, schedule: EventSchedule, progress: TrainingProgress):
        self.schedule = schedule
        self.progress = progress
        self.times: tuple[float, ...] = ()
        self._next = 0
        self._begun = False
        self._resumed: int | None = None

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"next": self._next, "progress": self.progress.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._resumed = state["next"]
        self.progress.set_state(state["progress"])

    def begin_fit(self) -> None:
        self._begun = False

    def begin_epoch(self) -> None:
        """To be called once `progress` knows which epoch begins."""
        if not self._begun:
            self._begun = True
            self.times = self.schedule.times(self.progress.epochs)
            # What a resumed training has behind it is not made up for.
            self._next = self._count_until(self.progress.fraction)
            if self._resumed is not None:
                self._next, self._resumed = self._resumed, None

    def due(self) -> int | None:
        """The event that is due; the last, where there are several."""
        count = self._count_until(self.progress.fraction + 1e-9)
        if count <= self._next:
            return None
        self._next = count
        return count - 1

    def due_at_the_end(self) -> int | None:
        """An event for the end of a training that came early."""
        if self._next == len(self.times) or self.times[-1] < 1:
            return None
        self._next = len(self.times)
        return self._next - 1

    def _count_until(self, fraction: float) -> int:
        return int(np.searchsorted(self.times, fraction, "right"))

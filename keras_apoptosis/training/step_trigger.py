"""Events every so many steps, and one at the end."""

from __future__ import annotations

from typing import Any

from keras_apoptosis.training.progress import TrainingProgress


class StepAgenda:
    """Gives out events at equal intervals, and one at the end.

    It stands in for an `Agenda` where the interval is a number of steps,
    which no schedule in fractions can say as long as the number of steps of
    an epoch is not known.

    Args:
        interval: A number of steps (integer), or a fraction of the whole
            training (float).
        progress: How far the training has come.
    """

    times: tuple[float, ...] = ()

    def __init__(self, interval: int | float, progress: TrainingProgress):
        self.interval = interval
        self.progress = progress
        self._done = 0
        self._begun = False
        self._ended = False

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"done": self._done, "progress": self.progress.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._done = state["done"]
        self.progress.set_state(state["progress"])

    def begin_fit(self) -> None:
        self._begun = False

    def begin_epoch(self) -> None:
        """To be called once `progress` knows which epoch begins."""
        if not self._begun:
            self._begun = True
            # What a resumed training has behind it is not made up for.
            self._done = self._count()
            self._ended = False

    def due(self) -> int | None:
        """The number of the event that is due."""
        if self.progress.fraction >= 1 and not self._ended:
            return self._end()
        count = self._count()
        if self._ended or count <= self._done:
            return None
        self._done = count
        return count - 1

    def due_at_the_end(self) -> int | None:
        """An event for the end of a training that came early."""
        return None if self._ended else self._end()

    def _end(self) -> int:
        self._ended = True
        self._done += 1
        return self._done - 1

    def _count(self) -> int:
        if isinstance(self.interval, int):
            return self.progress.steps_done // self.interval
        return int(self.progress.fraction / self.interval + 1e-9)

"""Tells how far a training has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_apoptosis.utils.checks import check_count


class TrainingProgress:
    """Counts a training as a fraction, from what callbacks are told.

    It holds with data of unknown length (the first epoch then counts only at
    its end), with `initial_epoch`, with several steps an execution, and over
    several calls of `fit`.

    Args:
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`; `None` for those of each call. A call
            that starts at epoch 0 then counts on from the last one; one
            with an `initial_epoch` says itself where it stands.
    """

    def __init__(self, total_epochs: int | None = None):
        if total_epochs is not None:
            check_count("total_epochs", total_epochs)
        self.total_epochs = total_epochs
        self.steps_per_epoch: int | None = None
        self.epoch = 0  # Epochs of the whole training that are done.
        self.step = 0  # Steps of the present epoch that are done.
        self._epochs_of_fit = 1
        self._first = True
        self._offset = 0
        self._steps_before = 0  # Steps of the epochs that are done.
        self._resumed: dict[str, Any] = {}

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return {
            "epoch": self.epoch,
            "steps": self.steps_per_epoch,
            "steps_before": self._steps_before,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self.epoch = state["epoch"]
        self._steps_before = state["steps_before"]
        self._resumed = dict(state)

    def begin_fit(self, params: Mapping[str, Any]) -> None:
        self._epochs_of_fit = params.get("epochs") or 1
        # Of data of unknown length an epoch that is over has told it.
        known = self._resumed.pop("steps", None)
        self.steps_per_epoch = params.get("steps") or known
        self._first = True

    def begin_epoch(self, epoch: int) -> None:
        if self._first:
            goes_on = self.total_epochs is not None and epoch == 0
            self._offset = self.epoch if goes_on else 0
            self._first = False
            if not goes_on:
                steps = self.steps_per_epoch or 0
                self._steps_before = epoch * steps
        self.epoch = self._offset + epoch
        self.step = 0

    def end_step(self, step: int) -> None:
        """Takes the index, in its epoch, of the last step that was done."""
        self.step = step + 1

    def end_epoch(self) -> None:
        self.steps_per_epoch = self.steps_per_epoch or self.step or None
        self.epoch += 1
        self._steps_before += self.step
        self.step = 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole training."""
        return self.total_epochs or self._epochs_of_fit

    @property
    def fraction(self) -> float:
        """The part of the training that is done, from 0 to 1."""
        part = self.step / self.steps_per_epoch if self.steps_per_epoch else 0
        return min(1.0, (self.epoch + min(part, 1.0)) / self.epochs)

    @property
    def steps_done(self) -> int:
        """Steps of the whole training that are done."""
        return self._steps_before + self.step

    @property
    def per_step(self) -> float:
        """The part of the training that one step is; 0 if not yet known."""
        if not self.steps_per_epoch:
            return 0.0
        return 1 / (self.epochs * self.steps_per_epoch)

    @property
    def steps_left(self) -> int | None:
        """Steps until the end, or `None` while an epoch's are not known."""
        if self.steps_per_epoch is None:
            return None
        done = self.epoch * self.steps_per_epoch + self.step
        return max(0, self.epochs * self.steps_per_epoch - done)

"""What all callbacks share that remove units at scheduled times."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import keras

from keras_apoptosis.accounting.flops import flops, parameters
from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.graph import UnitGroup, analyse
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.training.masking import masked_count
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.settling_trigger import agenda_of
from keras_apoptosis.training.step_clock import StepClock


class ScheduledSurgery(keras.callbacks.Callback):
    """Base of callbacks that remove units while a model trains.

    A subclass says what goes, in `operate`; when, and everything that is
    reported, is here.

    Args:
        schedule: When; see `ka.schedules`.
        layers: Names of groups, or of layers that produce them, to which the
            callback is limited. `None` for all.
        exclude: Names of groups or layers to leave alone.
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`.
        verbose: Whether to print what each event did; `"auto"` follows
            `fit`.
    """

    def __init__(
        self,
        schedule: Any,
        *,
        layers: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        total_epochs: int | None = None,
        verbose: bool | str = "auto",
    ):
        super().__init__()
        self.schedule = schedule
        self.layers = None if layers is None else tuple(layers)
        self.exclude = tuple(exclude)
        self.verbose = verbose
        self.history: list[Event] = []
        self._progress = TrainingProgress(total_epochs)
        self._agenda = agenda_of(schedule, self._progress, lambda: self.model)
        self._clock = StepClock()
        self._logged: dict[str, float] = {}

    def operate(self, degree: float) -> tuple[Report | None, str]:
        """Removes units of `self.model`.

        Args:
            degree: How aggressively.

        Returns:
            What was done, or `None` with the reason.
        """
        raise NotImplementedError

    def degree_at(self, event: int, events: int, progress: float) -> float:
        """How aggressive an event is."""
        raise NotImplementedError

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps; see `ka.callbacks.Checkpoint`."""
        return {
            "agenda": self._agenda.get_state(),
            "history": [dataclasses.asdict(event) for event in self.history],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._agenda.set_state(state["agenda"])
        self.history = [Event(**event) for event in state["history"]]

    def groups(self) -> list[UnitGroup]:
        """The model's groups that the callback may shrink.

        Raises:
            ValueError: If a name is unknown or there is no such group.
        """
        return [group for _, group in self.numbered_groups()]

    def numbered_groups(self) -> list[tuple[int, UnitGroup]]:
        """The same with the groups' numbers."""
        groups = analyse(self.model).groups
        names = {name: group for group in groups for name in _names(group)}
        for name in (*(self.layers or ()), *self.exclude):
            if name not in names:
                raise ValueError(
                    "Expected names of unit groups or of layers that produce "
                    f"one: {', '.join(names)}. Received: '{name}'"
                )
        chosen = [
            (number, group)
            for number, group in enumerate(groups)
            if group.removable
            and (self.layers is None or _names(group) & {*self.layers})
            and not _names(group) & {*self.exclude}
        ]
        if not chosen:
            reasons = "\n".join(
                f"  {g.name}: {g.reason or 'left out'}" for g in groups
            )
            raise ValueError(
                f"Model '{self.model.name}' has no units that may leave:\n"
                f"{reasons or '  it has no unit groups'}"
            )
        return chosen

    def on_train_begin(self, logs: Any = None) -> None:
        self.groups()  # Complain before the training, not in its middle.
        self._progress.begin_fit(self.params)
        self._agenda.begin_fit()
        self._clock = StepClock()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._progress.begin_epoch(epoch)
        self._agenda.begin_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._clock.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._clock.stop()
        self._progress.end_step(batch)
        self._fire_if_due()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._progress.end_epoch()
        self._fire_if_due()
        if logs is not None:
            logs["parameters"] = parameters(self.model)
            for group in self.groups():
                logs[f"units/{group.name}"] = group.size
            logs.update(self._logged)
        self._logged = {}

    def on_train_end(self, logs: Any = None) -> None:
        if self.model.stop_training:
            event = self._agenda.due_at_the_end()
            if event is not None:
                self._fire(event)

    def _work(self) -> int:
        """FLOPs of a forward pass; 0 where sizes are not known."""
        try:
            return flops(self.model)
        except ValueError:
            return 0

    def _fire_if_due(self) -> None:
        event = self._agenda.due()
        if event is not None:
            self._fire(event)

    def _fire(self, event: int) -> None:
        before = {group.name: group.size for group in self.groups()}
        size = parameters(self.model)
        masked = masked_count(self.model)
        work = self._work()
        progress = self._progress.fraction
        degree = float(self.degree_at(event, len(self._agenda.times), progress))
        start = time.perf_counter()
        report, reason = self.operate(degree)
        seconds = time.perf_counter() - start
        after = {group.name: group.size for group in self.groups()}
        saving = None
        if report is not None:
            share = 1 - self._work() / work if work else 0.0
            left = self._progress.steps_left if work else None
            saving = self._clock.saving(share, left)
            self._clock.retrace()
        found = Event(
            epoch=self._progress.epoch - (not self._progress.step),
            step=self._progress.step,
            progress=progress,
            degree=degree,
            units={name: (size, after[name]) for name, size in before.items()},
            parameters=(size, parameters(self.model)),
            seconds=seconds,
            residuals={
                change.name: change.residual
                for change in (report.groups if report else ())
                if change.residual is not None
            },
            skipped=reason,
            saving=saving,
            notes=report.notes if report else (),
            masked=(masked, masked_count(self.model)),
        )
        self.history.append(found)
        name = _snake(type(self).__name__)
        self._logged[f"{name}_seconds"] = seconds
        if found.residuals:
            self._logged[f"{name}_residual"] = max(found.residuals.values())
        loud = self.verbose
        if loud == "auto":
            loud = self.params.get("verbose", 1)
        if loud:
            print(f"\n{type(self).__name__} {found}", flush=True)


def _names(group: UnitGroup) -> set[str]:
    return {group.name, *(layer.name for layer in group.producers)}


def _snake(name: str) -> str:
    return "".join(
        f"_{letter.lower()}" if letter.isupper() else letter for letter in name
    ).lstrip("_")

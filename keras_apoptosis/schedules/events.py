"""Schedules of events."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import numbers
import random
from collections.abc import Iterable
from typing import Any

import keras

from keras_apoptosis.utils.checks import check_count, check_that
from keras_apoptosis.utils.serialization import Configurable


class EventSchedule(Configurable, abc.ABC):
    """Base class of schedules of events. Subclasses override `times`."""

    def __post_init__(self) -> None:
        """Checks that what has to be a number is one."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.type in ("int", "float"):
                value = getattr(self, field.name)
                ok = isinstance(value, numbers.Real) and math.isfinite(value)
                check_that(field.name, value, ok, "a finite number")

    @abc.abstractmethod
    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        """Returns the times of the events, as fractions of the training.

        Args:
            total_epochs: Epochs of the whole training. Only schedules that
                count in epochs need it.

        Returns:
            Fractions above 0 and up to 1, strictly increasing.
        """

    def sparsity_at(self, event: int) -> float | None:
        """Returns the sparsity to reach at an event.

        Args:
            event: Integer, counted from 0.

        Returns:
            A number above 0 and below 1; `None` if the schedule only says
            when.
        """
        return None

    def events_until(
        self, fraction: float, steps: int, total_epochs: int
    ) -> int:
        """Counts the events that are due by a moment of the training.

        Args:
            fraction: The fraction of the training that is done.
            steps: How many steps of the training are done.
            total_epochs: Epochs of the whole training.
        """
        times = self.times(total_epochs)
        return sum(time <= fraction + 1e-9 for time in times)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class QuarterLife(EventSchedule):
    """Fires one event, when a quarter of the training is done.

    The initial point that the paper recommends (Neuron apoptosis, section
    IV-A). As `start` of another schedule it is the first event of several.

    Example:

    >>> Logarithmic(start=QuarterLife()).times()
    (0.25, 0.5)
    """

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (0.25,)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class HalfLife(EventSchedule):
    """Fires one event, half-way (Neuron apoptosis, section IV-A)."""

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (0.5,)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class EndOfTraining(EventSchedule):
    """Fires one event, after the last step (Neuron apoptosis, section IV-A).

    It saves no training time, and no training repairs the loss of accuracy.
    """

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (1.0,)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Random(EventSchedule):
    """Fires events at random moments (Neuron apoptosis, section IV-A).

    They follow from `seed` alone: the same in each run and on each worker.

    Args:
        low: Number from 0 to below `high`. The moments are uniform between
            `low` and `high`.
        high: Number above `low` and up to 1.
        count: Integer, at least 1: how many random moments.
        start: One more event, before the random ones, which then come after
            it: a fraction or a schedule such as `QuarterLife()`.
        seed: Integer.

    Example:

    >>> times = Random(count=3, start=QuarterLife(), seed=1).times()
    >>> times[0], len(times)
    (0.25, 4)
    """

    low: float = 0.0
    high: float = 1.0
    count: int = 1
    start: float | EventSchedule | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_that("low", self.low, 0 <= self.low < 1, "from 0 to below 1")
        low = max((self.low, *self._first()))
        ok = low + 1e-6 <= self.high <= 1
        check_that("high", self.high, ok, f"above {low:g} and up to 1")
        check_count("count", self.count)

    def _first(self) -> tuple[float, ...]:
        return () if self.start is None else (moment_of(self.start),)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        first = self._first()
        low = max((self.low, *first))
        # The numbers of `random()` are promised to be the same in every
        # version of Python; a set, since two of them might be equal.
        draw = random.Random(self.seed).random
        drawn = {low + (self.high - low) * draw() for _ in range(self.count)}
        return first + tuple(sorted(drawn - {low}))


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Fixed(EventSchedule):
    """Fires events at a fixed interval (Neuron apoptosis, section IV-B).

    Args:
        interval: Number above 0 and up to 1: the time between events.
        start: When the first event fires, whatever `end` is: a fraction
            above 0 and up to 1, or a schedule such as `QuarterLife()`.
        end: Number from `start` to 1. Later events fire before it, none at
            it: training could no longer repair its loss of accuracy.

    Example:

    >>> Fixed(interval=0.25, start=HalfLife()).times()
    (0.5, 0.75)
    """

    interval: float = 0.1
    start: float | EventSchedule = 0.25
    end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = 1e-6 <= self.interval <= 1
        check_that("interval", self.interval, ok, "from 0.000001 to 1")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = moment_of(self.start)
        steps = (k * self.interval for k in itertools.count())
        return _before(self.end, (start + step for step in steps))


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Logarithmic(EventSchedule):
    """Fires events equally spaced in log time (Neuron apoptosis, section IV-B).

    They fire at `start`, `ratio * start`, `ratio**2 * start` and so on: few,
    and mostly early, as the loss falls about exponentially.

    Args:
        start: When the first event fires, whatever `end` is: a fraction
            above 0 and up to 1, or a schedule such as `QuarterLife()`.
        ratio: Number above 1: the ratio of successive times.
        end: Number from `start` to 1. Later events fire before it, none at
            it: training could no longer repair its loss of accuracy.

    Example:

    >>> Logarithmic(start=0.125, ratio=2.0).times()
    (0.125, 0.25, 0.5)
    """

    start: float | EventSchedule = 0.25
    ratio: float = 2.0
    end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = 1.000001 <= self.ratio < math.inf
        check_that("ratio", self.ratio, ok, "finite and at least 1.000001")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = moment_of(self.start)
        powers = (self.ratio**k for k in itertools.count())
        return _before(self.end, (start * power for power in powers))


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class EveryEpoch(EventSchedule):
    """Fires an event at the end of every epoch (Synaptic stripping, III).

    Args:
        n: Integer, at least 1: of every n-th epoch instead.

    Example:

    >>> EveryEpoch().times(total_epochs=4)
    (0.25, 0.5, 0.75, 1.0)
    >>> EveryEpoch(2).times(total_epochs=4)
    (0.5, 1.0)
    """

    n: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n", self.n)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        check_count("total_epochs", total_epochs)
        assert total_epochs is not None
        epochs = range(self.n, total_epochs + 1, self.n)
        return tuple(epoch / total_epochs for epoch in epochs)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class EverySteps(EventSchedule):
    """Fires an event after every so many steps (Demon pruning, algorithm 1).

    Args:
        steps: Integer, at least 1: from one event to the next.

    Example:

    >>> EverySteps(100).events_until(0.5, steps=250, total_epochs=4)
    2
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return ()  # Unknown as long as the number of steps is.

    def events_until(
        self, fraction: float, steps: int, total_epochs: int
    ) -> int:
        return steps // self.steps


def moment_of(start: float | EventSchedule) -> float:
    """Returns the fraction of the training that `start` means."""
    if isinstance(start, EventSchedule):
        return start.times()[0]
    number: Any = start
    ok = isinstance(number, numbers.Real) and 0 < float(number) <= 1
    check_that("start", start, ok, "a number above 0 and up to 1")
    return start


def _before(end: float, moments: Iterable[float]) -> tuple[float, ...]:
    """Returns the first of `moments`, and the later ones before `end`."""
    moments = iter(moments)
    first = next(moments)
    # Rounding must not let 0.3 + 7 * 0.1 slip in before 1.
    later = itertools.takewhile(lambda moment: moment < end - 1e-9, moments)
    return first, *later


def _check_end(end: float, start: float | EventSchedule) -> None:
    low = moment_of(start)
    check_that("end", end, low <= end <= 1, f"from {low:g} (`start`) to 1")

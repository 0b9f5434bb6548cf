"""When events fire."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import random
from collections.abc import Iterable

from keras_apoptosis.utils.checks import check_count, check_that


class EventSchedule(abc.ABC):
    """When events fire. Subclasses say it in `times`."""

    @abc.abstractmethod
    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        """The moments of the events, as fractions of the whole training.

        Args:
            total_epochs: Epochs of the whole training. Only schedules that
                count in epochs need it.

        Returns:
            Fractions above 0 and up to 1, strictly increasing.
        """

    def amount(self, event: int) -> float | None:
        """How much goes at an event (counted from 0); `None` if not said."""
        return None


@dataclasses.dataclass(frozen=True)
class QuarterLife(EventSchedule):
    """One event, when a quarter of the training is done.

    The initial point that the paper recommends (Neuron apoptosis, section
    IV-A). As `start` of another schedule it is the first event of several.

    Example:

    >>> Logarithmic(start=QuarterLife()).times()
    (0.25, 0.5)
    """

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (0.25,)


@dataclasses.dataclass(frozen=True)
class HalfLife(EventSchedule):
    """One event, half-way (Neuron apoptosis, section IV-A)."""

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (0.5,)


@dataclasses.dataclass(frozen=True)
class EndOfTraining(EventSchedule):
    """One event, after the last step (Neuron apoptosis, section IV-A).

    It saves no training time, and no training repairs what it costs.
    """

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (1.0,)


@dataclasses.dataclass(frozen=True)
class Random(EventSchedule):
    """Events at random moments (Neuron apoptosis, sections IV-A and IV-B).

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


@dataclasses.dataclass(frozen=True)
class Fixed(EventSchedule):
    """Events at a fixed interval (Neuron apoptosis, section IV-B).

    Args:
        interval: Number above 0 and up to 1: the time between events.
        start: When the first event fires, whatever `end` is: a fraction
            above 0 and up to 1, or a schedule such as `QuarterLife()`.
        end: Number from `start` to 1. Later events fire before it, none at
            it: training could no longer repair what that one costs.

    Example:

    >>> Fixed(interval=0.25, start=HalfLife()).times()
    (0.5, 0.75)
    """

    interval: float = 0.1
    start: float | EventSchedule = 0.25
    end: float = 1.0

    def __post_init__(self) -> None:
        ok = 1e-6 <= self.interval <= 1
        check_that("interval", self.interval, ok, "from 0.000001 to 1")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = moment_of(self.start)
        steps = (k * self.interval for k in itertools.count())
        return _before(self.end, (start + step for step in steps))


@dataclasses.dataclass(frozen=True)
class Logarithmic(EventSchedule):
    """Events equally spaced in log time (Neuron apoptosis, section IV-B).

    They fire at `start`, `ratio * start`, `ratio**2 * start` and so on: few,
    and mostly early, as the loss falls about exponentially.

    Args:
        start: When the first event fires, whatever `end` is: a fraction
            above 0 and up to 1, or a schedule such as `QuarterLife()`.
        ratio: Number above 1: the ratio of successive times.
        end: Number from `start` to 1. Later events fire before it, none at
            it: training could no longer repair what that one costs.

    Example:

    >>> Logarithmic(start=0.125, ratio=2.0).times()
    (0.125, 0.25, 0.5)
    """

    start: float | EventSchedule = 0.25
    ratio: float = 2.0
    end: float = 1.0

    def __post_init__(self) -> None:
        ok = 1.000001 <= self.ratio < math.inf
        check_that("ratio", self.ratio, ok, "finite and at least 1.000001")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = moment_of(self.start)
        powers = (self.ratio**k for k in itertools.count())
        return _before(self.end, (start * power for power in powers))


@dataclasses.dataclass(frozen=True)
class EveryEpoch(EventSchedule):
    """An event at the end of every epoch (Synaptic stripping, section III).

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
        check_count("n", self.n)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        check_count("total_epochs", total_epochs)
        epochs = range(self.n, total_epochs + 1, self.n)
        return tuple(epoch / total_epochs for epoch in epochs)


def moment_of(start: float | EventSchedule) -> float:
    """The fraction of the training that `start` means."""
    if isinstance(start, EventSchedule):
        return start.times()[0]
    check_that("start", start, 0 < start <= 1, "above 0 and up to 1")
    return start


def _before(end: float, moments: Iterable[float]) -> tuple[float, ...]:
    """The first of `moments`, and the later ones that lie before `end`."""
    moments = iter(moments)
    first = next(moments)
    # Rounding must not let 0.3 + 7 * 0.1 slip in before 1.
    later = itertools.takewhile(lambda moment: moment < end - 1e-9, moments)
    return first, *later


def _check_end(end: float, start: float | EventSchedule) -> None:
    low = moment_of(start)
    check_that("end", end, low <= end <= 1, f"from {low:g} (`start`) to 1")

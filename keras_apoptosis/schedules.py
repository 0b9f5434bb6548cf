"""When something happens during training, and how much of it.

Small frozen objects that know no model. There are two kinds, with one method
each: an `EventSchedule` gives the `times` at which events fire, a
`ValueSchedule` is called with how far things have come. Both count in
fractions of the whole training, so that they need not change with its length.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops


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
        _check("low", self.low, 0 <= self.low < 1, "from 0 to below 1")
        low = max((self.low, *self._first()))
        ok = low + 1e-6 <= self.high <= 1
        _check("high", self.high, ok, f"above {low:g} and up to 1")
        _check_count("count", self.count)

    def _first(self) -> tuple[float, ...]:
        return () if self.start is None else (_moment(self.start),)

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
        _check("interval", self.interval, ok, "from 0.000001 to 1")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = _moment(self.start)
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
        _check("ratio", self.ratio, ok, "finite and at least 1.000001")
        _check_end(self.end, self.start)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        start = _moment(self.start)
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
        _check_count("n", self.n)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        _check_count("total_epochs", total_epochs)
        epochs = range(self.n, total_epochs + 1, self.n)
        return tuple(epoch / total_epochs for epoch in epochs)


@dataclasses.dataclass(frozen=True)
class AtEpochs(EventSchedule):
    """Events at the end of chosen epochs, each with an amount.

    Epochs count from 1, as in Keras' progress output and in the thesis
    (tables 2.2 and 4.2). Those beyond the end of the training do not come.

    Args:
        amounts: Mapping from epochs (integers, at least 1) to amounts
            (above 0 and below 1).

    Example:

    >>> schedule = AtEpochs({2: 0.1, 3: 0.2})
    >>> schedule.times(total_epochs=10), schedule.amount(1)
    ((0.2, 0.3), 0.2)
    """

    amounts: Mapping[int, float] | Iterable[tuple[int, float]]

    def __post_init__(self) -> None:
        amounts = dict(self.amounts)
        _check("amounts", self.amounts, len(amounts) > 0, "not empty")
        for epoch, amount in amounts.items():
            _check_count("epoch", epoch)
            _check("amount", amount, 0 < amount < 1, "above 0 and below 1")
        # Sorted pairs, unlike a dictionary, can be hashed.
        object.__setattr__(self, "amounts", tuple(sorted(amounts.items())))

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        _check_count("total_epochs", total_epochs)
        fractions = (epoch / total_epochs for epoch, _ in self.amounts)
        return tuple(itertools.takewhile(lambda time: time <= 1, fractions))

    def amount(self, event: int) -> float:
        return self.amounts[event][1]


@dataclasses.dataclass(frozen=True)
class OneShot(EventSchedule):
    """One event with an amount.

    Args:
        amount_to_go: Number above 0 and below 1.
        at: When it fires: a fraction above 0 and up to 1, or a schedule such
            as `HalfLife()`.

    Example:

    >>> schedule = OneShot(0.9, at=0.5)
    >>> schedule.times(), schedule.amount(0)
    ((0.5,), 0.9)
    """

    amount_to_go: float
    at: float | EventSchedule = 0.5

    def __post_init__(self) -> None:
        amount = self.amount_to_go
        _check("amount_to_go", amount, 0 < amount < 1, "above 0 and below 1")
        _moment(self.at)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (_moment(self.at),)

    def amount(self, event: int) -> float:
        return self.amount_to_go


@dataclasses.dataclass(frozen=True)
class WhenSettled(EventSchedule):
    """One event with an amount, when the weights have settled.

    The moment of EarlyCroP (Rachwan et al., "Winning the lottery ahead of
    time", 2022), which EarlySNAP shares (Demon pruning, section 4): by how
    much `‖w − w₁‖ / ‖w₁‖` changes in an epoch, where w₁ are the weights after
    the first, is small beside what it was in the second. From there on
    training is close to that of a linear model, which pruning can keep.

    Args:
        amount_to_go: Number above 0 and below 1.
        threshold: Number above 0: the part of the second epoch's change that
            a later one's has to be below. By default `0.9 − amount_to_go`, as
            the original has it, and at least 0.01: the more is to go, the
            more settled weights have to be.
        latest: Number above 0 and up to 1: the event fires at the first end
            of an epoch from there on, settled or not.

    Example:

    >>> schedule = WhenSettled(0.6, latest=0.5)
    >>> schedule.settled([1.0]), schedule.settled([1.0, 0.4, 0.2])
    (False, True)
    >>> schedule.times(total_epochs=10)  # When it may fire.
    (0.3, 0.4, 0.5)
    """

    amount_to_go: float
    threshold: float | None = None
    latest: float = 0.5

    def __post_init__(self) -> None:
        amount = self.amount_to_go
        _check("amount_to_go", amount, 0 < amount < 1, "above 0 and below 1")
        part = 1.0 if self.threshold is None else self.threshold
        ok = 0 < part < math.inf
        _check("threshold", self.threshold, ok, "None or above 0 and finite")
        ok = 0 < self.latest <= 1
        _check("latest", self.latest, ok, "above 0 and up to 1")

    def settled(self, moves: Sequence[float]) -> bool:
        """Whether weights have settled.

        Args:
            moves: The changes of the relative distance in the second epoch
                and in each one since.
        """
        part = self.threshold
        if part is None:
            part = max(0.01, 0.9 - self.amount_to_go)
        return len(moves) > 1 and moves[-1] < part * moves[0]

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        _check_count("total_epochs", total_epochs)
        last = math.ceil(self.latest * total_epochs - 1e-9)
        return tuple(
            epoch / total_epochs for epoch in range(min(3, last), last + 1)
        )

    def amount(self, event: int) -> float:
        return self.amount_to_go


@dataclasses.dataclass(frozen=True)
class Polynomial(EventSchedule):
    """Events at equal intervals, whose amounts rise fast and then slowly.

    `final (1 − (1 − (t − start) / (end − start))^power)`: the schedule of Zhu
    and Gupta, "To prune, or not to prune", 2017.

    Args:
        final: Number above 0 and below 1: the amount of the last event.
        start: Number from 0 to below `end`: where the amount is 0. The first
            event follows one interval later.
        end: Number above `start` and up to 1: when the last event fires.
        count: Integer, at least 1: how many events.
        power: Number above 0. The larger, the more goes early.

    Example:

    >>> schedule = Polynomial(0.8, start=0.0, end=0.5, count=2, power=1)
    >>> schedule.times(), schedule.amount(0), schedule.amount(1)
    ((0.25, 0.5), 0.4, 0.8)
    """

    final: float
    start: float = 0.0
    end: float = 0.5
    count: int = 10
    power: float = 3.0

    def __post_init__(self) -> None:
        ok = 0 < self.final < 1
        _check("final", self.final, ok, "above 0 and below 1")
        ok = 0 <= self.start < 1
        _check("start", self.start, ok, "from 0 to below 1")
        ok = self.start + 1e-6 <= self.end <= 1
        _check("end", self.end, ok, f"above {self.start:g} and up to 1")
        _check_count("count", self.count)
        ok = 0 < self.power < math.inf
        _check("power", self.power, ok, "above 0 and finite")

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        parts = ((event + 1) / self.count for event in range(self.count))
        return tuple(self.start + p * (self.end - self.start) for p in parts)

    def amount(self, event: int) -> float:
        left = 1 - (event + 1) / self.count
        return self.final * (1 - left**self.power)


class ValueSchedule(abc.ABC):
    """How much, as a function of how far things have come."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check(name, value, math.isfinite(value), "finite")

    @abc.abstractmethod
    def __call__(self, progress: Any) -> Any:
        """The value at `progress`.

        Args:
            progress: Number from 0 to 1: the fraction of the training that
                is done or, where the value belongs to events, `e / (n - 1)`
                for event `e` of `n`. Also an array, or a tensor within a
                compiled step; the value is then one, too.
        """


@dataclasses.dataclass(frozen=True)
class Constant(ValueSchedule):
    """Always the same value: the paper's default (section IV-C).

    Example:

    >>> Constant(1.75)(0.5)
    1.75
    """

    value: float

    def __call__(self, progress: Any) -> Any:
        return self.value + 0 * progress


@dataclasses.dataclass(frozen=True)
class LinearDegree(ValueSchedule):
    """A degree that changes linearly (Neuron apoptosis, section IV-C).

    The numbers say whether towards aggressive or conservative: a falling
    factor, or a rising tolerance, is increasingly aggressive.

    Args:
        first: Number, the degree of the first event.
        last: Number, the degree of the last event.

    Example:

    >>> degree = LinearDegree(first=2.0, last=1.5)
    >>> [degree(event / 2) for event in range(3)]
    [2.0, 1.75, 1.5]
    """

    first: float
    last: float

    def __call__(self, progress: Any) -> Any:
        return self.first * (1 - progress) + self.last * progress


@dataclasses.dataclass(frozen=True)
class OneCycle(ValueSchedule):
    """Linear warmup from 0 to a peak, then cosine decay to 0.

    For regularization strength and noise variance (Demon pruning, sections
    3.1 and 3.2). Before 0 and after 1 it stays at its ends.

    Args:
        peak: Number, at least 0.
        warmup: Number from 0 to 1: the share of the training before the
            peak, which the paper does not give. 0 leaves the cosine decay
            alone, one of the alternatives in the paper's figure 4.

    Example:

    >>> strength = OneCycle(peak=2.0, warmup=0.5)
    >>> [round(float(strength(p)), 3) for p in (0, 0.25, 0.5, 0.75, 1)]
    [0.0, 1.0, 2.0, 1.0, 0.0]
    """

    peak: float
    warmup: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("peak", self.peak, self.peak >= 0, "at least 0")
        _check("warmup", self.warmup, 0 <= self.warmup <= 1, "from 0 to 1")

    def __call__(self, progress: Any) -> Any:
        xp = ops if ops.is_tensor(progress) else np
        value = self.peak
        if self.warmup > 0:
            value = value * xp.clip(progress / self.warmup, 0, 1)
        if self.warmup < 1:
            past = (progress - self.warmup) / (1 - self.warmup)
            value = value * (1 + xp.cos(math.pi * xp.clip(past, 0, 1))) / 2
        return value


@dataclasses.dataclass(frozen=True)
class Warmup(ValueSchedule):
    """Linear warmup from 0 to a peak, where it stays.

    One of the alternatives to `OneCycle` (Demon pruning, figure 4).

    Args:
        peak: Number, at least 0.
        warmup: Number from 0 to 1: the share of the training before the
            peak.

    Example:

    >>> strength = Warmup(peak=2.0, warmup=0.5)
    >>> [float(strength(p)) for p in (0, 0.25, 0.5, 1)]
    [0.0, 1.0, 2.0, 2.0]
    """

    peak: float
    warmup: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("peak", self.peak, self.peak >= 0, "at least 0")
        _check("warmup", self.warmup, 0 <= self.warmup <= 1, "from 0 to 1")

    def __call__(self, progress: Any) -> Any:
        if self.warmup == 0:
            return self.peak + 0 * progress
        xp = ops if ops.is_tensor(progress) else np
        return self.peak * xp.clip(progress / self.warmup, 0, 1)


def _moment(start: float | EventSchedule) -> float:
    """The fraction of the training that `start` means."""
    if isinstance(start, EventSchedule):
        return start.times()[0]
    _check("start", start, 0 < start <= 1, "above 0 and up to 1")
    return start


def _before(end: float, moments: Iterable[float]) -> tuple[float, ...]:
    """The first of `moments`, and the later ones that lie before `end`."""
    moments = iter(moments)
    first = next(moments)
    # Rounding must not let 0.3 + 7 * 0.1 slip in before 1.
    later = itertools.takewhile(lambda moment: moment < end - 1e-9, moments)
    return first, *later


def _check(name: str, value: Any, ok: bool, expected: str) -> None:
    if not ok:
        raise ValueError(
            f"`{name}` must be {expected}. Received: {name}={value}"
        )


def _check_count(name: str, value: Any) -> None:
    ok = isinstance(value, (int, np.integer)) and value >= 1
    _check(name, value, ok, "an integer, at least 1")


def _check_end(end: float, start: float | EventSchedule) -> None:
    low = _moment(start)
    _check("end", end, low <= end <= 1, f"from {low:g} (`start`) to 1")

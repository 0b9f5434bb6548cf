"""Schedules of events that say the sparsity to reach at each."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import keras

from keras_apoptosis.schedules.events import EventSchedule, moment_of
from keras_apoptosis.utils.checks import check_count, check_part, check_that


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class AtEpochs(EventSchedule):
    """Prunes at the end of chosen epochs, each time to a given sparsity.

    Epochs count from 1, as in Keras' progress output and in the thesis
    (tables 2.2 and 4.2).

    Args:
        sparsities: Mapping from epochs (integers, at least 1) to sparsities
            (above 0 and below 1), which must not fall.

    Example:

    >>> schedule = AtEpochs({2: 0.1, 3: 0.2})
    >>> schedule.times(total_epochs=10), schedule.sparsity_at(1)
    ((0.2, 0.3), 0.2)
    """

    sparsities: Mapping[int, float] | Iterable[tuple[int, float]]

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.sparsities
        try:
            found = dict(pairs)
        except (TypeError, ValueError):
            found = {}
        check_that(
            "sparsities",
            pairs,
            len(found) > 0,
            "a mapping from epochs to sparsities that is not empty",
        )
        for epoch, sparsity in found.items():
            check_count("epoch", epoch)
            check_part("sparsity", sparsity)
        ordered = tuple(sorted(found.items()))
        rising = all(a[1] <= b[1] for a, b in itertools.pairwise(ordered))
        check_that(
            "sparsities",
            pairs,
            rising,
            "sparsities that do not fall from epoch to epoch, since what is "
            "pruned does not come back",
        )
        # Sorted pairs, unlike a dictionary, can be hashed.
        object.__setattr__(self, "sparsities", ordered)

    @property
    def _pairs(self) -> tuple[tuple[int, float], ...]:
        return tuple(self.sparsities)  # type: ignore[arg-type]

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        check_count("total_epochs", total_epochs)
        assert total_epochs is not None
        late = [epoch for epoch, _ in self._pairs if epoch > total_epochs]
        if late:
            raise ValueError(
                f"Expected the epochs of `AtEpochs` to be among the "
                f"{total_epochs} of the training (if it is spread over "
                "several calls of `fit`, say so by `total_epochs`). "
                f"Received: epochs {late}"
            )
        return tuple(epoch / total_epochs for epoch, _ in self._pairs)

    def sparsity_at(self, event: int) -> float:
        return self._pairs[event][1]


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class OneShot(EventSchedule):
    """Prunes once, to a given sparsity.

    Args:
        sparsity: Number above 0 and below 1: the share to prune.
        at: When it fires: a fraction above 0 and up to 1, or a schedule such
            as `HalfLife()`.

    Example:

    >>> schedule = OneShot(0.9, at=0.5)
    >>> schedule.times(), schedule.sparsity_at(0)
    ((0.5,), 0.9)
    """

    sparsity: float
    at: float | EventSchedule = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part("sparsity", self.sparsity)
        moment_of(self.at)

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        return (moment_of(self.at),)

    def sparsity_at(self, event: int) -> float:
        return self.sparsity


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class WhenSettled(EventSchedule):
    """Prunes once, to a given sparsity, when the weights have settled.

    The moment of EarlyCroP (Rachwan et al., "Winning the lottery ahead of
    time", 2022), which EarlySNAP shares (Demon pruning, section 4): by how
    much `‖w − w₁‖ / ‖w₁‖` changes in an epoch, where w₁ are the weights after
    the first, is small beside what it was in the second. From there on
    training is close to that of a linear model, which pruning can keep.

    Args:
        sparsity: Number above 0 and below 1: the share to prune.
        threshold: Number above 0: the part of the second epoch's change that
            a later one's has to be below. By default `0.9 − sparsity`, as the
            original has it, and at least 0.01: the more is pruned, the more
            settled the weights have to be.
        latest: Number above 0 and up to 1: the event fires at the first end
            of an epoch from there on, settled or not.

    Example:

    >>> schedule = WhenSettled(0.6, latest=0.5)
    >>> schedule.settled([1.0]), schedule.settled([1.0, 0.4, 0.2])
    (False, True)
    >>> schedule.times(total_epochs=10)  # When it may fire.
    (0.3, 0.4, 0.5)
    """

    sparsity: float
    threshold: float | None = None
    latest: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part("sparsity", self.sparsity)
        part = 1.0 if self.threshold is None else self.threshold
        ok = 0 < part < math.inf
        check_that(
            "threshold", self.threshold, ok, "None or above 0 and finite"
        )
        ok = 0 < self.latest <= 1
        check_that("latest", self.latest, ok, "above 0 and up to 1")

    def settled(self, moves: Sequence[float]) -> bool:
        """Tells whether the weights have settled.

        Args:
            moves: The changes of the relative distance in the second epoch
                and in each one since.
        """
        part = self.threshold
        if part is None:
            part = max(0.01, 0.9 - self.sparsity)
        return len(moves) > 1 and moves[-1] < part * moves[0]

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        check_count("total_epochs", total_epochs)
        assert total_epochs is not None
        last = math.ceil(self.latest * total_epochs - 1e-9)
        return tuple(
            epoch / total_epochs for epoch in range(min(3, last), last + 1)
        )

    def sparsity_at(self, event: int) -> float:
        return self.sparsity


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Polynomial(EventSchedule):
    """Prunes at equal intervals, to sparsities that rise fast, then slowly.

    `s (1 − (1 − (t − start) / (end − start))^power)`, where s is the final
    sparsity: the schedule of Zhu and Gupta, "To prune, or not to prune",
    2017.

    Args:
        final_sparsity: Number above 0 and below 1: the sparsity after the last
            event.
        start: Number from 0 to below `end`: where the sparsity is 0. The first
            event follows one interval later.
        end: Number above `start` and up to 1: when the last event fires.
        count: Integer, at least 1: how many events.
        power: Number above 0. The larger, the more is pruned early.

    Example:

    >>> schedule = Polynomial(0.8, start=0.0, end=0.5, count=2, power=1)
    >>> schedule.times(), schedule.sparsity_at(0), schedule.sparsity_at(1)
    ((0.25, 0.5), 0.4, 0.8)
    """

    final_sparsity: float
    start: float = 0.0
    end: float = 0.5
    count: int = 10
    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part("final_sparsity", self.final_sparsity)
        ok = 0 <= self.start < 1
        check_that("start", self.start, ok, "from 0 to below 1")
        ok = self.start + 1e-6 <= self.end <= 1
        check_that("end", self.end, ok, f"above {self.start:g} and up to 1")
        check_count("count", self.count)
        ok = 0 < self.power < math.inf
        check_that("power", self.power, ok, "above 0 and finite")

    def times(self, total_epochs: int | None = None) -> tuple[float, ...]:
        parts = ((event + 1) / self.count for event in range(self.count))
        return tuple(self.start + p * (self.end - self.start) for p in parts)

    def sparsity_at(self, event: int) -> float:
        left = 1 - (event + 1) / self.count
        return self.final_sparsity * (1 - left**self.power)

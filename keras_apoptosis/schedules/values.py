"""Values that change over a training, or over its events."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.utils.checks import check_that
from keras_apoptosis.utils.serialization import Configurable


class ValueSchedule(Configurable, abc.ABC):
    """Base class of values that change over a training or its events."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            ok = isinstance(value, numbers.Real) and math.isfinite(value)
            check_that(name, value, ok, "a finite number")

    @abc.abstractmethod
    def __call__(self, progress: Any) -> Any:
        """Returns the value at `progress`.

        Args:
            progress: Number from 0 to 1: the fraction of the training that
                is done or, where the value belongs to events, `e / (n - 1)`
                for event `e` of `n`. Also an array, or a tensor within a
                compiled step; the value is then one, too.
        """


@keras.saving.register_keras_serializable(package="keras_apoptosis")
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


@keras.saving.register_keras_serializable(package="keras_apoptosis")
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


@keras.saving.register_keras_serializable(package="keras_apoptosis")
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
        check_that("peak", self.peak, self.peak >= 0, "at least 0")
        check_that("warmup", self.warmup, 0 <= self.warmup <= 1, "from 0 to 1")

    def __call__(self, progress: Any) -> Any:
        xp = ops if ops.is_tensor(progress) else np
        value = self.peak
        if self.warmup > 0:
            value = value * xp.clip(progress / self.warmup, 0, 1)
        if self.warmup < 1:
            past = (progress - self.warmup) / (1 - self.warmup)
            value = value * (1 + xp.cos(math.pi * xp.clip(past, 0, 1))) / 2
        return value


@keras.saving.register_keras_serializable(package="keras_apoptosis")
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
        check_that("peak", self.peak, self.peak >= 0, "at least 0")
        check_that("warmup", self.warmup, 0 <= self.warmup <= 1, "from 0 to 1")

    def __call__(self, progress: Any) -> Any:
        if self.warmup == 0:
            return self.peak + 0 * progress
        xp = ops if ops.is_tensor(progress) else np
        return self.peak * xp.clip(progress / self.warmup, 0, 1)

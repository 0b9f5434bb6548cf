"""Base class of targets: what a pruned model may cost at most."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import keras

from keras_apoptosis.accounting.costs import Cost, widths_of
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.utils.checks import check_that


@dataclasses.dataclass(frozen=True)
class Target(abc.ABC):
    """Base class of targets: what a model may cost at most.

    A subclass says what is counted, in `cost`.

    Args:
        at_most: A share of what the model costs before it is pruned, above 0
            and below 1; or an absolute number above 1; or a schedule of one
            of these, such as `ka.schedules.LinearDegree(0.9, 0.5)`.
    """

    at_most: Any

    # Whether `cost` counts what is limited; else it is measured, and `cost`
    # only tells which units to remove first.
    counted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.at_most):
            self._checked(self.at_most)

    @abc.abstractmethod
    def cost(self, analysis: Analysis) -> Cost:
        """Returns the cost of a model as a function of its groups' widths.

        Args:
            analysis: The model's units.

        Raises:
            ValueError: If it cannot be counted for this model.
        """

    @property
    def name(self) -> str:
        """The name of what is counted."""
        return type(self).__name__.lower()

    def counts_as(self, other: Target) -> bool:
        """Returns whether another target limits the same."""
        return type(other) is type(self) and all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.compare and field.name != "at_most"
        )

    def measure(self, model: keras.Model) -> float:
        """Returns what a model costs now.

        Args:
            model: A built Sequential or Functional model, or a nesting of
                those.
        """
        analysis = analyse(model)
        return float(self.cost(analysis)(widths_of(analysis)))

    def limit(self, whole: float, progress: float = 1.0) -> float:
        """Returns what the model may cost, as an absolute number.

        Args:
            whole: What it costs before it is pruned.
            progress: From 0 to 1, where `at_most` is a schedule: how much of
                the training, or of the steps, is done.
        """
        given = self.at_most
        if callable(given):
            given = self._checked(float(given(progress)))
        return self._absolute(given, whole)

    def show(self, amount: float) -> str:
        """Returns an amount as text for people."""
        return f"{amount:,.0f}"

    def get_config(self) -> dict[str, Any]:
        """Returns the fields that the target is made of."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        if callable(self.at_most):
            config["at_most"] = keras.saving.serialize_keras_object(
                self.at_most
            )
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes a target from what `get_config` returned."""
        config = dict(config)
        if isinstance(config["at_most"], Mapping):
            config["at_most"] = keras.saving.deserialize_keras_object(
                dict(config["at_most"])
            )
        return cls(**config)

    def _checked(self, value: Any) -> Any:
        number = isinstance(value, numbers.Real) and value is not True
        ok = number and 0 < value < math.inf and value != 1
        expected = "a share above 0 and below 1, or a number above 1"
        check_that("at_most", value, ok, expected)
        return value

    def _absolute(self, given: Any, whole: float) -> float:
        return float(given * whole if given < 1 else given)


def as_targets(given: Any) -> tuple[Target, ...]:
    """Returns one or several targets as a tuple.

    Args:
        given: A `Target`, or several that count different things.

    Raises:
        ValueError: If it is anything else.
    """
    single = isinstance(given, Target) or not isinstance(given, Iterable)
    targets = (given,) if single else tuple(given)
    ok = bool(targets) and all(isinstance(each, Target) for each in targets)
    check_that(
        "target",
        given,
        ok
        and not any(
            one.counts_as(other)
            for one, other in itertools.combinations(targets, 2)
        ),
        "one of `ka.targets`, or several that count different things",
    )
    return targets

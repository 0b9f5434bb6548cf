"""Registers criteria by name, and finds them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import keras

from keras_apoptosis.criteria.scores import (
    Scores,
    checked_unit_scores,
    checked_weight_scores,
)
from keras_apoptosis.utils.checks import check_choice, check_that

GRANULARITIES = ("units", "weights")

Source = TypeVar("Source")


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class Criterion:
    """Scores the units or the weights of a model, and checks the scores.

    `ka.criteria.get` makes it from the name of a criterion, from a function
    or from an object.

    Args:
        source: A function of a model and a sample, or an object with a method
            `score` of these.
        granularity: `"units"` or `"weights"`: what it scores.
        name: Name of the criterion; that of the function or class by default.
        needs_data: Whether it needs a sample. By default its attribute
            `needs_data`; without one `False` if the sample is optional, as
            in `def score(model, data=None)`, and `True` otherwise.
        needs_labels: Whether the sample needs labels. By default its
            attribute `needs_labels`, or `False` without one.
    """

    def __init__(
        self,
        source: Any,
        granularity: str,
        name: str | None = None,
        needs_data: bool | None = None,
        needs_labels: bool | None = None,
    ):
        check_choice("granularity", granularity, GRANULARITIES)
        plain, _ = _unwrapped(source)
        if needs_data is None:
            needs_data = getattr(plain, "needs_data", _takes_data(source))
        if needs_labels is None:
            needs_labels = getattr(plain, "needs_labels", False)
        self.source = source
        self.granularity = granularity
        default = getattr(plain, "__name__", type(plain).__name__)
        self.name = str(default) if name is None else name
        self.needs_data = bool(needs_data)
        self.needs_labels = bool(needs_labels)

    def score(self, model: keras.Model, data: Any = None) -> Scores:
        """Scores a model; the lower a score, the more expendable the entry.

        Args:
            model: A built model.
            data: A sample; may be `None` where the criterion needs none.

        Returns:
            For units a dictionary: for each prunable unit group that the
            criterion scores, by name, shape `(units,)`. For weights a list
            with an array for each of `model.trainable_variables`.

        Raises:
            ValueError: If data is needed and not given, or if the criterion
                returns anything else than such scores, or NaN.
        """
        if data is None and self.needs_data:
            raise ValueError(
                f"Criterion '{self.name}' judges by a sample of the training "
                "data. Pass one, as `data=(x_train[:1000], y_train[:1000])`. "
                "Received: data=None"
            )
        found = _function(self.source)(model, data)
        if self.granularity == "units":
            return checked_unit_scores(self.name, model, found)
        return checked_weight_scores(self.name, model, found)

    def given(self, **arguments: Any) -> Criterion:
        """Returns the criterion with those of some arguments that it takes.

        Args:
            **arguments: Arguments of the function, such as `at="pre"`. One
                that it was made with already stays as it is.
        """
        plain, own = _unwrapped(self.source)
        try:
            taken = inspect.signature(plain).parameters
        except (TypeError, ValueError):  # A function that is not Python's.
            return self
        new = {
            name: value
            for name, value in arguments.items()
            if name in taken and taken[name].default != value
        }
        if not inspect.isfunction(plain) or new.keys() <= own.keys():
            return self
        source = functools.partial(plain, **{**new, **own})
        return get(source, self.granularity)

    def get_config(self) -> dict[str, Any]:
        """Returns the config: the name of a registered criterion.

        Raises:
            ValueError: If the criterion is neither registered nor an object
                that Keras can serialize.
        """
        config: dict[str, Any] = {"granularity": self.granularity}
        known, arguments = _registered_as(self.source, self.granularity)
        if known is not None:
            config["criterion"] = known.name
            config["arguments"] = keras.saving.serialize_keras_object(arguments)
        elif hasattr(self.source, "get_config") and hasattr(
            self.source, "from_config"
        ):
            config["criterion"] = keras.saving.serialize_keras_object(
                self.source
            )
        else:
            raise ValueError(
                "Expected a registered criterion. Register it by `@ka.criteria."
                f"register('{self.name}', granularity='{self.granularity}')` "
                f"before it is serialized. Received: {self.source!r}"
            )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Criterion:
        """Returns the criterion of a config."""
        criterion, granularity = config["criterion"], config["granularity"]
        if isinstance(criterion, dict):
            criterion = keras.saving.deserialize_keras_object(criterion)
        arguments = config.get("arguments")
        found = get(criterion, granularity)
        if not arguments:
            return found
        arguments = keras.saving.deserialize_keras_object(arguments)
        return get(functools.partial(found.source, **arguments), granularity)

    def __repr__(self) -> str:
        return (
            f"<Criterion name={self.name}, granularity={self.granularity}, "
            f"needs_data={self.needs_data}>"
        )


_REGISTERED: dict[tuple[str, str], Criterion] = {}


def register(
    name: str,
    granularity: str = "units",
    *,
    needs_data: bool | None = None,
    needs_labels: bool | None = None,
) -> Callable[[Source], Source]:
    """Registers a criterion by a name, as a decorator or by a call.

    From then on `ka.criteria.get` and `ka.callbacks.SaliencyPruning` take the
    name, and the criterion can be serialized.

    Args:
        name: Name of the criterion.
        granularity: `"units"` or `"weights"`: what it scores.
        needs_data: See `Criterion`.
        needs_labels: See `Criterion`.

    Returns:
        A function that registers a criterion and returns it: a function of a
        model and a sample, or a class or object with a method `score` of
        these. A class is registered as an object made without arguments.

    Raises:
        ValueError: If an argument is out of range, or another criterion has
            the name.

    Example:

    >>> @ka.criteria.register("bias_size")
    ... def bias_size(model, data=None):
    ...     groups = [g for g in ka.unit_groups(model) if g.removable]
    ...     return {g.name: abs(g.producers[0].bias) for g in groups}
    >>> ka.criteria.get("bias_size", "units")
    <Criterion name=bias_size, granularity=units, needs_data=False>
    """
    check_that("name", name, isinstance(name, str) and name != "", "a name")
    check_choice("granularity", granularity, GRANULARITIES)

    def registered(source: Source) -> Source:
        made = source() if inspect.isclass(source) else source
        if not callable(_function(made)):
            raise ValueError(
                "Expected a function of a model and a sample, or a class or "
                "object with such a method `score`, to register as criterion "
                f"'{name}'. Received: {source!r}"
            )
        criterion = Criterion(made, granularity, name, needs_data, needs_labels)
        before = _REGISTERED.get((granularity, name))
        # A cell of a notebook may run again.
        if before is not None and _origin(before.source) != _origin(made):
            raise ValueError(
                f"Expected a new name: there is a criterion '{name}' of "
                f"{granularity} already, {before.source!r}. Received: "
                f"{source!r}"
            )
        _REGISTERED[granularity, name] = criterion
        return source

    return registered


def get(identifier: Any, granularity: str) -> Criterion:
    """Returns a criterion from its name, or from a function or an object.

    Args:
        identifier: The name of a registered criterion; a function of a model
            and a sample that returns scores; an object with a method `score`
            of these, or its class; or a `Criterion`. See `Criterion.score`
            for what scores are.
        granularity: `"units"` or `"weights"`: what it has to score.

    Returns:
        The criterion.

    Raises:
        ValueError: If there is no criterion of that name and granularity, or
            `identifier` is anything else.

    Example:

    >>> ka.criteria.get("magnitude", "weights")
    <Criterion name=magnitude, granularity=weights, needs_data=False>
    """
    check_choice("granularity", granularity, GRANULARITIES)
    if isinstance(identifier, str):
        if (granularity, identifier) in _REGISTERED:
            return _REGISTERED[granularity, identifier]
    elif isinstance(identifier, Criterion):
        if identifier.granularity == granularity:
            return identifier
    elif identifier is not None:
        known, arguments = _registered_as(identifier, granularity)
        if known is not None and not arguments:
            return known
        if known is not None:
            return Criterion(
                identifier,
                granularity,
                known.name,
                known.needs_data,
                known.needs_labels,
            )
        made = identifier() if inspect.isclass(identifier) else identifier
        if callable(_function(made)):
            return Criterion(made, granularity)
    raise ValueError(
        f"Expected a criterion of {granularity}: a function of a model and a "
        "sample, an object with such a method `score`, or one of "
        f"{', '.join(names(granularity))}. Received: criterion={identifier!r}"
    )


def names(granularity: str) -> list[str]:
    """Returns the names of all registered criteria of units or of weights.

    Args:
        granularity: `"units"` or `"weights"`.

    Example:

    >>> "magnitude" in ka.criteria.names("weights")
    True
    """
    check_choice("granularity", granularity, GRANULARITIES)
    return [name for kind, name in _REGISTERED if kind == granularity]


def _function(source: Any) -> Any:
    """Returns the function that scores."""
    return getattr(source, "score", source)


def _takes_data(source: Any) -> bool:
    """Returns whether a criterion cannot do without a sample."""
    try:
        parameters = [*inspect.signature(_function(source)).parameters.values()]
    except (TypeError, ValueError):  # A function that is not Python's.
        return True
    return len(parameters) < 2 or parameters[1].default is not None


def _unwrapped(source: Any) -> tuple[Any, dict[str, Any]]:
    """Splits a partial function into the function and its arguments."""
    if isinstance(source, functools.partial) and not source.args:
        return source.func, dict(source.keywords)
    return source, {}


def _registered_as(
    source: Any, granularity: str
) -> tuple[Criterion | None, dict[str, Any]]:
    """Finds what a source is registered as, and what else it is called with.

    Of several criteria by the same function it is the one that needs the
    fewest further arguments.
    """
    plain, arguments = _unwrapped(source)
    best, missing = None, arguments
    for (kind, _), known in _REGISTERED.items():
        base, fixed = _unwrapped(known.source)
        same = kind == granularity and (base is plain or _made_by(base, plain))
        if same and fixed.items() <= arguments.items():
            rest = {k: v for k, v in arguments.items() if k not in fixed}
            if best is None or len(rest) < len(missing):
                best, missing = known, rest
    return best, missing


def _made_by(source: Any, given: Any) -> bool:
    return inspect.isclass(given) and type(source) is given


def _origin(source: Any) -> tuple[Any, ...]:
    """Tells apart what is registered: where it is written, and arguments."""
    plain, arguments = _unwrapped(source)
    named = plain if hasattr(plain, "__qualname__") else type(plain)
    return named.__module__, named.__qualname__, repr(arguments)

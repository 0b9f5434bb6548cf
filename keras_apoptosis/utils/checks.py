"""Checks arguments: errors say what was expected and what was received."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a real number, and not a boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_that(name: str, value: Any, ok: bool, expected: str) -> None:
    """Raises a `ValueError` unless a condition on an argument holds.

    Args:
        name: Name of the argument.
        value: Its value.
        ok: Whether the value is valid.
        expected: What it was expected to be, as in "above 0".

    Example:

    >>> from keras_apoptosis.utils.checks import check_that
    >>> check_that("ratio", 1.0, 1.0 > 1, "above 1")
    Traceback (most recent call last):
    ...
    ValueError: Expected `ratio` to be above 1. Received: ratio=1.0
    """
    if not ok:
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={value!r}"
        )


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises a `ValueError` unless a value is an integer, and large enough.

    Args:
        name: Name of the argument.
        value: Its value.
        least: The smallest valid value.

    Example:

    >>> from keras_apoptosis.utils.checks import check_count
    >>> check_count("samples", 0)
    Traceback (most recent call last):
    ...
    ValueError: Expected `samples` to be an integer of at least 1. Received:
    samples=0
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    ok = whole and value >= least
    check_that(name, value, ok, f"an integer of at least {least}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises a `ValueError` unless a value is one of some names.

    Args:
        name: Name of the argument.
        value: Its value.
        choices: The valid names.

    Example:

    >>> from keras_apoptosis.utils.checks import check_choice
    >>> check_choice("at", "middle", ("pre", "post"))
    Traceback (most recent call last):
    ...
    ValueError: Expected `at` to be 'pre' or 'post'. Received: at='middle'
    """
    *others, last = (f"'{choice}'" for choice in choices)
    expected = f"{', '.join(others)} or {last}" if others else last
    check_that(
        name, value, isinstance(value, str) and value in choices, expected
    )


def check_share(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is from 0 to below 1.

    Args:
        name: Name of the argument.
        value: Its value.

    Example:

    >>> from keras_apoptosis.utils.checks import check_share
    >>> check_share("min_gain", 1)
    Traceback (most recent call last):
    ...
    ValueError: Expected `min_gain` to be a number from 0 to below 1. Received:
    min_gain=1
    """
    ok = is_number(value) and 0 <= value < 1
    check_that(name, value, ok, "a number from 0 to below 1")


def check_part(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is above 0 and below 1.

    Args:
        name: Name of the argument.
        value: Its value.

    Example:

    >>> from keras_apoptosis.utils.checks import check_part
    >>> check_part("final", 0)
    Traceback (most recent call last):
    ...
    ValueError: Expected `final` to be a number above 0 and below 1. Received:
    final=0
    """
    ok = is_number(value) and 0 < value < 1
    check_that(name, value, ok, "a number above 0 and below 1")


def check_size(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is finite and not negative.

    Args:
        name: Name of the argument.
        value: Its value.

    Example:

    >>> from keras_apoptosis.utils.checks import check_size
    >>> check_size("tolerance", -0.1)
    Traceback (most recent call last):
    ...
    ValueError: Expected `tolerance` to be a finite number of at least 0.
    Received: tolerance=-0.1
    """
    ok = is_number(value) and 0 <= value < math.inf
    check_that(name, value, ok, "a finite number of at least 0")

"""Checks of arguments: errors say what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises a `ValueError` unless a value is an integer, and large enough.

    Args:
        name: What the argument is called.
        value: What came.
        least: The smallest that will do.

    Example:

    >>> from keras_apoptosis.checks import check_count
    >>> check_count("samples", 0)
    Traceback (most recent call last):
    ...
    ValueError: Expected `samples` to be an integer of at least 1. Received:
    samples=0
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not (whole and value >= least):
        raise ValueError(
            f"Expected `{name}` to be an integer of at least {least}. "
            f"Received: {name}={value!r}"
        )


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises a `ValueError` unless a value is one of some names.

    Args:
        name: What the argument is called.
        value: What came.
        choices: The names.

    Example:

    >>> from keras_apoptosis.checks import check_choice
    >>> check_choice("at", "middle", ("pre", "post"))
    Traceback (most recent call last):
    ...
    ValueError: Expected `at` to be 'pre' or 'post'. Received: at='middle'
    """
    if not (isinstance(value, str) and value in choices):
        *others, last = (f"'{choice}'" for choice in choices)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={value!r}"
        )


def check_share(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is from 0 to below 1.

    Args:
        name: What the argument is called.
        value: What came.

    Example:

    >>> from keras_apoptosis.checks import check_share
    >>> check_share("min_gain", 1)
    Traceback (most recent call last):
    ...
    ValueError: Expected `min_gain` to be a number from 0 to below 1. Received:
    min_gain=1
    """
    if not (isinstance(value, numbers.Real) and 0 <= value < 1):
        raise ValueError(
            f"Expected `{name}` to be a number from 0 to below 1. "
            f"Received: {name}={value!r}"
        )


def check_size(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a value is finite and not negative.

    Args:
        name: What the argument is called.
        value: What came.

    Example:

    >>> from keras_apoptosis.checks import check_size
    >>> check_size("tolerance", -0.1)
    Traceback (most recent call last):
    ...
    ValueError: Expected `tolerance` to be a finite number of at least 0.
    Received: tolerance=-0.1
    """
    if not (isinstance(value, numbers.Real) and 0 <= value < math.inf):
        raise ValueError(
            f"Expected `{name}` to be a finite number of at least 0. "
            f"Received: {name}={value!r}"
        )

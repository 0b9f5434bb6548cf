"""Limits what may be removed, so that enough units remain in every group."""

from __future__ import annotations

import numpy as np


def kept_count(
    wanted: int, size: int, min_units: int = 1, round_to: int = 1
) -> int:
    """Returns how many units to keep: at least `wanted`, as a multiple.

    Args:
        wanted: How many units should be kept.
        size: How many units there are.
        min_units: How many units have to be kept.
        round_to: The number is rounded up to a multiple of this.

    Example:

    >>> from keras_apoptosis.selection.limits import kept_count
    >>> kept_count(13, 64, round_to=8)
    16
    """
    least = max(wanted, min_units)
    return min(size, -(-least // round_to) * round_to)


def lowest_within_limits(
    scores: np.ndarray, size: int, min_units: int = 1, round_to: int = 1
) -> np.ndarray:
    """Returns which candidates to remove, so that enough units remain.

    Args:
        scores: Shape `(candidates,)`. Those with the highest scores are kept
            where not all candidates may be removed.
        size: How many units there are, candidates included.
        min_units: See `kept_count`.
        round_to: See `kept_count`.

    Returns:
        Positions among the candidates, the lowest scores first; of equal
        scores the first one comes first.

    Example:

    >>> from keras_apoptosis.selection.limits import lowest_within_limits
    >>> lowest_within_limits(np.array([3.0, 1.0, 2.0]), size=4, min_units=2)
    array([1, 2])
    """
    kept = kept_count(size - scores.size, size, min_units, round_to)
    return np.argsort(scores, kind="stable")[: size - kept]

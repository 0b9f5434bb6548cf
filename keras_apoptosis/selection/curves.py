"""Computes what is lost with every number of units that a group keeps."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Tells what is lost with every number of kept units.

    Args:
        order: Shape `(units,)`. The units, from the one that is kept to the
            last to the one that is removed first.
        error: Shape `(units + 1,)`. At `k` the error where the first `k` of
            them are kept; it does not rise with `k`, and is 0 for all.
    """

    order: np.ndarray
    error: np.ndarray

    def removed(self, width: int) -> np.ndarray:
        """Returns the units that are removed at a width, ascending."""
        return np.sort(self.order[width:])


def score_curve(scores: np.ndarray, relative: bool = False) -> Curve:
    """Adds up scores: the error is the sum over the units that are removed.

    Args:
        scores: Shape `(units,)`. Scores below 0 count as 0: there is nothing
            to lose by such a unit.
        relative: Whether to divide by the sum over all units, for scores that
            cannot be compared between groups.

    Returns:
        The `Curve`. Of equal scores the first goes first.

    Example:

    >>> from keras_apoptosis.selection.curves import score_curve
    >>> curve = score_curve(np.array([3.0, 1.0, 4.0]))
    >>> curve.error.tolist(), curve.removed(2).tolist()
    ([8.0, 4.0, 1.0, 0.0], [1])
    """
    rising = np.argsort(scores, kind="stable")
    lost = np.cumsum(np.maximum(scores[rising], 0.0))
    error = np.concatenate([lost[::-1], [0.0]])
    if relative and error[0] > 0:
        error = error / error[0]
    return Curve(rising[::-1], error)

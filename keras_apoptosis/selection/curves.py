"""Computes what is lost with every number of units that a group keeps."""

from __future__ import annotations

import dataclasses

import numpy as np

# What is left of a group at least, for an error that is finite.
_LEAST = 1e-12


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


def score_curve(scores: np.ndarray) -> Curve:
    """Computes what is removed of a group's scores, beside what is left.

    The error is `removed / kept`, of sums over the units, as noise beside a
    signal. While little is removed that is its share, by which groups are
    compared. The more is removed the more a unit costs, and the last cannot
    be paid for: a score tells what a unit does while the others are there, and
    what is left of a group is what the whole network has to work with.

    Args:
        scores: Shape `(units,)`. Scores below 0 count as 0: there is nothing
            to lose by such a unit.

    Returns:
        The `Curve`. Of equal scores the first goes first.

    Example:

    >>> from keras_apoptosis.selection.curves import score_curve
    >>> curve = score_curve(np.array([3.0, 1.0, 4.0]))
    >>> curve.error[1:].round(3).tolist(), curve.removed(2).tolist()
    ([1.0, 0.143, 0.0], [1])
    """
    falling = np.argsort(scores, kind="stable")[::-1]
    kept = np.cumsum(np.maximum(scores[falling], 0.0))
    share = np.ones(len(kept) + 1)
    if kept[-1] > 0:
        share = np.concatenate([[0.0], kept / kept[-1]])
    return Curve(falling, error_of(share))


def error_of(share: np.ndarray) -> np.ndarray:
    """Returns what is lost beside the share that is left, finite.

    Args:
        share: From 0 to 1.
    """
    return 1 / np.clip(share, _LEAST, 1.0) - 1

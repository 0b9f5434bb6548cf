"""Chooses the entries to prune, from their scores and a limit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_apoptosis.selection.limits import kept_count, lowest_within_limits


def share_of(size: int, share: float) -> int:
    """Returns a share of a number, rounded down.

    Example:

    >>> share_of(64, 0.6), share_of(5, 0.6)
    (38, 3)
    """
    return int(np.floor(size * share + 1e-9))


def lowest(
    scores: Mapping[str, np.ndarray],
    count: int | Mapping[str, int],
    keep: int = 0,
    round_to: int = 1,
) -> dict[str, np.ndarray]:
    """Returns the entries with the lowest scores, over all groups or in each.

    Args:
        scores: For each group, by name, shape `(entries,)`.
        count: How many entries to choose, over all groups, or for each group
            how many to choose there.
        keep: How many entries to keep in each group, those with the highest
            scores, even if that means fewer than `count` are chosen.
        round_to: How many are kept is rounded up to a multiple of it,
            likewise.

    Returns:
        For each group the indices of the chosen entries, ascending. Of equal
        scores the first is chosen first.

    Raises:
        ValueError: If a score is not a number.

    Example:

    >>> scores = {"a": np.array([3.0, 1.0]), "b": np.array([2.0, 5.0, 0.0])}
    >>> {k: v.tolist() for k, v in lowest(scores, 3).items()}
    {'a': [1], 'b': [0, 2]}
    >>> {k: v.tolist() for k, v in lowest(scores, {"a": 1, "b": 1}).items()}
    {'a': [1], 'b': [2]}
    """
    for name, each in scores.items():
        wrong = np.flatnonzero(np.isnan(each))
        if wrong.size:
            raise ValueError(
                f"Expected scores that are numbers. Received: NaN for "
                f"{wrong.size} of {each.size} entries of '{name}'"
            )
    order = {
        name: lowest_within_limits(each, each.size, keep)
        for name, each in scores.items()
    }
    if not isinstance(count, Mapping):
        names = np.repeat(list(order), [each.size for each in order.values()])
        free = [scores[name][order[name]] for name in order]
        chosen = np.argsort(np.concatenate([*free, []]), kind="stable")[:count]
        count = {name: int((names[chosen] == name).sum()) for name in order}
    found = {}
    for name, each in scores.items():
        wanted = each.size - count[name]
        kept = kept_count(wanted, each.size, keep, round_to)
        found[name] = np.sort(order[name][: each.size - kept])
    return found

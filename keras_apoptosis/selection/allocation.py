"""Chooses widths that meet limits at little error, over all groups."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_apoptosis.accounting.costs import Cost

# Steps of single units are taken together up to this part of a group.
_PART = 1 / 64
# Groups exchange units where limits have more room than this part of them.
_ROOM = 0.005
_EXCHANGES = 200


def allocate(
    costs: Sequence[Cost],
    limits: Sequence[float],
    widths: np.ndarray,
    errors: Mapping[int, np.ndarray],
    *,
    min_units: int = 1,
    round_to: int = 1,
) -> np.ndarray:
    """Chooses the width of each group, so that limits are met at little error.

    Step by step that group becomes narrower whose error rises least for what
    it saves of what is still above its limit. What a group saves is counted
    exactly, at the widths that the others have by then: a kernel between two
    groups shrinks with both. Each error is followed along its lower convex
    hull, so that a unit that costs much does not hide cheap ones behind it.
    In the end groups take back units for which there is room, those of the
    most error first.

    Args:
        costs: What is limited, as functions of the widths.
        limits: The limit of each cost.
        widths: Shape `(groups,)`, integers. The widths before.
        errors: For each group that may become narrower, by its number, the
            error with 0 to all of its units kept: shape `(width + 1,)`, not
            rising.
        min_units: Integer > 0. How many units every group keeps.
        round_to: Integer > 0. Widths that change become multiples of it.

    Returns:
        Shape `(groups,)`, integers: the units that every group keeps. Where
        limits are out of reach, every group is as narrow as it can be.

    Example:

    Two groups of four units. Those of the second cost more.

    >>> from keras_apoptosis.accounting.costs import parameter_cost
    >>> from keras_apoptosis.graph import analyse
    >>> from keras_apoptosis.selection.allocation import allocate
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(4), keras.layers.Dense(1),
    ...     keras.layers.Dense(4), keras.layers.Dense(9)
    ... ])
    >>> cost, error = parameter_cost(analyse(model)), np.arange(4, -1, -1.0)
    >>> sizes = np.array([4, 1, 4, 9])
    >>> float(cost(sizes))
    66.0
    >>> allocate([cost], [44], sizes, {0: error, 2: error})
    array([4, 1, 2, 9])
    """
    widths = np.array(widths, int)
    limits_at = np.array(limits, float)
    hulls = {
        group: _hull(_allowed(int(widths[group]), min_units, round_to), error)
        for group, error in errors.items()
    }
    spent = {group: float(errors[group][widths[group]]) for group in hulls}
    state = _State(costs, limits_at, widths)
    while not state.met:
        best, best_rate = None, np.inf
        saved = state.savings(
            [(group, hull[0]) for group, hull in hulls.items() if hull]
        )
        for (group, width), saving in saved.items():
            added = float(errors[group][width]) - spent[group]
            if saving > 0 and added / saving < best_rate:
                best, best_rate = (group, width), added / saving
        if best is None:
            break
        group, width = best
        state.set(best)
        spent[group] = float(errors[group][width])
        hulls[group].pop(0)
    if state.met:
        _give_back(state, widths, errors, round_to)
        _exchange(state, widths, errors, min_units, round_to)
    return state.widths


class _State:
    """Widths on their way, and what they cost."""

    def __init__(
        self, costs: Sequence[Cost], limits: np.ndarray, widths: np.ndarray
    ):
        self._costs = costs
        self._limits = limits
        self.widths = widths.copy()
        self._now = self._cost(widths)

    @property
    def met(self) -> bool:
        return bool((self._now <= self._limits).all())

    @property
    def room(self) -> float:
        """Returns what is left below the limits, as a share of the tightest."""
        return float(((self._limits - self._now) / self._limits).min())

    def set(self, *changes: tuple[int, int]) -> None:
        for group, width in changes:
            self.widths[group] = width
        self._now = self._cost(self.widths)

    def savings(
        self, changes: list[tuple[int, int]]
    ) -> dict[tuple[int, int], float]:
        """Returns what changes save of what is above the limits, as shares."""
        if not changes:
            return {}
        after = self._cost(self._changed([[each] for each in changes]))
        above = self._now - self._limits
        open_ = above > 0
        saved = np.minimum(self._now - after, above)[:, open_] / above[open_]
        return dict(zip(changes, saved.sum(1).tolist(), strict=True))

    def within(self, changes: Sequence[Sequence[tuple[int, int]]]) -> Any:
        """Tells whether all limits are met after each set of changes."""
        return (self._cost(self._changed(changes)) <= self._limits).all(-1)

    def _changed(self, changes: Sequence[Sequence[tuple[int, int]]]) -> Any:
        found = np.repeat(self.widths[None], len(changes), 0)
        for row, together in enumerate(changes):
            for group, width in together:
                found[row, group] = width
        return found

    def _cost(self, widths: np.ndarray) -> np.ndarray:
        return np.stack([cost(widths) for cost in self._costs], -1)


def _give_back(
    state: _State,
    before: np.ndarray,
    errors: Mapping[int, np.ndarray],
    round_to: int,
) -> None:
    """Widens groups again, as far as the limits have room for it."""
    while changes := _wider(state, before, errors, round_to):
        fits = state.within([[each] for each in changes])
        gains = [
            float(errors[g][state.widths[g]] - errors[g][w]) if ok else -1.0
            for (g, w), ok in zip(changes, fits, strict=True)
        ]
        best = int(np.argmax(gains))
        if gains[best] < 0:
            return
        state.set(changes[best])


def _exchange(
    state: _State,
    before: np.ndarray,
    errors: Mapping[int, np.ndarray],
    min_units: int,
    round_to: int,
) -> None:
    """Widens one group at the expense of another, where that is a gain.

    Where a unit costs much, no group may fit into what is left.
    """
    for _ in range(_EXCHANGES):
        if state.room <= _ROOM:
            return
        changes = []
        for group, wider in _wider(state, before, errors, round_to):
            for other in errors:
                allowed = _allowed(
                    int(state.widths[other]), min_units, round_to
                )
                for narrower in allowed[1:5].tolist() if other != group else ():
                    changes.append([(group, wider), (other, narrower)])
        gains = [
            sum(float(errors[g][state.widths[g]] - errors[g][w]) for g, w in c)
            for c in changes
        ]
        fits = state.within(changes) if changes else []
        good = [n for n, gain in enumerate(gains) if fits[n] and gain > 1e-12]
        if not good:
            return
        state.set(*changes[max(good, key=lambda n: gains[n])])
        _give_back(state, before, errors, round_to)


def _wider(
    state: _State,
    before: np.ndarray,
    errors: Mapping[int, np.ndarray],
    round_to: int,
) -> list[tuple[int, int]]:
    """Returns the next width above of each group that became narrower."""
    changes = []
    for group in errors:
        now = int(state.widths[group])
        wider = min(int(before[group]), now - now % round_to + round_to)
        if wider > now:
            changes.append((group, wider))
    return changes


def _allowed(width: int, min_units: int, round_to: int) -> np.ndarray:
    """Widths that a group may have, from what it is downwards."""
    least = -(-max(min_units, 1) // round_to) * round_to
    below = np.arange(least, width, round_to)[::-1]
    return np.concatenate([[width], below]).astype(int)


def _hull(widths: np.ndarray, error: np.ndarray) -> list[int]:
    """Widths on the lower convex hull of an error, without the first."""
    corners: list[int] = []
    for width in widths.tolist():
        while len(corners) > 1 and _above(
            corners[-2], corners[-1], width, error
        ):
            corners.pop()
        corners.append(width)
    part = max(1, int(widths[0] * _PART))
    found: list[int] = []
    last = corners[0]
    for width, following in itertools.zip_longest(corners[1:], corners[2:]):
        if following is None or last - following > part:
            found.append(width)
            last = width
    return found


def _above(left: int, middle: int, right: int, error: np.ndarray) -> bool:
    """Tells whether a point is above the line between two others."""
    rise = (error[middle] - error[left]) * (left - right)
    return bool(rise > (error[right] - error[left]) * (left - middle))

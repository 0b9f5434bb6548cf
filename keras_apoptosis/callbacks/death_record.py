"""Records which units are dead, by the indices they had at first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class DeathRecord:
    """Records dead units, though indices change as units are removed.

    Args:
        sizes: For each group, by name, how many units it has at first.
    """

    def __init__(self, sizes: Mapping[str, int]):
        self._left = {name: np.arange(size) for name, size in sizes.items()}
        self._once_dead = {n: np.zeros(s, bool) for n, s in sizes.items()}

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {"left": self._left, "once_dead": self._once_dead}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self._left = dict(state["left"])
        self._once_dead = dict(state["once_dead"])

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Tells whether groups have the sizes that were last recorded."""
        left = {name: units.size for name, units in self._left.items()}
        return left == dict(sizes)

    def take_down(self, dead: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Records an event.

        Args:
            dead: For groups, by name, which of the units that are left are
                dead: boolean.

        Returns:
            How many units are `dead` for each group, those that were removed
            before included, and their `overlap` with all units that were
            dead at any event before.
        """
        now = {}
        for name, which in dead.items():
            gone = np.ones(self._once_dead[name].size, bool)
            gone[self._left[name]] = which
            now[name] = gone
        found = overlap(
            np.concatenate([self._once_dead[name] for name in now]),
            np.concatenate(list(now.values())),
        )
        for name, which in now.items():
            self._once_dead[name] |= which
        counts = {name: int(which.sum()) for name, which in now.items()}
        return {"dead": counts, "overlap": found}

    def remove(self, name: str, indices: Any) -> None:
        """Records that units of a group are removed."""
        self._left[name] = np.delete(self._left[name], indices)


def overlap(first: np.ndarray, second: np.ndarray) -> float | None:
    """Computes the overlap of two sets: `|X ∩ Y| / min(|X|, |Y|)`.

    Args:
        first: For each unit whether it is in the first set.
        second: Likewise for the second.

    Returns:
        From 0 to 1, or `None` where a set is empty.

    Example:

    >>> from keras_apoptosis.callbacks.death_record import overlap
    >>> overlap(np.array([1, 1, 1, 0], bool), np.array([0, 1, 0, 1], bool))
    0.5
    """
    least = min(int(first.sum()), int(second.sum()))
    return int((first & second).sum()) / least if least else None

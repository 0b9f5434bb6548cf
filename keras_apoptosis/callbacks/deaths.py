"""Who was dead when, by the units' first indices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Deaths:
    """Which units were dead at one event of `DemonPruning`.

    Args:
        step: Steps of the training that were done.
        dead: For each group, by name, how many of its units were dead then
            or had left before.
        overlap: Overlap of these units with all that were dead at any event
            before (Demon pruning, appendix C): 1 where none came back to
            life; `None` as long as there are none to compare.
    """

    step: int
    dead: Mapping[str, int]
    overlap: float | None


class DeathRecord:
    """Takes down which units are dead, though indices change as units leave.

    Args:
        sizes: For each group, by name, how many units it has at first.
    """

    def __init__(self, sizes: Mapping[str, int]):
        self._left = {name: np.arange(size) for name, size in sizes.items()}
        self._once_dead = {n: np.zeros(s, bool) for n, s in sizes.items()}

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"left": self._left, "once_dead": self._once_dead}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._left = dict(state["left"])
        self._once_dead = dict(state["once_dead"])

    def take_down(self, step: int, dead: Mapping[str, np.ndarray]) -> Deaths:
        """Records an event.

        Args:
            step: Steps that were done.
            dead: For groups, by name, which of the units that are left are
                dead: boolean.
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
        return Deaths(step, counts, found)

    def remove(self, name: str, indices: Any) -> None:
        """Units left a group."""
        self._left[name] = np.delete(self._left[name], indices)


def overlap(first: np.ndarray, second: np.ndarray) -> float | None:
    """The overlap of two sets: `|X ∩ Y| / min(|X|, |Y|)`.

    Args:
        first: For each unit whether it is in the first set.
        second: Likewise for the second.

    Returns:
        From 0 to 1, or `None` where a set is empty.

    Example:

    >>> from keras_apoptosis.callbacks.deaths import overlap
    >>> overlap(np.array([1, 1, 1, 0], bool), np.array([0, 1, 0, 1], bool))
    0.5
    """
    least = min(int(first.sum()), int(second.sum()))
    return int((first & second).sum()) / least if least else None

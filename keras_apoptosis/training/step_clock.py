"""Measures how long training steps take."""

from __future__ import annotations

import time

import numpy as np


class StepClock:
    """Times steps, to estimate whether a removal pays."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.first: float | None = None  # The step that traces.
        self._traced = True
        self._begin: float | None = None

    def start(self) -> None:
        self._begin = time.perf_counter()

    def stop(self) -> None:
        if self._begin is None:
            return
        seconds = time.perf_counter() - self._begin
        if self._traced:
            self.first = self.first or seconds
            self._traced = False
        elif len(self.steps) < 1000:
            self.steps.append(seconds)

    def retrace(self) -> None:
        """Starts anew: the next step is traced, and steps take another time."""
        self.steps, self._traced = [], True

    def saving(self, share: float, left: int | None) -> float | None:
        """Seconds that `share` less work saves over the steps left."""
        if left is None or not self.steps or self.first is None:
            return None
        if not left:
            return 0.0
        step = float(np.median(self.steps))
        return step * share * left - max(0.0, self.first - step)

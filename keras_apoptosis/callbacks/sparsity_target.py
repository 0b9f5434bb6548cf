"""A controller that steers a training to a sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_apoptosis.accounting.size import KINDS, Size, size_after
from keras_apoptosis.graph import Analysis
from keras_apoptosis.selection.inactive_units import Activity, removal_of
from keras_apoptosis.utils.checks import check_choice

# The pressure is exp(GAIN e + MEMORY ∫e): e is the share of the whole that is
# missing beside the plan, and the integral is over fractions of the training.
GAIN = 10.0
MEMORY = 40.0
LIMIT = math.log(100)


class SparsityTarget:
    """Raises and lowers a strength, so that a training ends at a sparsity.

    The sparsity is to grow with the square of time, from 0 to the target at
    `reach` of the training: units do not die at once. After each event the
    strength follows from how far the sparsity is behind that plan, or ahead
    of it, now and until now: proportional and integral control of its
    logarithm. Once the target is reached the strength is 0, and what dies
    afterwards stays.

    Args:
        target: The share of the whole that is to go.
        kind: The share of what: `"weights"`, `"neurons"` or `"flops"`.
        reach: When it is to be reached, as a fraction of the training.
        finish: From when on living units may leave for it, the least active.

    Attributes:
        factor: By what the strength is multiplied at present.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        target: float,
        kind: str = "weights",
        reach: float = 0.6,
        finish: float = 0.9,
    ):
        if not (isinstance(target, int | float) and 0 < target < 1):
            raise ValueError(
                "Expected `target_sparsity` to be a number above 0 and below "
                f"1, or None. Received: target_sparsity={target}"
            )
        check_choice("sparsity", kind, KINDS)
        self.target = target
        self.kind = kind
        self.reach = reach
        self.finish = finish
        self.factor = 1.0
        self._integral = 0.0
        self._progress = 0.0

    def get_state(self) -> dict[str, float]:
        """Returns what a checkpoint stores."""
        return {
            "factor": self.factor,
            "integral": self._integral,
            "progress": self._progress,
        }

    def set_state(self, state: Mapping[str, float]) -> None:
        """Goes on from what `get_state` gave."""
        self.factor = state["factor"]
        self._integral = state["integral"]
        self._progress = state["progress"]

    def choose(
        self,
        analysis: Analysis,
        activity: Activity,
        candidates: Mapping[int, np.ndarray],
        whole: Size,
    ) -> dict[int, np.ndarray]:
        """Returns those candidates that bring the model to the target.

        All of them, unless that is beyond the target; then so many of the
        least active that it comes as close as it can.

        Args:
            analysis: The model's units.
            activity: What the units did.
            candidates: For each group, by its index, units that may leave,
                the least active first.
            whole: The size of the model before anything left.

        Returns:
            For each group, by its index, the units to remove.
        """
        order = _least_active(activity, candidates)

        def taken(count: int) -> dict[int, np.ndarray]:
            going: dict[int, list[int]] = {number: [] for number in candidates}
            for number, unit in order[:count]:
                going[number].append(unit)
            return {n: np.array(each, int) for n, each in going.items()}

        def sparsity(count: int) -> float:
            removal = removal_of(analysis, activity, taken(count))
            return size_after(analysis, removal).sparsity(whole)[self.kind]

        if sparsity(len(order)) <= self.target:
            return taken(len(order))
        low, high = 0, len(order)  # Sparsity grows with the count.
        while high - low > 1:
            middle = (low + high) // 2
            if sparsity(middle) <= self.target:
                low = middle
            else:
                high = middle
        nearer = min((low, high), key=lambda n: abs(sparsity(n) - self.target))
        return taken(nearer)

    def steer(self, sparsity: float, progress: float, reached: bool) -> float:
        """Sets the strength anew.

        Args:
            sparsity: The sparsity by now.
            progress: The part of the training that is done.
            reached: Whether as much left as should.

        Returns:
            The new `factor`.
        """
        if reached or self.factor == 0.0:
            self.factor = 0.0
            return 0.0
        plan = self.target * min(1.0, progress / self.reach) ** 2
        behind = plan - sparsity
        passed = progress - self._progress
        self._progress = progress
        bound = LIMIT / MEMORY  # What is beyond could not be made up for.
        self._integral += behind * passed
        self._integral = min(bound, max(-bound, self._integral))
        pressure = GAIN * behind + MEMORY * self._integral
        self.factor = math.exp(min(LIMIT, max(-LIMIT, pressure)))
        return self.factor


def _least_active(
    activity: Activity, candidates: Mapping[int, np.ndarray]
) -> list[tuple[int, int]]:
    """Orders groups and units, the least active first, in turns where alike."""
    ranked: list[tuple[Any, ...]] = []
    for number, units in candidates.items():
        size = activity.peaks[number].size
        for rank, unit in enumerate(units):
            peak = float(activity.peaks[number][unit])
            ranked.append((peak, rank / size, number, int(unit)))
    return [(number, unit) for *_, number, unit in sorted(ranked)]

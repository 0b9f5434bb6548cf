"""A controller that steers the pressure on units to a target."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_apoptosis.accounting.costs import Cost, widths_of
from keras_apoptosis.graph import Analysis
from keras_apoptosis.selection.inactive_units import Activity
from keras_apoptosis.targets import Target

# The pressure is exp(GAIN e + MEMORY ∫e): e is the share of the whole that is
# missing beside the plan, and the integral is over fractions of the training.
GAIN = 10.0
MEMORY = 40.0
LIMIT = math.log(100)


class PressureControl:
    """Raises and lowers a pressure, so that a training ends at its targets.

    What is saved is to grow with the square of time, from nothing to the
    targets at `reach` of the training: units do not die at once. After each
    event the pressure follows from how far it is behind that plan, or ahead
    of it, now and until now: proportional and integral control of its
    logarithm. Once the targets are reached the pressure is 0, and what dies
    afterwards stays.

    Args:
        targets: The targets, of costs that are counted.
        whole: What the model costs before it is pruned, by each target.
        reach: When they are to be reached, as a fraction of the training.
            From then on units that are not dead may be removed for them, the
            least active.

    Attributes:
        factor: By what the pressure is multiplied at present.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        whole: Sequence[float],
        reach: float = 0.6,
    ):
        self.targets = targets
        self.whole = np.array(whole)
        self.limits = np.array(
            [t.limit(w) for t, w in zip(targets, whole, strict=True)]
        )
        self.reach = reach
        self.factor = 1.0
        self._integral = 0.0
        self._progress = 0.0

    def get_state(self) -> dict[str, float]:
        """Returns what a checkpoint keeps."""
        return {
            "factor": self.factor,
            "integral": self._integral,
            "progress": self._progress,
        }

    def set_state(self, state: Mapping[str, float]) -> None:
        """Resumes from what `get_state` returned."""
        self.factor = state["factor"]
        self._integral = state["integral"]
        self._progress = state["progress"]

    def missing(self, analysis: Analysis) -> float:
        """Returns how much is missing to the targets.

        Args:
            analysis: The model's units.

        Returns:
            As a share of what the model has cost, by the target that misses
            most; 0 or less once all are met.
        """
        return self._missing(self._costs(analysis), widths_of(analysis))

    def _costs(self, analysis: Analysis) -> list[Cost]:
        return [target.cost(analysis) for target in self.targets]

    def _missing(self, costs: Sequence[Cost], widths: np.ndarray) -> float:
        amounts = np.array([float(cost(widths)) for cost in costs])
        return float(((amounts - self.limits) / self.whole).max())

    def choose(
        self,
        analysis: Analysis,
        activity: Activity,
        candidates: Mapping[int, np.ndarray],
    ) -> dict[int, np.ndarray]:
        """Returns those candidates that bring the model to the targets.

        All of them, unless that is beyond the targets; then as few as it
        takes of the least active.

        Args:
            analysis: The model's units.
            activity: What the units did.
            candidates: For each group, by its index, units that may be
                removed, the least active first.

        Returns:
            For each group, by its index, the units to remove.
        """
        order = _least_active(activity, candidates)
        costs, widths = self._costs(analysis), widths_of(analysis)

        def missing(count: int) -> float:
            numbers = np.array([number for number, _ in order[:count]], int)
            removed = np.bincount(numbers, minlength=widths.size)
            return self._missing(costs, widths - removed)

        # What is missing falls with the count.
        high = bisect.bisect_left(
            range(len(order)), 0.0, key=lambda count: -missing(count)
        )
        chosen: dict[int, list[int]] = {number: [] for number in candidates}
        for number, unit in order[:high]:
            chosen[number].append(unit)
        return {n: np.array(each, int) for n, each in chosen.items()}

    def steer(self, missing: float, progress: float, reached: bool) -> float:
        """Sets the pressure anew.

        Args:
            missing: See `missing`.
            progress: The part of the training that is done.
            reached: Whether as much was removed as should be.

        Returns:
            The new `factor`.
        """
        if reached or self.factor == 0.0:
            self.factor = 0.0
            return 0.0
        goal = float((1 - self.limits / self.whole).max())
        plan = goal * min(1.0, progress / self.reach) ** 2
        behind = plan - (goal - missing)
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
    """Orders groups and units, the least active first, in turns where alike.

    Active beside the others of a group: a layer whose values are small is not
    less useful than one whose values are large.
    """
    ranked: list[tuple[Any, ...]] = []
    for number, units in candidates.items():
        peaks = activity.peaks[number]
        usual = float(peaks.mean()) or 1.0
        for rank, unit in enumerate(units):
            peak = float(peaks[unit]) / usual
            ranked.append((peak, rank / peaks.size, number, int(unit)))
    return [(number, unit) for *_, number, unit in sorted(ranked)]

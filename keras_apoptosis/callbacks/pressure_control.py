"""A controller that steers the pressure on units to a target."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_apoptosis.accounting.costs import widths_of
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
    targets at `reach` of the training: units do not die at once. A target
    that is a schedule is its own plan. After each event the pressure follows
    from how far it is behind the plan, or ahead of it, now and until now:
    proportional and integral control of its logarithm. Once the targets are
    reached the pressure is 0, and what dies afterwards stays.

    Args:
        targets: The targets, of costs that are counted.
        whole: What the model costs before it is pruned, by each target.
        round_to: Widths that change become multiples of it.
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
        round_to: int = 1,
        reach: float = 0.6,
    ):
        self.targets = targets
        self.whole = np.array(whole)
        self.limits = np.array(
            [t.limit(w) for t, w in zip(targets, whole, strict=True)]
        )
        self.round_to = round_to
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

    def choose(
        self,
        analysis: Analysis,
        activity: Activity,
        candidates: Mapping[int, np.ndarray],
    ) -> dict[int, np.ndarray]:
        """Returns those candidates that bring the model to the targets.

        All of them, unless that is beyond the targets; then as few as it
        takes of the least active, less those for which there is room.

        Args:
            analysis: The model's units.
            activity: What the units did.
            candidates: For each group, by its index, units that may be
                removed, the least active first.

        Returns:
            For each group, by its index, the units to remove.
        """
        blocks = self._blocks(analysis, activity, candidates)
        costs = [target.cost(analysis) for target in self.targets]

        def met(widths: np.ndarray) -> bool:
            amounts = np.array([float(cost(widths)) for cost in costs])
            return bool((amounts <= self.limits).all())

        def after(count: int) -> np.ndarray:
            left = widths_of(analysis)
            for number, units in blocks[:count]:
                left[number] -= units.size
            return left

        # What the model costs falls with the count.
        count = bisect.bisect_left(
            range(len(blocks)), True, key=lambda count: met(after(count))
        )
        left, chosen, ended = after(count), [], set[int]()
        for number, units in blocks[:count][::-1]:
            left[number] += units.size
            if number in ended or not met(left):
                left[number] -= units.size
                ended.add(number)  # Those before it go first.
                chosen.append((number, units))
        found: dict[int, list[int]] = {number: [] for number in candidates}
        for number, units in chosen[::-1]:
            found[number].extend(units.tolist())
        return {n: np.array(each, int) for n, each in found.items()}

    def steer(
        self, analysis: Analysis, progress: float, reached: bool
    ) -> float:
        """Sets the pressure anew.

        Args:
            analysis: The model's units.
            progress: The part of the training that is done.
            reached: Whether as much was removed as should be.

        Returns:
            The new `factor`.
        """
        if reached or self.factor == 0.0:
            self.factor = 0.0
            return 0.0
        widths = widths_of(analysis)
        amounts = np.array(
            [float(each.cost(analysis)(widths)) for each in self.targets]
        )
        behind = float(((amounts - self._planned(progress)) / self.whole).max())
        passed = progress - self._progress
        self._progress = progress
        bound = LIMIT / MEMORY  # What is beyond could not be made up for.
        self._integral += behind * passed
        self._integral = min(bound, max(-bound, self._integral))
        pressure = GAIN * behind + MEMORY * self._integral
        self.factor = math.exp(min(LIMIT, max(-LIMIT, pressure)))
        return self.factor

    def _planned(self, progress: float) -> np.ndarray:
        """Returns what the model may cost by now, by each target."""
        part = min(1.0, progress / self.reach) ** 2
        return np.array(
            [
                target.limit(whole, progress)
                if callable(target.at_most)
                else whole + part * (limit - whole)
                for target, whole, limit in zip(
                    self.targets, self.whole, self.limits, strict=True
                )
            ]
        )

    def _blocks(
        self,
        analysis: Analysis,
        activity: Activity,
        candidates: Mapping[int, np.ndarray],
    ) -> list[tuple[int, np.ndarray]]:
        """Orders what may go at once, the least active first.

        Single units, of groups in turns where they are alike; or as many as
        it takes to a width that is a multiple. Active beside the others of a
        group: a layer whose values are small is not less useful than one
        whose values are large.
        """
        ranked: list[tuple[Any, ...]] = []
        for number, units in candidates.items():
            peaks = activity.peaks[number]
            usual = float(peaks.mean()) or 1.0
            size = analysis.groups[number].size
            stop = 0
            while stop < units.size:
                start = stop
                stop += (size - start) % self.round_to or self.round_to
                block = units[start:stop]
                peak = float(peaks[block[-1]]) / usual
                ranked.append((peak, stop / size, number, start, block))
        ranked.sort(key=lambda each: each[:-1])
        return [(number, block) for _, _, number, _, block in ranked]

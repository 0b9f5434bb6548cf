"""Chooses units so that targets are met, over all groups of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_apoptosis.accounting.costs import widths_of
from keras_apoptosis.distributed.long_work import tracked
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.named_groups import named_groups
from keras_apoptosis.selection.allocation import allocate
from keras_apoptosis.selection.curves import Curve
from keras_apoptosis.selection.pruning_report import TargetResult
from keras_apoptosis.selection.ranking import Ranking
from keras_apoptosis.surgery import Removal, Report, rebuild, shrink
from keras_apoptosis.surgery.shrink import shrink_group_by_group
from keras_apoptosis.targets import Target

# How often a copy of the model is measured, and how near a limit is enough.
_MEASUREMENTS = 8
_NEAR = 0.05


class TargetPruning:
    """Chooses units so that targets are met, at once or step by step.

    Units are chosen wherever that saves most of what the targets count for
    the least error, over all groups. The error of a group counts as often as
    the group is read.

    Args:
        model: The model, before it is pruned: shares are of what it costs.
        targets: The targets.
        ranking: Ranks the units of each group.
        layers: Names, layers or patterns to which it is limited.
        exclude: Names, layers or patterns to leave alone.
        min_units: How many units every group keeps.
        round_to: Widths that change become multiples of it.
        whole: What the model cost before it was pruned, by each target, if
            that is not what it costs now.
    """

    def __init__(
        self,
        model: keras.Model,
        targets: Sequence[Target],
        ranking: Ranking,
        layers: Any = None,
        exclude: Any = None,
        min_units: int = 1,
        round_to: int = 1,
        whole: Sequence[float] | None = None,
    ):
        self.model = model
        self.targets = targets
        self.ranking = ranking
        self.layers = layers
        self.exclude = exclude
        self.options = {"min_units": min_units, "round_to": round_to}
        self.whole = self.amounts() if whole is None else whole

    def amounts(self) -> list[float]:
        """Returns what the model costs now, by each target."""
        return [target.measure(self.model) for target in self.targets]

    def results(self) -> tuple[TargetResult, ...]:
        """Returns what has become of each target."""
        return results_of(self.model, self.targets, self.whole)

    def limits(self, progress: float, share: float = 1.0) -> list[float]:
        """Returns what each target allows on the way to it.

        Args:
            progress: How much of the way is done, from 0 to 1, in steps of
                the same factor; a target that is a schedule says itself what
                it allows by then.
            share: How much of what is missing now is wanted, from 0 to 1.
        """
        found = []
        for target, whole in zip(self.targets, self.whole, strict=True):
            limit = target.limit(whole, progress)
            if not callable(target.at_most) and limit < whole:
                limit = whole * (limit / whole) ** progress
            found.append(limit)
        if share < 1:
            found = [
                max(limit, now - share * (now - limit))
                if now > limit
                else limit
                for now, limit in zip(self.amounts(), found, strict=True)
            ]
        return found

    def check(self) -> None:
        """Raises a `ValueError` if a target cannot be reached at all."""
        analysis = analyse(self.model)
        why_not = {
            n: self.ranking.why_not(group) or "left out"
            for n, group in enumerate(analysis.groups)
        }
        numbers = self._numbers(analysis)
        check_reach(
            analysis, self.targets, self.whole, numbers, why_not, **self.options
        )

    def removal(
        self, analysis: Analysis, progress: float, share: float = 1.0
    ) -> Removal:
        """Returns the removal that a part of the way to the targets takes.

        Args:
            analysis: The model's units.
            progress: See `limits`.
            share: See `limits`.
        """
        chosen = self.choose(analysis, self.limits(progress, share))
        return self.ranking.removal(analysis, chosen)

    def remove(self, removal: Removal) -> Report:
        """Removes units, group by group where each has to be fitted."""
        refit = self.ranking.refitting()
        if refit is None:
            return shrink(self.model, removal)
        return shrink_group_by_group(self.model, removal, refit)

    def choose(
        self, analysis: Analysis, limits: Sequence[float]
    ) -> dict[int, np.ndarray]:
        """Chooses the units to remove, so that limits are met.

        Args:
            analysis: The model's units.
            limits: What each target allows.

        Returns:
            For groups, by index, the indices of units, ascending.
        """
        curves = self.ranking.curves(analysis, self._numbers(analysis))
        widths = widths_of(analysis)
        found = self._widths_within(analysis, curves, limits)
        return {
            number: curve.removed(int(found[number]))
            for number, curve in curves.items()
            if found[number] < widths[number]
        }

    def _numbers(self, analysis: Analysis) -> list[int]:
        """Returns the indices of the groups that may be pruned."""
        return [
            number
            for number, group in named_groups(
                analysis, self.layers, self.exclude
            )
            if not self.ranking.why_not(group)
        ]

    def _widths_within(
        self,
        analysis: Analysis,
        curves: Mapping[int, Curve],
        limits: Sequence[float],
    ) -> np.ndarray:
        """Finds widths at which all limits are met, measured ones included."""
        costs = [target.cost(analysis) for target in self.targets]
        before = widths_of(analysis)
        # An error is made wherever a group is read: each block of a residual
        # network reads the stream. Widths of queries only their layer sees.
        errors = {
            number: curve.error
            * max(1, len(analysis.groups[number].observations))
            for number, curve in curves.items()
        }
        measured = [n for n, t in enumerate(self.targets) if not t.counted]
        counts = list(limits)
        for n in measured:
            counts[n] = float(costs[n](before))
        found = allocate(costs, counts, before, errors, **self.options)
        for n in measured:
            target, allowed = self.targets[n], limits[n]
            # What met the limit, and what did not: pairs of count and time.
            below: tuple[float, float] | None = None
            above = counts[n], target.measure(self.model)
            if above[1] <= allowed:
                continue
            counts[n] *= allowed / above[1]
            for _ in tracked(
                range(_MEASUREMENTS), "Measuring narrower models", _MEASUREMENTS
            ):
                now = allocate(costs, counts, before, errors, **self.options)
                time = target.measure(_narrowed(analysis, now))
                if time <= allowed:
                    below, found = (float(costs[n](now)), time), now
                    if time > (1 - _NEAR) * allowed:
                        break
                else:
                    above = float(costs[n](now)), time
                counts[n] = _next_count(below, above, allowed)
            else:
                if below is None:
                    found = now
        return found


def check_reach(
    analysis: Analysis,
    targets: Sequence[Target],
    whole: Sequence[float],
    numbers: Collection[int],
    why_not: Mapping[int, str],
    min_units: int = 1,
    round_to: int = 1,
) -> None:
    """Checks that targets can be reached at all.

    Args:
        analysis: The model's units.
        targets: The targets.
        whole: What the model cost before it was pruned, by each target.
        numbers: Indices of the groups that may be pruned.
        why_not: For the other groups, by index, the reason.
        min_units: How many units every group keeps.
        round_to: Widths that change become multiples of it.

    Raises:
        ValueError: If one is out of reach, even with every group as narrow as
            it may be.
    """
    model = analysis.graph.model
    flat = {n: np.zeros(analysis.groups[n].size + 1) for n in numbers}
    reasons = "\n".join(
        f"  {group.name}: {why_not[n]}"
        for n, group in enumerate(analysis.groups)
        if n not in numbers
    )
    if not numbers:
        raise ValueError(
            f"Model '{model.name}' has no units that can be pruned:\n"
            f"{reasons or '  it has no unit groups'}"
        )
    costs = [target.cost(analysis) for target in targets]
    least = allocate(
        costs,
        [0.0] * len(costs),
        widths_of(analysis),
        flat,
        min_units=min_units,
        round_to=round_to,
    )
    for target, cost, before in zip(targets, costs, whole, strict=True):
        limit, amount = target.limit(before), float(cost(least))
        if not target.counted:
            amount = target.measure(_narrowed(analysis, least))
        if amount > limit:
            raise ValueError(
                f"Target {target!r} cannot be reached: at most "
                f"{target.show(limit)} is wanted, and with every group as "
                f"narrow as it may be it is {target.show(amount)}. Not "
                f"pruned:\n{reasons or '  nothing'}"
            )


def results_of(
    model: keras.Model, targets: Sequence[Target], whole: Sequence[float]
) -> tuple[TargetResult, ...]:
    """Returns what has become of targets.

    Args:
        model: The model as it is now.
        targets: The targets.
        whole: What the model cost before it was pruned, by each target.
    """
    return tuple(
        TargetResult(
            target, before, target.limit(before), target.measure(model)
        )
        for target, before in zip(targets, whole, strict=True)
    )


def _narrowed(analysis: Analysis, widths: np.ndarray) -> keras.Model:
    """Returns a copy of the model at other widths, compiled as the model."""
    removed: Any = {
        group.name: np.arange(width, group.size)
        for group, width in zip(analysis.groups, widths, strict=True)
        if width < group.size
    }
    model = analysis.graph.model
    narrowed = rebuild(model, Removal(removed))
    narrowed.run_eagerly = model.run_eagerly
    narrowed.jit_compile = model.jit_compile
    return narrowed


def _next_count(
    below: tuple[float, float] | None,
    above: tuple[float, float],
    allowed: float,
) -> float:
    """Returns the count to try next, so that a measured limit is just met.

    On the line between what met the limit and what did not; where nothing met
    it yet, on that through zero, and a little below.
    """
    if below is None:
        return 0.8 * above[0] * allowed / above[1]
    aim = (1 - _NEAR / 2) * allowed
    part = (aim - below[1]) / max(above[1] - below[1], 1e-12)
    return below[0] + min(max(part, 0.1), 0.9) * (above[0] - below[0])

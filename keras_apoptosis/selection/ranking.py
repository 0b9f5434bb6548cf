"""Ranks the units of each group, and replaces those that are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from keras_apoptosis import criteria
from keras_apoptosis.graph import Analysis, UnitGroup
from keras_apoptosis.graph.groups import obstacle
from keras_apoptosis.selection.candidate import (
    Candidate,
    removal_of,
)
from keras_apoptosis.selection.curves import Curve, score_curve
from keras_apoptosis.selection.mean_replacement import constant_for
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.statistics.constants import CONSTANTS
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.statistics.streaming import labelled_batches
from keras_apoptosis.surgery import Removal, Replacement
from keras_apoptosis.utils.checks import check_choice

# Fits the removal of one group, whose units have been chosen, to what the
# model has become.
Refitting = Callable[[Analysis, Removal], Removal]

REPLACEMENTS = (*CONSTANTS, "zero")
# Those, and combinations of the units that stay.
ALL_REPLACEMENTS = ("least_squares", *REPLACEMENTS)


class Ranking:
    """Ranks units by scores, and replaces those that are removed.

    Args:
        criterion: The criterion of units.
        replacement: What stands in for removed units: `"least_squares"`, one
            of `REPLACEMENTS`; `None` for least squares, or for the mean in
            groups whose units cannot be combined. A criterion that asks what
            becomes of the loss then asks that of the same constants.
        sample: The sample, in memory, or `None`.
        reconstruction: What fits replacements by least squares; `None` where
            that is not wanted.
        batch_size: How many samples to run at once.
        at: `"post"` if constants replace values after the activation,
            `"pre"` if before it.
    """

    def __init__(
        self,
        criterion: Any,
        replacement: str | None,
        sample: Any,
        reconstruction: Reconstruction | None = None,
        batch_size: int = 512,
        at: str = "post",
    ):
        self.constant = replacement if replacement in CONSTANTS else "mean"
        self.at = at
        self.criterion = criterion
        if criterion is not None:
            self.criterion = criterion.given(at=at, replacement=self.constant)
        self.replacement = replacement
        self.sample = sample
        self.reconstruction = reconstruction
        self.batch_size = batch_size

    def refitting(self) -> Refitting | None:
        """Returns what fits groups that are removed one by one.

        Means of units, as their combinations, are not what they were once
        the groups before them are narrower.

        Returns:
            A function to use for one removal; `None` if units are replaced by
            zero.
        """
        if self.replacement == "zero":
            return None
        fit = self.reconstruction
        passes = (
            SamplePasses(self.sample, self.batch_size)
            if fit is None
            else fit.passes()
        )

        def refit(analysis: Analysis, removal: Removal) -> Removal:
            (name,) = removal
            number = [each.name for each in analysis.groups].index(name)
            candidate = Candidate(removal[name], {})
            fitted = self._fit(analysis, number, candidate, passes)
            return removal_of(analysis, {number: fitted})

        return refit

    def why_not(self, group: UnitGroup) -> str:
        """Returns why a group cannot be pruned; `""` if it can."""
        if not group.removable:
            return group.reason
        if self.replacement == "least_squares":
            return obstacle(group, measured=True)
        return ""

    def curves(
        self, analysis: Analysis, numbers: Iterable[int]
    ) -> dict[int, Curve]:
        """Computes what is lost with every width of some groups.

        Args:
            analysis: The model's units.
            numbers: Indices of the groups.
        """
        scores = self.criterion.score(analysis.graph.model, self.sample)
        return {
            number: score_curve(scores[analysis.groups[number].name])
            for number in numbers
            if analysis.groups[number].name in scores
        }

    def removal(
        self, analysis: Analysis, removed: Mapping[int, np.ndarray]
    ) -> Removal:
        """Replaces units that are to be removed.

        Where groups are refitted, combinations of only the first are fitted
        here.

        Args:
            analysis: The model's units.
            removed: For groups, by index, the indices of the units.
        """
        names: Any = {analysis.groups[n].name: u for n, u in removed.items()}
        if self.reconstruction is None:
            return Removal(names, self._constants(analysis, names))
        candidates = {n: Candidate(u, {}) for n, u in removed.items()}
        for number in list(candidates)[:1]:
            candidates[number] = self._fit(analysis, number, candidates[number])
        return removal_of(analysis, candidates)

    def _fit(
        self,
        analysis: Analysis,
        number: int,
        candidate: Candidate,
        passes: SamplePasses | None = None,
    ) -> Candidate:
        """Fits what replaces units of one group."""
        group = analysis.groups[number]
        fit = self.reconstruction
        if fit is not None and not obstacle(group, measured=True):
            return fit.refit(analysis, number, candidate, passes)
        removed = {group.name: candidate.removed}
        found = self._constants(analysis, removed, passes)
        return Candidate(candidate.removed, found.get(group.name, {}))

    def _constants(
        self,
        analysis: Analysis,
        removed: Mapping[str, np.ndarray],
        passes: SamplePasses | None = None,
    ) -> Mapping[str, Mapping[str, Replacement]]:
        """Returns constants of units as replacements; none for zero."""
        if self.replacement == "zero":
            return {}
        return constant_for(
            analysis,
            self.sample,
            removed,
            self.at,
            self.constant,
            self.batch_size,
            passes,
        )


class RankingByReconstruction(Ranking):
    """Ranks units by what the kept ones explain.

    Args:
        reconstruction: Measures, and fits.
        replacement: See `Ranking`.
    """

    def __init__(
        self,
        reconstruction: Reconstruction,
        replacement: str = "least_squares",
    ):
        super().__init__(
            None,
            replacement,
            reconstruction.data,
            reconstruction if replacement == "least_squares" else None,
            reconstruction.batch_size,
        )
        self._choice = reconstruction

    def why_not(self, group: UnitGroup) -> str:
        return group.reason or obstacle(group, measured=True)

    def curves(
        self, analysis: Analysis, numbers: Iterable[int]
    ) -> dict[int, Curve]:
        numbers = list(numbers)
        measured = self._choice.measure(analysis, numbers)
        return {
            number: self._choice.curve(analysis, number, measured)
            for number in numbers
        }


def ranking_of(
    criterion: Any,
    replacement: str | None,
    sample: Any,
    samples: int = 4096,
    batch_size: int = 512,
    seed: int = 0,
) -> Ranking:
    """Returns the ranking by a criterion, and checks that it can work.

    Args:
        criterion: `"reconstruction"`, or a criterion of units: see
            `ka.criteria`.
        replacement: What stands in for removed units. `None` for least
            squares, or for the mean in groups whose units cannot be combined,
            or for zero without a sample.
        sample: Training samples, with labels where the criterion needs them;
            or `None`.
        samples: How many of them to use at most.
        batch_size: How many of them to run at once.
        seed: The seed of the random projection of `"reconstruction"`.

    Raises:
        ValueError: If the criterion or the replacement are unknown, or need a
            sample, or labels, that are not there.
    """
    by_reconstruction = criterion == "reconstruction"
    found = None
    if not by_reconstruction:
        found = criteria.get(criterion, "units")
    if replacement is None and sample is None:
        replacement = "zero"
    if replacement is not None:
        check_choice("replacement", replacement, ALL_REPLACEMENTS)
    needs = by_reconstruction or (found is not None and found.needs_data)
    if sample is None and (needs or replacement != "zero"):
        raise ValueError(
            "Units are judged, and replaced, by a sample of the training data. "
            "Pass one, as `data=(x_train[:4096], y_train[:4096])`. Received: "
            f"data=None, criterion={criterion!r}, replacement={replacement!r}"
        )
    if found is not None and found.needs_labels:
        next(labelled_batches(sample))  # Complains without labels.
    fit = Reconstruction(sample, samples, batch_size, seed=seed)
    if by_reconstruction:
        return RankingByReconstruction(fit, replacement or "least_squares")
    combines = replacement not in REPLACEMENTS
    return Ranking(
        found, replacement, sample, fit if combines else None, batch_size
    )

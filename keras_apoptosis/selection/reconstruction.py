"""Keeps the units that best explain what the consumers receive."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_apoptosis.graph import Analysis, Observation
from keras_apoptosis.selection.candidate import (
    Candidate,
    no_candidate,
    obstacle,
    outgoing,
)
from keras_apoptosis.selection.curves import Curve
from keras_apoptosis.selection.pursuit import (
    choose_units,
    refit,
    unexplained_curve,
)
from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.probe import collect, post_points
from keras_apoptosis.surgery import Replacement
from keras_apoptosis.surgery.absorption import takes_constants


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Chooses units by least squares on a sample.

    Kept are the units whose activations best explain what the consumers
    receive, until the unexplained part is at most `tolerance` of it (root
    mean square); the removed ones are replaced by the least-squares
    combination of all kept ones.

    Args:
        data: The sample; see `ka.unit_statistics`.
        samples: How many samples to use at most. At least four for each
            unit that is kept make a reliable fit.
        batch_size: How many to run at once.
        min_units: How many units every group keeps.
        round_to: Of what the number of kept units is a multiple.
        seed: Seed of the projection of the consumers' weights.
    """

    data: Any
    samples: int = 4096
    batch_size: int = 512
    min_units: int = 1
    round_to: int = 1
    seed: int = 0

    # The fit of a group changes what the groups after it see.
    one_by_one: ClassVar[bool] = True

    def measure(self, analysis: Analysis, numbers: list[int]) -> dict:
        """Second moments of some groups, from one pass over the sample."""
        points = [p for n in numbers for p in post_points(analysis, n)]
        return collect(
            analysis,
            points,
            self.data,
            batch_size=self.batch_size,
            samples=self.samples,
        )

    def choose(
        self,
        analysis: Analysis,
        number: int,
        tolerance: float,
        measured: dict[str, dict[str, Moments]],
    ) -> Candidate:
        """What may go of one group."""
        group = analysis.groups[number]
        why = obstacle(group, measured=True)
        if why:
            return no_candidate(why)
        choice = choose_units(
            self._observations(analysis, number, measured),
            tolerance,
            min_units=self.min_units,
            round_to=self.round_to,
            seed=self.seed,
        )
        if not choice.removed.size:
            return no_candidate("every unit is needed to explain the rest")
        return self.fit(analysis, number, choice.removed, measured)

    def curve(
        self,
        analysis: Analysis,
        number: int,
        measured: dict[str, dict[str, Moments]],
    ) -> Curve:
        """Records what stays unexplained with every number of kept units."""
        return unexplained_curve(
            self._observations(analysis, number, measured), seed=self.seed
        )

    def refit(
        self, analysis: Analysis, number: int, candidate: Candidate
    ) -> Candidate:
        """The same units, fitted to the model as it has become."""
        measured = self.measure(analysis, [number])
        return self.fit(analysis, number, candidate.removed, measured)

    def fit(
        self,
        analysis: Analysis,
        number: int,
        removed: np.ndarray,
        measured: dict[str, dict[str, Moments]],
    ) -> Candidate:
        """Fits what replaces chosen units of one group."""
        group = analysis.groups[number]
        kept = np.setdiff1d(np.arange(group.size), removed)
        replacements = {}
        for point in group.observations:
            mixing, constant, residual = refit(
                _gram(analysis, point, measured[group.name]),
                measured[group.name][point.name].mean,
                kept,
                removed,
                centre=takes_constants(analysis.graph, point),
            )
            replacements[point.name] = Replacement(
                constant=constant, mixing=mixing, residual=residual
            )
        return Candidate(removed, replacements)

    def _observations(
        self,
        analysis: Analysis,
        number: int,
        measured: dict[str, dict[str, Moments]],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Second moments and the consumers' weights, at each point."""
        group = analysis.groups[number]
        return [
            (
                _gram(analysis, point, measured[group.name]),
                outgoing(point, group.size),
            )
            for point in group.observations
        ]


def _gram(
    analysis: Analysis, point: Observation, moments: dict[str, Moments]
) -> np.ndarray:
    """Second moments, around the mean where consumers take constants."""
    found = moments[point.name]
    centred = takes_constants(analysis.graph, point)
    return found.covariance if centred else found.second_moment

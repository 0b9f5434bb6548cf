"""Keeps the units that best explain the inputs of their consumers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, Observation
from keras_apoptosis.graph.groups import obstacle
from keras_apoptosis.selection.candidate import (
    Candidate,
    no_candidate,
    outgoing,
)
from keras_apoptosis.selection.curves import Curve, error_of
from keras_apoptosis.selection.memory import check_memory
from keras_apoptosis.selection.pursuit import (
    choose_units,
    refit,
    unexplained_curve,
)
from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.probe import Point, collect, post_points
from keras_apoptosis.statistics.sample_gram import SampleGram
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.surgery import Replacement
from keras_apoptosis.surgery.absorption import takes_constants


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """Chooses units by least squares on a sample.

    Keeps the units whose activations best explain what the consumers
    receive, until the unexplained part is at most `tolerance` of it (root
    mean square). Removed units are replaced by the least-squares combination
    of all kept ones.

    Args:
        data: The sample; see `ka.unit_statistics`.
        samples: Integer > 0, the maximum number of samples. A reliable fit
            needs at least four for each kept unit.
        batch_size: Integer > 0. How many samples of an array to run at once.
        min_units: Integer > 0. How many units to keep in every group.
        round_to: Integer > 0. The number of kept units is a multiple of it.
        seed: Integer, the seed of the projection of the consumers' weights.
    """

    data: Any
    samples: int = 4096
    batch_size: int = 512
    min_units: int = 1
    round_to: int = 1
    seed: int = 0

    # The fit of a group changes what the groups after it see.
    one_by_one: ClassVar[bool] = True

    def measure(
        self,
        analysis: Analysis,
        numbers: list[int],
        passes: SamplePasses | None = None,
    ) -> dict[str, dict[str, Moments]]:
        """Measures second moments of some groups, in one pass over the sample.

        Args:
            analysis: The model's units.
            numbers: Indices of the groups.
            passes: See `collect`.

        Returns:
            For each group, by name, and each observation the moments.

        Raises:
            ValueError: If that would take more memory than
                `ka.selection.memory_limit`; nothing is measured then.
        """
        points = {n: post_points(analysis, n) for n in numbers}
        sizes = {n: analysis.groups[n].size for n in numbers}
        rows = {n: self._rows(analysis, points[n]) for n in numbers}
        check_memory(
            "Choosing units by reconstruction",
            max(sizes.values(), default=0),
            memory_needed(
                {n: (sizes[n], len(points[n])) for n in numbers}, rows
            ),
        )
        return collect(
            analysis,
            [point for n in numbers for point in points[n]],
            self.data,
            batch_size=self.batch_size,
            samples=self.samples,
            passes=passes,
        )

    def passes(self) -> SamplePasses:
        """Returns what runs the sample while groups are removed one by one."""
        return SamplePasses(self.data, self.batch_size, self.samples)

    def _rows(self, analysis: Analysis, points: list[Point]) -> float:
        """Returns how many values of each unit there are at most."""
        if collectives.together():  # Others' samples come as products.
            return math.inf
        tensors = analysis.graph.tensors
        found = [0.0]
        for point in points:
            count = 0.0
            for key, axis, places, _ in point.parts:
                shape = tensors[key].shape
                sizes = [s for n, s in enumerate(shape) if n not in (0, axis)]
                known = None not in sizes and axis != 0
                positions = math.prod(sizes) if known else math.inf
                count += self.samples * positions * len(places)
            found.append(count)
        return max(found)

    def choose(
        self,
        analysis: Analysis,
        number: int,
        tolerance: float,
        measured: dict[str, dict[str, Moments]],
    ) -> Candidate:
        """Chooses the units of one group to remove, and their replacements.

        Args:
            analysis: The model's units.
            number: Index of the group.
            tolerance: Number from 0 to below 1; see `choose_units`.
            measured: From `measure`.
        """
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
            overwrite=True,
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
        """Computes what is lost with every number of kept units.

        The error is the unexplained share beside the explained one; see
        `score_curve`.
        """
        found = unexplained_curve(
            self._observations(analysis, number, measured),
            seed=self.seed,
            overwrite=True,
        )
        return Curve(found.order, error_of(1 - found.error))

    def refit(
        self,
        analysis: Analysis,
        number: int,
        candidate: Candidate,
        passes: SamplePasses | None = None,
    ) -> Candidate:
        """Fits the replacements of a candidate to the model as it is now."""
        measured = self.measure(analysis, [number], passes)
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
                center=takes_constants(analysis.graph, point),
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
    ) -> list[tuple[np.ndarray | SampleGram, np.ndarray]]:
        """Returns second moments and the consumers' weights, at each point."""
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
) -> np.ndarray | SampleGram:
    """Returns second moments, around the mean where constants are taken."""
    centered = takes_constants(analysis.graph, point)
    return moments[point.name].second_moments(centered)


def memory_needed(
    groups: Mapping[int, tuple[int, int]],
    rows: Mapping[int, float] | None = None,
) -> float:
    """Estimates the memory that a choice takes at most.

    Args:
        groups: For each group the number of its units and of its
            observations, all of which are measured at once.
        rows: For each group how many values of a unit there are at most; as
            many as units or more by default.

    Returns:
        Number of bytes: for every observation a matrix of all pairs, or the
        values themselves where they are fewer than units, and what the choice
        and the fit of the largest group take beside it.
    """
    held, beside = 0.0, [0.0]
    for number, (size, count) in groups.items():
        values = math.inf if rows is None else rows[number]
        if values < size:
            # Beside them copies without the mean and without what the kept
            # units explain, and the fit: at most a kept unit for each value.
            each, more = 4 * values * size, 2 * 4 * values * size * count
            more += 8 * values * size
        else:
            each = 8.0 * size**2
            more = each * (count + 1)
        held += each * count
        beside.append(more)
    return held + max(beside)

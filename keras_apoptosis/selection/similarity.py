"""Neuron apoptosis by weights: merges units with similar synapses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from keras.activations import sigmoid, tanh

from keras_apoptosis.graph import Analysis, UnitGroup
from keras_apoptosis.graph.groups import obstacle
from keras_apoptosis.selection.candidate import (
    Candidate,
    no_candidate,
    outgoing,
)
from keras_apoptosis.selection.incoming_weights import (
    Incoming,
    NotComparable,
    incoming,
)
from keras_apoptosis.selection.limits import lowest_within_limits
from keras_apoptosis.selection.memory import check_memory
from keras_apoptosis.selection.merge_error import error_bound, measured_error
from keras_apoptosis.selection.parallel_units import (
    Merge,
    averaging,
    parallel_units,
    similar_outgoing,
)
from keras_apoptosis.selection.reconstruction import memory_needed
from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.probe import (
    Point,
    collect,
    post_points,
    pre_points,
)
from keras_apoptosis.surgery import Replacement


@dataclasses.dataclass(frozen=True)
class _Merging:
    """Base class of the rules.

    Args:
        min_units: Integer > 0. How many units to keep in every group.
        round_to: Integer > 0. The number of kept units is a multiple of it.
        data: A sample on which to measure the residuals of replacements; see
            `ka.unit_statistics`. Without one they are estimates.
        samples: Integer > 0, the maximum number of samples.
        batch_size: Integer > 0. How many samples of an array to run at once.
    """

    min_units: int = 1
    round_to: int = 1
    data: Any = None
    samples: int = 4096
    batch_size: int = 512

    one_by_one: ClassVar[bool] = False

    def measure(self, analysis: Analysis, numbers: list[int]) -> None:
        """Measures nothing: the rule needs weights only."""

    def _moments(
        self,
        analysis: Analysis,
        number: int,
        points_of: Callable[[Analysis, int], list[Point]],
    ) -> dict[str, Moments]:
        """Measures a group that is to be merged, where there is data."""
        if self.data is None:
            return {}
        group, points = analysis.groups[number], points_of(analysis, number)
        check_memory(
            "Measuring what a merge costs",
            group.size,
            memory_needed({number: (group.size, len(points))}),
        )
        found = collect(
            analysis,
            points,
            self.data,
            batch_size=self.batch_size,
            samples=self.samples,
        )
        return found.get(group.name, {})

    def choose(
        self,
        analysis: Analysis,
        number: int,
        factor: float,
        measured: None = None,
    ) -> Candidate:
        """Chooses the units of one group to remove, and their replacements.

        Args:
            analysis: The model's units.
            number: Index of the group.
            factor: Number above 1; see `parallel_units`.
            measured: Not used.
        """
        why = obstacle(analysis.groups[number])
        if why:
            return no_candidate(why)
        return self._merged(analysis, number, factor)

    def _merged(
        self, analysis: Analysis, number: int, factor: float
    ) -> Candidate:
        """Merges units of a group whose consumers can use replacements."""
        raise NotImplementedError


class IncomingSimilarity(_Merging):
    """Merges units whose incoming weights are nearly parallel.

    Neuron apoptosis, section V: unit 2 goes into unit 1 if
    `‖v₂ − α v₁‖ < ‖v₂‖ / factor`, with `α > 0` free for positively
    homogeneous activations and 1 for others. Where a normalization lies
    between, its scale and shift belong to `v`.

    The residual of a replacement is the root mean square of its error on the
    data, as `Reconstruction` has it. Without data it is an estimate:
    `error_bound` at `‖v₂ − α v₁‖`, times the scale of a normalization that
    follows. That is the error for a linear activation where inputs are
    independent, of zero mean and unit variance; for activations of slopes up
    to 1 the error is at most that.
    """

    def _merged(
        self, analysis: Analysis, number: int, factor: float
    ) -> Candidate:
        group = analysis.groups[number]
        try:
            seen = {
                each.name: incoming(analysis, number, each.sources[0])
                for each in group.observations
            }
        except NotComparable as why:
            return no_candidate(f"incoming weights cannot be compared: {why}")
        # Points of one group differ in what follows; compare by all of it.
        vectors = np.concatenate([each.vectors for each in seen.values()], 1)
        homogeneous = all(each.homogeneous for each in seen.values())
        strength = np.linalg.norm(
            np.concatenate(
                [outgoing(each, group.size) for each in group.observations], 1
            ),
            axis=1,
        )
        merge = _within_limits(
            parallel_units(
                vectors,
                factor,
                scale_free=homogeneous,
                importance=np.linalg.norm(vectors, axis=1) * strength,
            ),
            self.min_units,
            self.round_to,
        )
        if not merge.absorbed.size:
            return no_candidate(
                _why_not("incoming", vectors, factor, homogeneous)
            )
        moments = self._moments(analysis, number, post_points)
        activation = _activation(group)
        return Candidate(
            merge.absorbed,
            {
                name: _replacement(merge, each, activation, moments.get(name))
                for name, each in seen.items()
            },
        )


class OutgoingSimilarity(_Merging):
    """Merges sigmoid units whose outgoing weights are nearly parallel.

    Neuron apoptosis, proposition 1.2: if `w₂ ≈ α w₁`, the pair becomes one
    unit with outgoing weights `w₁ + w₂` and incoming `(v₁ + α v₂)/(1 + α)`.

    The residual of a replacement is `error_bound` at the root mean square of
    how far the inputs of the removed and of the merged sigmoid are apart: on
    the data, or, as in `IncomingSimilarity`, where inputs are independent, of
    zero mean and unit variance.
    """

    def _merged(
        self, analysis: Analysis, number: int, factor: float
    ) -> Candidate:
        group = analysis.groups[number]
        odd = [
            layer.name
            for layer in group.producers
            if getattr(layer, "activation", None) is not sigmoid
        ]
        if odd or len(group.producers) > 1 or len(group.observations) > 1:
            return no_candidate(
                "outgoing weights can be compared only where one sigmoid "
                f"layer feeds one observation, not in '{group.name}'"
            )
        (point,) = group.observations
        merge = _within_limits(
            similar_outgoing(outgoing(point, group.size), factor),
            self.min_units,
            self.round_to,
        )
        if not merge.absorbed.size:
            weights = outgoing(point, group.size)
            return no_candidate(_why_not("outgoing", weights, factor, True))
        mixing = np.zeros((merge.absorbed.size, merge.representatives.size))
        into = np.searchsorted(merge.representatives, merge.into)
        mixing[np.arange(into.size), into] = 1.0  # w = w₁ + w₂
        shares = averaging(merge, group.size)
        moments = list(self._moments(analysis, number, pre_points).values())
        if moments:
            apart = measured_error(moments[0], merge.absorbed, shares[into])
        else:
            vectors = incoming(analysis, number, point.sources[0]).vectors
            merged = (shares @ vectors)[into]
            apart = _lengths(vectors[merge.absorbed] - merged)
        return Candidate(
            merge.absorbed,
            {
                point.name: Replacement(
                    mixing=mixing,
                    incoming=shares,
                    residual=error_bound(apart, 1.0, activation="sigmoid"),
                )
            },
        )


def _why_not(
    side: str, vectors: np.ndarray, factor: float, scale_free: bool
) -> str:
    """Explains how far the most similar units are from being merged."""
    near = parallel_units(vectors, 1.0001, scale_free=scale_free).distance
    closest = f"{near.min():.2f}" if near.size else "1 or more"
    return (
        f"the closest {side} weights differ by {closest} of their length, and "
        f"below {1 / factor:.2f} is needed; small initial weights (standard "
        "deviation 0.001) with L2 regularization (1e-3) bring them together"
    )


def _within_limits(merge: Merge, min_units: int, round_to: int) -> Merge:
    """Drops merges, the least similar first, until enough units are kept."""
    size = merge.representatives.size + merge.absorbed.size
    order = np.sort(
        lowest_within_limits(merge.distance, size, min_units, round_to)
    )
    absorbed = merge.absorbed[order]
    return Merge(
        representatives=np.setdiff1d(np.arange(size), absorbed),
        absorbed=absorbed,
        into=merge.into[order],
        scale=merge.scale[order],
        distance=merge.distance[order],
    )


def _activation(group: UnitGroup) -> str:
    """Names the activation of a group, or one of slope 1 that bounds it."""
    names = {sigmoid: "sigmoid", tanh: "tanh"}
    if len(group.producers) > 1:  # Errors may add up beyond what one can be.
        return "relu"
    (layer,) = group.producers
    return names.get(getattr(layer, "activation", None), "relu")


def _replacement(
    merge: Merge, seen: Incoming, activation: str, moments: Moments | None
) -> Replacement:
    """Replaces `a₂` by `α a₁`, through a normalization that follows.

    With `a' = s a + t` for each unit, `a₂' = s₂ α (a₁' − t₁) / s₁ + t₂`.
    """
    one, two = merge.into, merge.absorbed
    with np.errstate(divide="raise"):
        ratio = merge.scale * seen.scale[two] / seen.scale[one]
    mixing = np.zeros((two.size, merge.representatives.size))
    into = np.searchsorted(merge.representatives, one)
    mixing[np.arange(two.size), into] = ratio
    constant = seen.shift[two] - ratio * seen.shift[one]
    if moments is None:
        missed = seen.vectors[two] - merge.scale[:, None] * seen.vectors[one]
        bound = error_bound(_lengths(missed), 1.0, activation=activation)
        residual = abs(seen.scale[two]) * bound
    else:
        combination = np.zeros((two.size, moments.size))
        combination[:, merge.representatives] = mixing
        residual = measured_error(moments, two, combination, constant)
    return Replacement(constant=constant, mixing=mixing, residual=residual)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=1)

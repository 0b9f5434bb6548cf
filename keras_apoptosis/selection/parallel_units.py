"""Finds units with parallel weights: the weight rule of neuron apoptosis."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# Units that are compared with all others at once: memory grows with the number
# of units, not with its square.
_ROWS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Merge:
    """Units that similar ones absorb.

    Args:
        representatives: Shape `(kept,)`, integers. Indices of the units that
            are kept, ascending.
        absorbed: Shape `(absorbed,)`, integers. Indices of the others,
            ascending.
        into: Shape `(absorbed,)`, integers. For each absorbed unit the index
            of its representative.
        scale: Shape `(absorbed,)`. The factor α of each absorbed unit.
        distance: Shape `(absorbed,)`. The relative distance from α times the
            representative: `‖v₂ − α v₁‖ / ‖v₂‖`.
    """

    representatives: np.ndarray
    absorbed: np.ndarray
    into: np.ndarray
    scale: np.ndarray
    distance: np.ndarray


def parallel_units(
    vectors: np.ndarray,
    factor: float,
    *,
    scale_free: bool,
    importance: np.ndarray | None = None,
) -> Merge:
    """Finds units with nearly the incoming weights of another unit.

    Neuron apoptosis, section V: unit 2 is similar to unit 1 if
    `‖v₂ − α v₁‖ < ‖v₂‖ / factor`. Units are visited from the most to the
    least important; a unit that is similar to no representative becomes a
    representative itself. So only representatives absorb units, and each
    unit is absorbed by the nearest of them. A unit without weights is similar
    to no other, and no other to it.

    Pairs come from matrix products of a block of units with all others.

    Args:
        vectors: Shape `(units, inputs)`, one row for each unit, the bias as
            one more input.
        factor: Finite float > 1. The larger, the closer units must be.
        scale_free: Whether the activation is positively homogeneous, as ReLU
            is: then `α = ⟨v₁, v₂⟩ / ‖v₁‖²`, which must be positive
            (proposition 2). Otherwise `α = 1` (proposition 1.1).
        importance: Shape `(units,)`. Defaults to the length of the vectors.

    Returns:
        The `Merge`.

    Raises:
        ValueError: If `factor` is out of range, or the arrays do not fit or
            are not finite.

    Example:

    >>> import numpy as np
    >>> v = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 0.3]])
    >>> merge = parallel_units(v, 1.75, scale_free=True)
    >>> merge.representatives, merge.absorbed, merge.into
    (array([1, 2]), array([0]), array([2]))
    """
    vectors, lengths = _checked("vectors", vectors)
    factor = _checked_factor(factor)
    order = _order(importance, lengths)
    pairs = _Pairs(vectors, lengths, factor, scale_free)

    kept = np.zeros(lengths.size, bool)
    waiting = order
    while waiting.size:
        # Only with those that wait: no chains, and no pair twice.
        similar = pairs.similar(waiting[:_ROWS], waiting)
        left = np.ones(waiting.size, bool)
        for place, near in enumerate(similar):
            if left[place]:
                kept[waiting[place]] = True
                left &= ~near
        left[: len(similar)] = False
        waiting = waiting[left]

    representatives = np.flatnonzero(kept)
    absorbed = np.flatnonzero(~kept)
    into = pairs.nearest(absorbed, representatives)
    scale, distance = _fit(vectors, lengths, absorbed, into, scale_free)
    return Merge(representatives, absorbed, into, scale, distance)


def similar_outgoing(
    outgoing: np.ndarray,
    factor: float,
    importance: np.ndarray | None = None,
) -> Merge:
    """Finds sigmoid units whose outgoing weights are nearly parallel.

    Neuron apoptosis, proposition 1.2: where `w₂ ≈ α w₁`, a single unit with
    outgoing weights `w₁ + w₂` and incoming weights `(v₁ + α v₂) / (1 + α)`
    replaces the pair; see `averaging` for the latter. The paper excludes
    `α = -1`. Here α must be positive: then the new incoming weights lie
    between the old ones. Towards -1 they grow without bound, out of the range
    in which a sigmoid is nearly linear, which the proof needs.

    Args:
        outgoing: Shape `(units, outputs)`, one row for each unit.
        factor: Finite float > 1. The larger, the closer units must be.
        importance: Shape `(units,)`. Defaults to the length of the rows.

    Returns:
        The `Merge`, with `w₂ ≈ scale * w₁`.

    Raises:
        ValueError: As `parallel_units`.

    Example:

    >>> import numpy as np
    >>> w = np.array([[2.0, 2.0], [1.0, 1.0], [1.0, -1.0]])
    >>> merge = similar_outgoing(w, 1.75)
    >>> merge.absorbed, merge.into, merge.scale.round(6)
    (array([1]), array([0]), array([0.5]))
    """
    return parallel_units(
        outgoing, factor, scale_free=True, importance=importance
    )


def averaging(merge: Merge, units: int) -> np.ndarray:
    """Returns incoming weights after a merge by outgoing ones, as a matrix.

    Neuron apoptosis, proposition 1.2, for any number of units: a
    representative r and the units J that it absorbs become
    `(v_r + Σ α_j v_j) / (1 + Σ α_j)`.

    Args:
        merge: From `similar_outgoing`.
        units: The number of units before the merge.

    Returns:
        Shape `(kept, units)`: its product with the incoming weights of all
        units, one row each, is those of the kept units.

    Raises:
        ValueError: If the merge has another number of units.

    Example:

    >>> import numpy as np
    >>> w = np.array([[2.0, 2.0], [1.0, 1.0], [1.0, -1.0]])
    >>> averaging(similar_outgoing(w, 1.75), 3).round(3)
    array([[0.667, 0.333, 0.   ],
           [0.   , 0.   , 1.   ]])
    """
    count = merge.representatives.size + merge.absorbed.size
    if count != units:
        raise ValueError(
            f"Expected `units` to be {count}, as in the merge. "
            f"Received: units={units}"
        )
    shares = np.zeros((merge.representatives.size, units))
    shares[np.arange(merge.representatives.size), merge.representatives] = 1.0
    into = np.searchsorted(merge.representatives, merge.into)
    shares[into, merge.absorbed] = merge.scale
    return shares / shares.sum(axis=1, keepdims=True)


class _Pairs:
    """Compares units by their relative distance, from cosines of pairs.

    With `c` the cosine and `q = ‖v₁‖ / ‖v₂‖`, the squared distance from unit
    2 to unit 1 over `‖v₂‖²` is `1 − c²` where α is free and
    `1 − 2 q c + q²` where it is 1.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        lengths: np.ndarray,
        factor: float,
        scale_free: bool,
    ):
        # Cosines in float32 are right to about 1e-7, far below `1 / factor²`,
        # unless someone asks for nearly exact copies.
        dtype = "float32" if factor <= 10 else "float64"
        self.lengths = lengths
        self.inverse = np.divide(
            1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0
        )
        self.directions = np.empty(vectors.shape, dtype)
        for start in range(0, len(vectors), _ROWS):
            here = slice(start, start + _ROWS)
            self.directions[here] = vectors[here] * self.inverse[here, None]
        self.bound = 1.0 / factor**2
        self.least_cosine = math.sqrt(1.0 - self.bound)
        self.scale_free = scale_free

    def similar(self, some: np.ndarray, units: np.ndarray) -> np.ndarray:
        """Returns which units are similar to some: shape `(some, units)`."""
        cosines = self.directions[some] @ self.directions[units].T
        if self.scale_free:  # The same as `1 − c² < bound` and `c > 0`.
            return cosines > self.least_cosine
        ratio = np.outer(self.lengths[some], self.inverse[units])
        return 1.0 + ratio * (ratio - 2.0 * cosines) < self.bound

    def nearest(self, units: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Returns for each of some units the nearest of others."""
        found = np.empty(units.size, int)
        others = self.directions[among].T
        for start in range(0, units.size, _ROWS):
            some = units[start : start + _ROWS]
            near = self.directions[some] @ others
            if not self.scale_free:
                ratio = np.outer(self.inverse[some], self.lengths[among])
                near = ratio * (2.0 * near - ratio)
            found[start : start + _ROWS] = among[near.argmax(axis=1)]
        return found


def _fit(
    vectors: np.ndarray,
    lengths: np.ndarray,
    units: np.ndarray,
    into: np.ndarray,
    scale_free: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes α and the relative distance from the vectors, in float64."""
    scale, distance = np.ones(units.size), np.zeros(units.size)
    for start in range(0, units.size, _ROWS):
        here = slice(start, start + _ROWS)
        two = vectors[units[here]].astype("float64", copy=False)
        one = vectors[into[here]].astype("float64", copy=False)
        if scale_free:
            scale[here] = _inner(one, two) / lengths[into[here]] ** 2
            one *= scale[here, None]
        two -= one
        distance[here] = np.sqrt(_inner(two, two)) / lengths[units[here]]
    return scale, distance


def _inner(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", one, two)


def _order(importance: Any, lengths: np.ndarray) -> np.ndarray:
    if importance is None:
        importance = lengths
    importance = np.asarray(importance, "float64")
    if importance.shape != lengths.shape or not np.isfinite(importance).all():
        raise ValueError(
            f"Expected `importance` as {lengths.size} finite numbers. "
            f"Received: importance={importance}"
        )
    return np.argsort(-importance, kind="stable")  # Ties: the first index.


def _checked(name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns an array with one vector for each unit, and their lengths."""
    value = np.asarray(value)
    if value.dtype not in ("float32", "float64"):
        value = value.astype("float32" if value.dtype.kind == "f" else "f8")
    if value.ndim != 2:
        raise ValueError(
            f"Expected `{name}` of shape (units, size), one row for each "
            f"unit. Received: {name} of shape {value.shape}"
        )
    lengths = np.zeros(len(value))
    for start in range(0, len(value), _ROWS):
        some = value[start : start + _ROWS].astype("float64", copy=False)
        lengths[start : start + _ROWS] = np.sqrt(_inner(some, some))
    if not np.isfinite(lengths).all():
        wrong = np.flatnonzero(~np.isfinite(lengths))
        raise ValueError(
            f"Expected `{name}` to be finite. Received: NaN, infinite or "
            f"huge numbers in rows {wrong[:8].tolist()}"
        )
    return value, lengths


def _checked_factor(factor: Any) -> float:
    try:
        number = float(factor)
    except (TypeError, ValueError):
        number = math.nan
    if not 1.0 < number < math.inf:
        raise ValueError(
            "Expected `factor` to be a finite number above 1. "
            f"Received: factor={factor}"
        )
    return number

"""Chooses the units that explain the others by least squares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_apoptosis.selection.curves import Curve
from keras_apoptosis.selection.limits import kept_count
from keras_apoptosis.statistics.sample_gram import SampleGram
from keras_apoptosis.utils.checks import check_count

# Of the mean diagonal of a Gram matrix: less than this is a unit that is
# (nearly) dead, or (nearly) explained by those chosen already. Dividing by
# it would blow up rounding errors.
_FLOOR = 1e-7
# Units that are worked on at once where a temporary array for all pairs would
# take too much memory.
_BLOCK = 256
# How many removed units are fitted at once.
_FITTED = 2048

# Second moments between units.
Gram = np.ndarray | SampleGram


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The units that are kept.

    Args:
        kept: Shape `(kept,)`, integers. Indices, ascending.
        removed: Shape `(removed,)`, integers. The other indices, ascending.
        unexplained: Shape `(points,)`. For each observation the share of the
            consumers' inputs that least squares on the kept units do not
            explain (root mean square).
    """

    kept: np.ndarray
    removed: np.ndarray
    unexplained: np.ndarray


def choose_units(
    observations: Sequence[tuple[Gram, np.ndarray]],
    tolerance: float,
    *,
    min_units: int = 1,
    round_to: int = 1,
    projection: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> Choice:
    """Chooses units that explain what the consumers receive from all.

    Simultaneous orthogonal matching pursuit in Gram form: each step keeps the
    unit that lowers most the part of the consumers' inputs that least squares
    on all kept units do not explain, until that is at most `tolerance` of the
    whole (root mean square). It equals a pivoted partial Cholesky factorization
    of the Gram matrix, with pivots by the consumers' weights.

    Several observation points share the kept units: each has its own
    least squares, and their squared shares are averaged. So a single point
    may stay somewhat above the tolerance.

    Args:
        observations: For each observation point a pair: second moments of
            the units there, of shape `(units, units)` (their covariance where
            the consumers can take in constants), as an array or as a
            `SampleGram`, and the weights of all consumers side by side, of
            shape `(units, outputs)`.
        tolerance: Float >= 0 and < 1.
        min_units: Integer > 0. How many units to keep at least.
        round_to: Integer > 0. The number of kept units is rounded up to a
            multiple of it, as far as there are units. The additional ones
            are chosen in the same way.
        projection: Integer > 0. Weights with more columns are projected to as
            many by a random matrix, which keeps squared errors on average.
            Another matrix measures the unexplained part, since the units are
            chosen to make it small in the first.
        seed: Integer, the seed of those matrices.
        overwrite: Whether second moments may be overwritten, which saves a
            copy of them.

    Returns:
        The `Choice`. Its `unexplained` is an estimate where weights were
        projected; `residual_after` is exact.

    Raises:
        ValueError: If arguments are out of range, or the arrays do not fit
            or are not finite.

    Example:

    Units 0 and 1 do the same, and unit 2 is constant.

    >>> import numpy as np
    >>> gram = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    >>> choose_units([(gram, np.ones((3, 1)))], tolerance=0.05).kept
    array([0])
    """
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(
            "Expected `tolerance` to be at least 0 and below 1. "
            f"Received: tolerance={tolerance}"
        )
    check_count("min_units", min_units)
    check_count("round_to", round_to)
    check_count("projection", projection)
    points, size = _pursuits(observations, projection, seed, overwrite)
    kept = np.zeros(size, bool)
    while _mean_share(points) > tolerance**2:
        if _take_best(points, kept) is None:
            break
    wanted = kept_count(int(kept.sum()), size, min_units, round_to)
    while kept.sum() < wanted and _take_best(points, kept) is not None:
        pass
    _fill(points, kept, wanted)
    return Choice(
        kept=np.flatnonzero(kept),
        removed=np.flatnonzero(~kept),
        unexplained=np.sqrt([point.share for point in points]),
    )


def unexplained_curve(
    observations: Sequence[tuple[Gram, np.ndarray]],
    *,
    projection: int = 64,
    seed: int = 0,
    until: float = 1e-6,
    overwrite: bool = False,
) -> Curve:
    """Records what stays unexplained with every number of kept units.

    It is the pursuit of `choose_units` to its end: the first `k` units are
    those that `choose_units` keeps if it keeps `k`.

    Args:
        observations: See `choose_units`.
        projection: See `choose_units`.
        seed: See `choose_units`.
        until: Float >= 0. Where the unexplained share is below, units follow
            in the order of their variance.
        overwrite: See `choose_units`.

    Returns:
        The `Curve`. Its error is the unexplained share of what the consumers
        receive, in energy (mean square); the mean over observation points.

    Raises:
        ValueError: As `choose_units`.

    Example:

    Units 0 and 1 do the same, and unit 2 is constant.

    >>> import numpy as np
    >>> gram = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    >>> unexplained_curve([(gram, np.ones((3, 1)))]).error.tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    check_count("projection", projection)
    points, size = _pursuits(observations, projection, seed, overwrite)
    kept = np.zeros(size, bool)
    order: list[int] = []
    shares = [_mean_share(points)]
    while shares[-1] > until:
        unit = _take_best(points, kept)
        if unit is None:
            break
        order.append(unit)
        shares.append(_mean_share(points))
    varied = np.sum([point.free for point in points], axis=0)
    rest = np.flatnonzero(~kept)
    order += rest[np.argsort(-varied[rest], kind="stable")].tolist()
    lost = np.zeros(size + 1)
    lost[: len(shares)] = shares
    lost[len(shares) : size] = shares[-1]
    lost[size] = 0.0
    return Curve(np.array(order, int), np.minimum.accumulate(lost))


def _mean_share(points: list[_Pursuit]) -> float:
    return sum(point.share for point in points) / len(points)


def _pursuits(
    observations: Sequence[tuple[Gram, np.ndarray]],
    projection: int,
    seed: int,
    overwrite: bool,
) -> tuple[list[_Pursuit], int]:
    """Prepares the pursuit at each observation, and counts the units."""
    random = np.random.default_rng(seed)
    points = []
    for gram, weights in observations:
        gram = _checked_gram(gram)
        weights = _checked_weights(weights, len(gram))
        guide = judge = weights
        if weights.shape[1] > projection:
            guide, judge = (
                weights
                @ random.standard_normal((weights.shape[1], projection))
                * projection**-0.5
                for _ in range(2)
            )
        points.append(_Pursuit(gram, guide, judge, overwrite))
    sizes = {len(point.gram) for point in points}
    if len(sizes) != 1:
        raise ValueError(
            "Expected at least one observation, and all of the same units. "
            f"Received: observations of {sorted(sizes)} units"
        )
    size = sizes.pop()

    return points, size


def refit(
    gram: Gram,
    mean: np.ndarray,
    kept: np.ndarray,
    removed: np.ndarray,
    *,
    ridge: float = 1e-4,
    center: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits the removed units to all kept ones by least squares.

    Args:
        gram: Shape `(units, units)`: the covariance, or the second moments
            around zero if `center` is false.
        mean: Shape `(units,)`.
        kept: Shape `(kept,)`, integers. Indices of the units that stay.
        removed: Shape `(removed,)`, integers. Indices of the others.
        ridge: Float >= 0. Penalty on the coefficients, as a share of the
            mean diagonal of `gram`.
        center: Whether constants can be replaced as well.

    Returns:
        A tuple `(mixing, constant, residual)`: a removed unit's activation
        is about `constant + mixing @ kept activations`. Shapes are
        `(removed, kept)`, `(removed,)` and `(removed,)`; `residual` is the
        root mean square of the error in each removed unit's activation.

    Raises:
        ValueError: If the arrays do not fit or are not finite, or kept units
            depend on each other and there is no ridge.

    Example:

    >>> import numpy as np
    >>> gram = np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    >>> mean = np.array([1.0, 3.0, 5.0])
    >>> mixing, constant, residual = refit(gram, mean, [1], [0, 2], ridge=0)
    >>> mixing.tolist(), constant.tolist(), residual.tolist()
    ([[0.5], [0.0]], [-0.5, 5.0], [0.0, 0.0])
    """
    import scipy.linalg  # Loaded at the first use.

    gram = _checked_gram(gram)
    mean = np.asarray(mean, "float64")
    if mean.shape != (len(gram),) or not np.isfinite(mean).all():
        raise ValueError(
            f"Expected `mean` as {len(gram)} finite numbers. "
            f"Received: mean={mean}"
        )
    kept, removed = _checked_parts(kept, removed, len(gram))
    if not ridge >= 0:
        raise ValueError(
            f"Expected `ridge` to be at least 0. Received: ridge={ridge}"
        )
    variances = gram.diagonal()
    penalty = ridge * gram.trace() / len(gram)
    # Without any variance every coefficient is 0 under any penalty.
    penalty = penalty if variances.any() else 1.0
    within = gram[np.ix_(kept, kept)]
    within[np.diag_indices(kept.size)] += penalty
    try:
        factor = scipy.linalg.cho_factor(within, overwrite_a=True)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "Expected kept units that do not depend on each other, or a "
            f"larger `ridge`. Received: ridge={ridge}, {kept.size} kept units"
        ) from error
    mixing = np.empty((removed.size, kept.size))
    unexplained = variances[removed]
    for start in range(0, removed.size, _FITTED):
        part = slice(start, start + _FITTED)
        across = gram[np.ix_(kept, removed[part])]
        found = scipy.linalg.cho_solve(factor, across)
        mixing[part] = found.T
        # diag(G_mm − 2 CᵀG_km + CᵀG_kk C), where G_kk C = G_km − penalty C.
        unexplained[part] -= np.einsum("km,km->m", found, across)
        unexplained[part] -= penalty * np.einsum("km,km->m", found, found)
    constant = np.zeros(removed.size)
    if center:
        constant = mean[removed] - mixing @ mean[kept]
    return mixing, constant, np.sqrt(np.maximum(unexplained, 0.0))


def residual_after(
    gram: Gram,
    weights: np.ndarray,
    kept: np.ndarray,
    mixing: np.ndarray,
) -> float:
    """Computes by how much a replacement changes the consumers' inputs.

    Args:
        gram: Shape `(units, units)`: second moments as for `refit`.
        weights: Shape `(units, outputs)`: those of all consumers, side by
            side.
        kept: Shape `(kept,)`, integers. Indices of the units that stay.
        mixing: Shape `(removed, kept)`, from `refit`.

    Returns:
        Root mean square of the change, relative to that of the whole.

    Raises:
        ValueError: If the arrays do not fit or are not finite.

    Example:

    >>> import numpy as np
    >>> gram, weights = np.eye(2), np.array([[4.0], [3.0]])
    >>> residual_after(gram, weights, [0], np.zeros((1, 1)))
    0.6
    """
    gram = _checked_gram(gram)
    weights = _checked_weights(weights, len(gram))
    mixing = np.asarray(mixing, "float64")
    removed = np.setdiff1d(np.arange(len(gram)), kept)
    kept, removed = _checked_parts(kept, removed, len(gram))
    if mixing.shape != (removed.size, kept.size):
        raise ValueError(
            f"Expected `mixing` of shape {(removed.size, kept.size)}. "
            f"Received: mixing of shape {mixing.shape}"
        )
    change = np.zeros_like(weights)  # In the weights of the original units.
    change[removed] = weights[removed]
    change[kept] = -mixing.T @ weights[removed]
    lost, whole = (float(np.sum(w * (gram @ w))) for w in (change, weights))
    return (max(lost, 0.0) / whole) ** 0.5 if whole > 0 else 0.0


class _Pursuit:
    """Matching pursuit at one observation point.

    With G the Gram matrix and W the weights: `received` is R, what units and
    the unexplained part of the consumers' inputs have in common (G W at
    first); `free` is D, what of each unit the chosen ones do not explain;
    `rows` hold columns of the Cholesky factor L. Once they are full, L Lᵀ is
    taken off G, and they start anew; `taken` are the units that they belong
    to.

    Args:
        gram: Shape `(units, units)`.
        guide: Shape `(units, outputs)`. Weights to choose by.
        judge: Shape `(units, outputs)`. Weights to measure the unexplained
            part by.
        overwrite: Whether the Gram matrix may be overwritten.
    """

    def __init__(
        self,
        gram: Gram,
        guide: np.ndarray,
        judge: np.ndarray,
        overwrite: bool = False,
    ):
        self.gram: Any = gram
        self.overwrite = overwrite
        self.received = np.ascontiguousarray(gram @ guide)
        self.spare = np.empty_like(self.received)
        self.judge = judge
        self.whole = max(float(np.sum(judge * (gram @ judge))), 0.0)
        self.left = self.whole
        self.free = gram.diagonal().copy()
        self.floor = _FLOOR * self.free.mean()
        rows = max(len(gram) // 4, 16)
        if isinstance(gram, SampleGram):  # There memory is short.
            rows = min(rows, _BLOCK)
        self.rows = np.empty((rows, len(gram)))
        self.taken: list[int] = []

    @property
    def share(self) -> float:
        """The unexplained share, in energy."""
        return max(self.left, 0.0) / self.whole if self.whole else 0.0

    def gains(self) -> np.ndarray:
        """Computes how much each unit lowers the share: ‖R_i‖² / (D_i r₀)."""
        gains = np.zeros(self.free.size)
        if self.whole:
            energy = np.einsum("ij,ij->i", self.received, self.received)
            energy /= self.whole
            np.divide(
                energy, self.free, out=gains, where=self.free > self.floor
            )
        return gains

    def take(self, unit: int) -> None:
        """Adds a unit to the chosen ones."""
        if not self.whole or not self.free[unit] > self.floor:
            return
        if len(self.taken) == len(self.rows):
            # Here one large product beats ever longer rows.
            self._take_off_rows()
        root = self.free[unit] ** 0.5
        # `einsum` and not `@`: so little work a call gains nothing from the
        # threads of a BLAS, and waits for them where other work is running.
        factor = self.rows[: len(self.taken)]
        column = self.gram[unit] - np.einsum(
            "k,kn->n", factor[:, unit].copy(), factor
        )
        column /= root
        np.multiply(column[:, None], self.received[unit] / root, out=self.spare)
        self.received -= self.spare
        self.left -= np.sum(np.einsum("n,np->p", column, self.judge) ** 2)
        self.free -= column**2
        self.free[unit] = 0.0  # Not a rounding error that may count again.
        self.rows[len(self.taken)] = column
        self.taken.append(unit)

    def _take_off_rows(self) -> None:
        """Takes L Lᵀ off G, block by block: G may be large."""
        taken, self.taken = self.taken, []
        if isinstance(self.gram, SampleGram):
            self.gram = self.gram.without(taken)
            return
        if not self.overwrite:
            self.gram = self.gram.copy()
            self.overwrite = True
        for start in range(0, len(self.gram), _BLOCK):
            here = slice(start, start + _BLOCK)
            self.gram[here] -= self.rows[:, here].T @ self.rows


def _take_best(points: list[_Pursuit], kept: np.ndarray) -> int | None:
    """Keeps the unit that explains most, if any does, and returns it."""
    gains = np.sum([point.gains() for point in points], axis=0)
    best = int(np.argmax(gains))
    if not gains[best] > 0.0:
        return None
    kept[best] = True
    for point in points:
        point.take(best)
    return best


def _fill(points: list[_Pursuit], kept: np.ndarray, wanted: int) -> None:
    """Keeps units that explain nothing, the most varied first."""
    missing = wanted - int(kept.sum())
    if missing > 0:
        varied = np.sum([point.free for point in points], axis=0)
        varied[kept] = -np.inf
        kept[np.argsort(-varied, kind="stable")[:missing]] = True


def _checked_gram(gram: Any) -> Any:
    if isinstance(gram, SampleGram):  # Of values that were checked.
        return gram
    gram = np.asarray(gram, "float64")
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not gram.size:
        raise ValueError(
            "Expected second moments of shape (units, units). "
            f"Received: an array of shape {gram.shape}"
        )
    if not np.isfinite(gram).all():
        raise ValueError(
            "Expected finite second moments. Received: NaN or infinite ones"
        )
    return gram


def _checked_weights(weights: Any, size: int) -> np.ndarray:
    weights = np.asarray(weights, "float64")
    if weights.ndim != 2 or weights.shape[0] != size:
        raise ValueError(
            f"Expected weights of shape ({size}, outputs), one row for each "
            f"unit. Received: weights of shape {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ValueError(
            "Expected finite weights. Received: NaN or infinite ones"
        )
    return weights


def _checked_parts(
    kept: Any, removed: Any, size: int
) -> tuple[np.ndarray, np.ndarray]:
    kept, removed = (np.asarray(part, "int64") for part in (kept, removed))
    both = np.sort(np.concatenate([kept, removed]))
    if not np.array_equal(both, np.arange(size)):
        raise ValueError(
            f"Expected each of {size} units either in `kept` or in "
            f"`removed`, once. Received: kept={kept}, removed={removed}"
        )
    return kept, removed

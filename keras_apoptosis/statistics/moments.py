"""Means and second moments of units, gathered batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_apoptosis.distributed import collectives
from keras_apoptosis.statistics.sample_gram import SampleGram
from keras_apoptosis.utils.checks import check_count, check_size

# Rows that are multiplied at once: bounds the rounding of a float32 sum, and
# the memory that a feature map takes beyond itself.
_ROWS = 16384
# Rows of small batches that wait to be multiplied at once, on a CPU: each
# product of a batch costs a pass over all pairs of units on top.
_WAITING = 2048
# Units that are worked on at once where a temporary array for all pairs would
# take too much memory.
_BLOCK = 256


class Moments:
    """Streaming statistics of units over observations.

    Products are taken in float32, where the values are, around a shift near
    the mean, and summed up in float64: a large mean cancels nothing, and
    memory does not grow with the number of observations. As long as there are
    fewer observations than units, they are kept instead of their products,
    which would take more memory; on a CPU those of small batches wait, to be
    multiplied some thousand at once.

    Args:
        size: Integer > 0. Number of units.
        gram: Whether to gather the second moments between units as well;
            otherwise only those of each unit.
        activity_tolerance: Float >= 0. A unit is active in an observation if
            its absolute value is above it.

    Example:

    >>> import numpy as np
    >>> moments = Moments(2)
    >>> moments.update(np.array([[1.0, 0.0], [3.0, 0.0]]))
    >>> moments.update(np.array([[5.0, 3.0]]))
    >>> moments.count, moments.mean, moments.active
    (3, array([3., 1.]), array([3, 1]))
    """

    def __init__(
        self, size: int, gram: bool = True, activity_tolerance: float = 0.0
    ):
        check_count("size", size)
        check_size("activity_tolerance", activity_tolerance)
        self.size = int(size)
        self.gram = bool(gram)
        self.activity_tolerance = float(activity_tolerance)
        self.count = 0
        self._shift = np.zeros(self.size)
        self._sum = np.zeros(self.size)  # Both around the shift.
        # Around the shift: sums of products, and observations that are not
        # in them yet.
        self._products: np.ndarray | None = None
        self._rows: list[np.ndarray] = []
        self._max_abs = np.zeros(self.size)
        self._active = np.zeros(self.size, "int64")

    def update(self, values: Any) -> None:
        """Takes in a batch of observations.

        Args:
            values: NumPy array or backend tensor of any numeric type, of
                shape `(observations, units)`. Half precision is cast to
                float32 first.

        Raises:
            ValueError: If the shape is another one, or values are not finite
                (or beyond what float32 can square). Nothing is taken in then.
        """
        shape = tuple(getattr(values, "shape", ()))
        if len(shape) != 2 or shape[1] != self.size:
            raise ValueError(
                f"Expected `values` of shape (observations, {self.size}). "
                f"Received: values of shape {shape}"
            )
        if not shape[0]:
            return
        count = self.count + shape[0]
        few = self._products is None and count < self.size
        small = shape[0] < _WAITING and _on_host(values)
        keep = self.gram and (few or small)
        with np.errstate(invalid="ignore", over="ignore"):  # Checked below.
            shift = self._shift if self.count else _first_mean(values)
            parts = [
                self._measure(values[start : start + _ROWS], shift, keep)
                for start in range(0, shape[0], _ROWS)
            ]
        for total, each, *_ in parts:
            _check_finite(total, each)
        self._shift = shift
        self.count = count
        for total, _, found, largest, active in parts:
            self._sum += total
            if keep:
                self._rows.append(found)
            else:
                self._square += found
            np.maximum(self._max_abs, largest, out=self._max_abs)
            self._active += active
        if keep and not few and sum(map(len, self._rows)) >= _WAITING:
            self._multiply()

    def merge(self, other: Moments) -> None:
        """Takes in what another one has gathered, from another worker say.

        Chan, Golub and LeVeque's formula for a pair of samples.

        Args:
            other: `Moments` made with the same arguments. It stays as it is.

        Raises:
            ValueError: If it was made with other arguments.
        """
        for name in ("size", "gram", "activity_tolerance"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"Expected moments with {name}={mine}. "
                    f"Received: {name}={theirs}"
                )
        if not other.count:
            return
        count = self.count + other.count
        centered = other._centered()
        mean = other.mean
        if self.count:
            apart = mean - self.mean
            centered = centered + self._centered()
            centered += self._product(apart) * (
                self.count / count * other.count
            )
            mean = self.mean + apart * (other.count / count)
        self._shift = _single(mean)
        rest = mean - self._shift
        self.count = count
        self._sum = rest * count
        self._square = centered + self._product(rest) * count
        self._max_abs = np.maximum(self._max_abs, other._max_abs)
        self._active = self._active + other._active

    def pool(self) -> None:
        """Takes in what all other workers have gathered, on each of them.

        The same as merging them one by one, by sums over the workers. On one
        process nothing changes.
        """
        if not collectives.together():
            return
        name = f"moments.{self.size}"
        count = int(collectives.all_reduce_sum(np.array(self.count), name))
        mean = collectives.all_reduce_sum(self.total, name) / max(count, 1)
        centered = np.zeros_like(self._square)
        if self.count:
            apart = self.mean - mean
            centered = self._centered() + self._product(apart) * self.count
        self._shift = _single(mean)
        rest = mean - self._shift
        self.count = count
        self._sum = rest * count
        self._square = collectives.all_reduce_sum(centered, name)
        self._square += self._product(rest) * count
        self._max_abs = collectives.all_reduce_max(self._max_abs, name)
        self._active = collectives.all_reduce_sum(self._active, name)

    @property
    def mean(self) -> np.ndarray:
        """Shape `(units,)`."""
        self._check_count()
        return self._shift + self._sum / self.count

    @property
    def variance(self) -> np.ndarray:
        """Shape `(units,)`. Mean square around the mean."""
        centered = self._centered()
        if self.gram:
            centered = centered.diagonal()
        return np.maximum(centered / self.count, 0.0)

    @property
    def covariance(self) -> np.ndarray:
        """Shape `(units, units)`. Mean products around the means."""
        if not self.gram:
            raise ValueError(
                "Expected moments that were made with `gram=True`, for others "
                "hold no products between units. Received: gram=False"
            )
        found = self._centered()  # A large array: changed in place.
        found /= self.count
        np.fill_diagonal(found, np.maximum(found.diagonal(), 0.0))
        return found

    def second_moments(self, centered: bool) -> np.ndarray | SampleGram:
        """Returns second moments between units, in the form that is smaller.

        Args:
            centered: Whether around the means, or around zero.
        """
        if self._products is not None or self.count >= self.size:
            return self.covariance if centered else self.second_moment
        rest = self._sum / self.count if centered else -self._shift
        rows = np.concatenate(self._rows)
        rows -= rest.astype("float32")
        return SampleGram(np.ascontiguousarray(rows.T))

    @property
    def second_moment(self) -> np.ndarray:
        """Shape `(units, units)`. Mean products, around zero."""
        found, mean = self.covariance, self.mean
        for start in range(0, self.size, _BLOCK):
            here = slice(start, start + _BLOCK)
            found[here] += mean[here, None] * mean
        return found

    @property
    def total(self) -> np.ndarray:
        """Shape `(units,)`. Sum over the observations."""
        return self._shift * self.count + self._sum

    @property
    def max_abs(self) -> np.ndarray:
        """Shape `(units,)`. Largest absolute value; 0 before the first."""
        return self._max_abs.copy()

    @property
    def active(self) -> np.ndarray:
        """Shape `(units,)`. In how many observations the unit is active."""
        return self._active.copy()

    @property
    def _square(self) -> np.ndarray:
        """Sums of products, or of squares, around the shift."""
        return self._multiply()

    @_square.setter
    def _square(self, products: np.ndarray) -> None:
        self._products, self._rows = products, []

    def _multiply(self) -> np.ndarray:
        """Adds the products of the rows that wait, and returns the sums."""
        if self._products is None:
            self._products = np.zeros((self.size,) * (2 if self.gram else 1))
        while self._rows:
            block: list[np.ndarray] = []
            while self._rows and sum(map(len, block)) < _WAITING:
                block.append(self._rows.pop(0))
            near = np.concatenate(block)
            self._products += near.T @ near
        return self._products

    def _measure(self, values: Any, shift: np.ndarray, keep: bool) -> tuple:
        """Measures some rows.

        Returns:
            Sums, sums of squares, the products (or the rows themselves, to
            `keep`), largest values and activity.
        """
        values, near, xp = _near(values, shift)
        if self.gram and not keep:
            found = xp.matmul(xp.transpose(near), near)
            each = xp.diagonal(found)
        else:
            each = xp.sum(xp.square(near), axis=0)
            found = near if keep else each
        absolute = xp.abs(values)
        results = (
            xp.sum(near, axis=0),
            each,
            found,
            xp.max(absolute, axis=0),
            xp.sum(absolute > self.activity_tolerance, axis=0),
        )
        return tuple(ops.convert_to_numpy(result) for result in results)

    def _product(self, vector: np.ndarray) -> np.ndarray:
        return np.outer(vector, vector) if self.gram else vector**2

    def _centered(self) -> np.ndarray:
        """Returns the sums of products around the mean."""
        self._check_count()
        found = self._product(self._sum)
        found /= self.count
        return np.subtract(self._square, found, out=found)

    def _check_count(self) -> None:
        if not self.count:
            raise ValueError(
                "Expected at least one observation before statistics are "
                "read. Received: count=0"
            )


def _near(values: Any, shift: np.ndarray) -> tuple[Any, Any, Any]:
    """Returns the values, those around the shift in float32, and a namespace.

    On a CPU that is NumPy: as fast as the backends, and it has nothing to
    compile for each new shape as JAX has. Elsewhere values stay where they
    are. The two share the names of all that is needed.
    """
    if not _on_host(values):
        values = ops.cast(values, "float32")
        shift = ops.convert_to_tensor(shift.astype("float32"))
        return values, values - shift, ops
    values = ops.convert_to_numpy(values)
    if values.dtype != "float64":
        values = values.astype("float32", copy=False)
    near = values - shift.astype(values.dtype)
    return values, near.astype("float32", copy=False), np


def _on_host(values: Any) -> bool:
    # TF names it ".../device:CPU:0", JAX "TFRT_CPU_0", PyTorch and NumPy "cpu".
    return "cpu" in str(getattr(values, "device", "cpu")).lower()


def _first_mean(values: Any) -> np.ndarray:
    head = ops.convert_to_numpy(values[:_ROWS]).astype("float64")
    return _single(head.mean(axis=0))


def _single(shift: np.ndarray) -> np.ndarray:
    # A shift that float32 holds exactly is the same on both of its sides.
    return shift.astype("float32").astype("float64")


def _check_finite(total: np.ndarray, each: np.ndarray) -> None:
    wrong = np.flatnonzero(~(np.isfinite(total) & np.isfinite(each)))
    if wrong.size:
        raise ValueError(
            "Expected finite values that float32 can square. Received: NaN, "
            f"infinite or huge values in {wrong.size} units, the first "
            f"{wrong[:8].tolist()}"
        )

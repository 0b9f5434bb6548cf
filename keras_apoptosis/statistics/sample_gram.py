"""Second moments of more units than there are samples, not multiplied out."""

from __future__ import annotations

from typing import Any

import numpy as np

# Units that are worked on at once where a temporary array for all samples
# would take too much memory.
_BLOCK = 4096


class SampleGram:
    """Acts as the matrix `values @ values.T / samples` without holding it.

    With fewer samples than units the values take less memory than their
    products. Products that are asked for are taken in float32, and returned
    in float64.

    Args:
        values: Shape `(units, samples)`, float32.

    Example:

    >>> from keras_apoptosis.statistics.sample_gram import SampleGram
    >>> gram = SampleGram(np.array([[1, 1], [2, 0], [0, 2]], "float32"))
    >>> gram[1].tolist(), gram.diagonal().tolist()
    ([1.0, 2.0, 0.0], [1.0, 2.0, 2.0])
    >>> gram[np.ix_([0, 1], [2])].tolist()
    [[1.0], [0.0]]
    """

    def __init__(self, values: np.ndarray):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> np.ndarray:
        """Returns a row, or with `np.ix_` those of some rows and columns."""
        if isinstance(key, tuple):
            rows, columns = (self.values[np.ravel(each)] for each in key)
            return self._mean(rows @ columns.T)
        return self._mean(self.values @ self.values[key])

    def __matmul__(self, weights: np.ndarray) -> np.ndarray:
        weights = weights.astype("float32")
        return self._mean(self.values @ (self.values.T @ weights))

    def diagonal(self) -> np.ndarray:
        """Returns the second moment of each unit."""
        squares = np.einsum(
            "us,us->u", self.values, self.values, dtype="float64"
        )
        return self._mean(squares)

    def trace(self) -> float:
        """Returns the sum of the second moments of all units."""
        return float(self.diagonal().sum())

    def without(self, units: list[int]) -> SampleGram:
        """Returns what least squares on some units do not explain."""
        basis = np.linalg.qr(self.values[units].T)[0]
        left = self.values.copy()
        for start in range(0, len(left), _BLOCK):
            here = left[start : start + _BLOCK]
            here -= (here @ basis) @ basis.T
        return SampleGram(left)

    def _mean(self, products: np.ndarray) -> np.ndarray:
        return products.astype("float64") / self.values.shape[1]

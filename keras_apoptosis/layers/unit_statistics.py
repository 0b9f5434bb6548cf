"""Statistics of the activations of a layer's units."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class UnitStatistics:
    """Activation statistics of the units of a layer.

    A sample is one value of a unit: one per example after a dense layer, one
    per example and position after a convolution.

    Args:
        count: Number of samples per unit; the same for all units.
        total: Shape `(units,)`. Sum of the activations.
        max_abs: Shape `(units,)`. Largest absolute activation, 0 before the
            first sample.
        active: Shape `(units,)`. Number of samples whose absolute activation
            is above the layer's `activity_tolerance`.

    Example:

    >>> import numpy as np
    >>> from keras_apoptosis.layers import UnitStatistics
    >>> seen = UnitStatistics(
    ...     count=4,
    ...     total=np.array([2.0, 0.0]),
    ...     max_abs=np.array([1.5, 0.0]),
    ...     active=np.array([3.0, 0.0]),
    ... )
    >>> seen.mean.tolist(), seen.active_share.tolist()
    ([0.5, 0.0], [0.75, 0.0])
    """

    count: float
    total: np.ndarray
    max_abs: np.ndarray
    active: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Shape `(units,)`. Mean activation, NaN before the first sample."""
        return self._per_sample(self.total)

    @property
    def active_share(self) -> np.ndarray:
        """Shape `(units,)`. `active / count`, NaN before the first sample."""
        return self._per_sample(self.active)

    def _per_sample(self, values: np.ndarray) -> np.ndarray:
        return (
            values / self.count if self.count else np.full_like(values, np.nan)
        )

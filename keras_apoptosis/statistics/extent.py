"""Streams the smallest and largest values of units, and their means."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_apoptosis.distributed import collectives


class Extent:
    """Streaming minimum, maximum and mean of units over observations.

    Example:

    >>> from keras_apoptosis.statistics.extent import Extent
    >>> extent = Extent()
    >>> extent.update(np.array([[1.0, -2.0], [3.0, -4.0]]))
    >>> extent.low.tolist(), extent.high.tolist(), extent.mean.tolist()
    ([1.0, -4.0], [3.0, -2.0], [2.0, -3.0])
    """

    def __init__(self) -> None:
        self.count = 0
        self.low = self.high = self._total = np.zeros(())

    def update(self, values: Any) -> None:
        """Takes in values of shape `(observations, units)`.

        Raises:
            ValueError: If they are not finite. Nothing is taken in then.
        """
        values = ops.cast(values, "float32")
        low, high, total = (
            ops.convert_to_numpy(reduce(values, axis=0)).astype("float64")
            for reduce in (ops.min, ops.max, ops.sum)
        )
        if not np.isfinite(total).all():
            raise ValueError(
                "Expected finite activations. Received: NaN or infinite sums "
                f"in {int((~np.isfinite(total)).sum())} units"
            )
        first = not self.count
        self.low = low if first else np.minimum(self.low, low)
        self.high = high if first else np.maximum(self.high, high)
        self._total = self._total + total
        self.count += values.shape[0]

    def pool(self) -> None:
        """Takes in what all other workers have measured, on each of them."""
        self.low = -collectives.all_reduce_max(-self.low, "low")
        self.high = collectives.all_reduce_max(self.high, "high")
        self._total = collectives.all_reduce_sum(self._total, "total")
        self.count = int(
            collectives.all_reduce_sum(np.array(self.count), "count")
        )

    @property
    def mean(self) -> np.ndarray:
        """Shape `(units,)`."""
        return self._total / self.count

    def reach(self, around_any: bool = False) -> np.ndarray:
        """Returns how far each unit went at most from zero.

        Args:
            around_any: Whether to measure from the constant that suits the
                unit best, where that is nearer than zero.

        Returns:
            Shape `(units,)`.
        """
        from_zero = np.maximum(np.abs(self.low), np.abs(self.high))
        around = (self.high - self.low) / 2
        return np.minimum(from_zero, around) if around_any else from_zero

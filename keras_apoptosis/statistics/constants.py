"""The constant that stands for a unit: its mean, median, minimum or maximum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis
from keras_apoptosis.statistics.probe import Point, collect, runs_of
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.utils.checks import check_choice

CONSTANTS = ("mean", "median", "minimum", "maximum")
# Each pass over the sample narrows the range of a median by this factor, so
# that three narrow it to what float32 tells apart.
_BINS = 256
_PASSES = 3


def constants_of(
    analysis: Analysis,
    points: Sequence[Point],
    data: Any,
    constant: str = "mean",
    batch_size: int = 512,
    passes: SamplePasses | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Computes a constant for each unit, over the sample of all workers.

    Args:
        analysis: The model's units.
        points: Where to measure them.
        data: The sample; labels are not needed. It is read once, for medians
            four times. Every position of a feature map counts as a sample.
        constant: `"mean"`, `"median"` (the lower of two in the middle),
            `"minimum"` or `"maximum"`.
        batch_size: How many samples of an array to run at once.
        passes: See `collect`.

    Returns:
        For each group and point, by name, shape `(units,)`.
    """
    check_choice("constant", constant, CONSTANTS)
    if not points:
        return {}
    if constant == "mean":
        moments = collect(
            analysis,
            points,
            data,
            gram=False,
            batch_size=batch_size,
            passes=passes,
        )
        return {
            group: {name: each.mean for name, each in found.items()}
            for group, found in moments.items()
        }
    values = _Values(
        lambda: runs_of(analysis, points, data, batch_size, passes=passes),
        points,
    )
    if constant == "median":
        arrays = values.medians()
    else:
        arrays = values.ends()[constant == "maximum"]
    named: dict[str, dict[str, np.ndarray]] = {}
    for point, array in zip(points, arrays, strict=True):
        named.setdefault(point.group, {})[point.name] = array
    return named


class _Values:
    """The values of units at some points, read batch by batch."""

    def __init__(
        self,
        runs: Callable[[], Iterator[dict[int, Any]]],
        points: Sequence[Point],
    ):
        self._runs = runs
        self.points = points

    def ends(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the minima, and the maxima, of each point."""
        # Signs are turned, so that both are maxima.
        found = [np.array([[-np.inf], [-np.inf]]) for _ in self.points]
        for number, values in self._read():
            ends = np.stack([-values.min(axis=0), values.max(axis=0)])
            found[number] = np.maximum(found[number], ends)
        found = [collectives.all_reduce_max(e, "constants") for e in found]
        return [-least for least, _ in found], [most for _, most in found]

    def medians(self) -> list[np.ndarray]:
        """Returns the medians of each point, by ever finer histograms."""
        low, high = self.ends()
        width = [
            (most - least) / _BINS
            for least, most in zip(low, high, strict=True)
        ]
        for _ in range(_PASSES):
            for n, counts in enumerate(self._histograms(low, width)):
                half = counts.sum(axis=1, keepdims=True) / 2
                # The first bin by whose end half of the values have come.
                bins = (counts.cumsum(axis=1) >= half).argmax(axis=1) - 1
                low[n] = low[n] + bins.clip(0, _BINS - 1) * width[n]
                width[n] = width[n] / _BINS
        return low

    def _histograms(
        self, low: Sequence[np.ndarray], width: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Counts the values in each bin, between one below and one above."""
        bins = _BINS + 2
        counts = [np.zeros((each.size, bins), "int64") for each in low]
        for number, values in self._read():
            step = np.where(width[number] > 0, width[number], 1)
            place = np.floor((values - low[number]) / step) + 1
            place = place.clip(0, bins - 1).astype("int64")
            place += bins * np.arange(place.shape[1])
            flat = np.bincount(place.reshape(-1), minlength=counts[number].size)
            counts[number] += flat.reshape(counts[number].shape)
        return [
            collectives.all_reduce_sum(each, "constants") for each in counts
        ]

    def _read(self) -> Iterator[tuple[int, np.ndarray]]:
        """Iterates over numbers of points, and `(rows, units)` there."""
        for tensors in self._runs():
            for number, point in enumerate(self.points):
                for value in point.values(tensors):
                    array = ops.convert_to_numpy(value)
                    yield number, array.astype("float64")

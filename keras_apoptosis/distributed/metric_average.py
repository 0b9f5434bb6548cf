"""Gives all workers the same logs."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed import collectives


class MetricAverage(keras.callbacks.Callback):
    """Averages the metrics of an epoch over the workers.

    Each worker measures its own part of the data. Callbacks that act on the
    logs, such as `EarlyStopping`, must come after this one in the list;
    otherwise some workers would stop without the others. The parts should have
    the same size, as those of `ka.distributed.shard` do.

    On one process it does nothing.

    Raises:
        RuntimeError: On all ranks, if their logs have different names.
    """

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not collectives.together() or not logs:
            return
        names = sorted(
            name
            for name, value in logs.items()
            if isinstance(value, numbers.Number) or np.ndim(value) == 0
        )
        collectives.assert_same(
            collectives.digest_of([str(names)]),
            "the names of their metrics",
            f"This rank has: {', '.join(names)}.",
        )
        values = np.array([float(logs[name]) for name in names])
        means = (
            collectives.all_reduce_sum(values, "metrics") / collectives.size()
        )
        logs.update(zip(names, map(float, means), strict=True))

"""Horovod, for the TensorFlow backend: by MPI, Gloo or NCCL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_apoptosis.distributed.engines.engine import Engine


class HorovodEngine(Engine):
    """Connects processes that `horovodrun` or `mpirun` started.

    Each gets one GPU of its host, if there are any.

    Args:
        timeout: How many seconds a rank may keep the others waiting.

    Raises:
        ImportError: If Horovod is not installed.
    """

    name = "Horovod"
    compilable = False  # XLA has no such ops.

    def __init__(self, timeout: float):
        # Horovod reads these when it starts. What the user has set is kept.
        seconds = str(max(1, round(timeout)))
        warn = str(max(1, min(60, round(timeout / 2))))
        os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", seconds)
        os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", warn)
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", seconds)
        import horovod.tensorflow as horovod

        horovod.init()
        self._horovod = horovod
        self.rank = horovod.rank()
        self.size = horovod.size()
        if self.size > 1:
            _take_gpu(horovod.local_rank())

    def reduce(self, values: np.ndarray, name: str, operation: str) -> Any:
        import tensorflow as tf

        found = self._horovod.allreduce(
            tf.convert_to_tensor(values),
            op={"sum": self._horovod.Sum, "max": self._horovod.Max}[operation],
            name=f"keras_apoptosis.{name}",
        )
        return np.array(found)  # A copy: what TensorFlow holds is read-only.

    def gather(self, value: Any, name: str) -> list[Any]:
        return self._horovod.allgather_object(
            value, name=f"keras_apoptosis.{name}"
        )

    def broadcast(self, value: Any, name: str) -> Any:
        return self._horovod.broadcast_object(
            value, root_rank=0, name=f"keras_apoptosis.{name}"
        )

    def average(
        self, tensors: Sequence[Any], name: str, compression: str = "none"
    ) -> list[Any]:
        # In one group, so that all workers reduce in the same order.
        return self._horovod.grouped_allreduce(
            list(tensors),
            op=self._horovod.Average,
            compression=getattr(self._horovod.Compression, compression),
            name=f"keras_apoptosis.{name}",
        )


def _take_gpu(number: int) -> None:
    """Limits TensorFlow to one of the host's GPUs."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[number % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)

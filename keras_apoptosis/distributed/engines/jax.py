"""`jax.distributed`, for the JAX backend: under `keras.distribution`."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed.engines.engine import Engine


class JaxEngine(Engine):
    """Connects processes that share the devices of a JAX program.

    The training step is one program over the devices of all processes, for
    the batches of all. Connected are processes that Keras'
    `KERAS_DISTRIBUTION_…` variables name, that SLURM or Open MPI started, or
    that the script has connected itself. A `keras.distribution` that the
    script has set is used; by default it is `DataParallel` over all devices.

    Random seeds are made the same on all, as the models must be.

    Args:
        timeout: How many seconds a rank may keep the others waiting.
    """

    name = "jax.distributed"
    whole_steps = True

    def __init__(self, timeout: float):
        import jax

        new = not jax.distributed.is_initialized()
        if new:
            seconds = max(1, round(timeout))
            connect: Any = jax.distributed.initialize
            connect(
                **_named_by_keras(),
                initialization_timeout=seconds,
                heartbeat_timeout_seconds=seconds,
                shutdown_timeout_seconds=seconds,
            )
        self.rank = jax.process_index()
        self.size = jax.process_count()
        if self.size > 1 and keras.distribution.distribution() is None:
            # Each process reads its own part of the data.
            keras.distribution.set_distribution(
                keras.distribution.DataParallel(auto_shard_dataset=False)
            )
        if new:
            mine = int(np.random.default_rng().integers(2**31))
            keras.utils.set_random_seed(self.broadcast(mine, "seed"))

    def reduce(self, values: np.ndarray, name: str, operation: str) -> Any:
        # In the order of ranks, so that all get the same bits.
        everyone = np.stack(self.gather(values, name))
        found = everyone.sum(0) if operation == "sum" else everyone.max(0)
        return found.astype(values.dtype)

    def gather(self, value: Any, name: str) -> list[Any]:
        # As bytes: JAX would round 64 bits to 32.
        mine = np.frombuffer(pickle.dumps(value), "uint8")
        sizes = _all_gathered(np.array(mine.size, "int32"))
        padded = np.zeros(sizes.max(), "uint8")
        padded[: mine.size] = mine
        everyone = _all_gathered(padded)
        return [
            pickle.loads(each[:size].tobytes())
            for each, size in zip(everyone, sizes, strict=True)
        ]

    def broadcast(self, value: Any, name: str) -> Any:
        return self.gather(value if self.rank == 0 else None, name)[0]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        # Else variables that are made here would wait for the others, as
        # those do that Keras makes when it saves a model.
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


def _all_gathered(value: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value))


def _named_by_keras() -> dict[str, Any]:
    """Returns the arguments that Keras' environment variables stand for."""
    number = os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES")
    if number is None:  # JAX itself finds what SLURM and Open MPI say.
        return {}
    addresses = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "")
    return {
        "coordinator_address": addresses.split(",")[0] or None,
        "num_processes": int(number),
        "process_id": int(os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]),
    }

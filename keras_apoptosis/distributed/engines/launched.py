"""Finds out which processes there are, and what connects them."""

from __future__ import annotations

import os
import sys

import keras

from keras_apoptosis.distributed.engines.engine import Engine
from keras_apoptosis.distributed.engines.horovod import HorovodEngine
from keras_apoptosis.distributed.engines.jax import JaxEngine
from keras_apoptosis.distributed.engines.torch import TorchEngine

# Variables by which launchers tell processes how many they are.
_SIZES = (
    "HOROVOD_SIZE",  # horovodrun
    "OMPI_COMM_WORLD_SIZE",  # mpirun of Open MPI
    "PMI_SIZE",  # mpirun of MPICH
    "WORLD_SIZE",  # torchrun
    "SLURM_STEP_NUM_TASKS",  # srun
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
)


def launched() -> int:
    """Returns how many processes the launcher says it started."""
    return max(int(os.environ.get(name) or 1) for name in _SIZES)


def start(timeout: float) -> Engine | None:
    """Connects this process to the others, by the engine of the backend.

    Args:
        timeout: How many seconds a rank may keep the others waiting.

    Returns:
        The engine; `None` if there are no other processes.

    Raises:
        RuntimeError: If a launcher started several processes that nothing
            here can connect.
    """
    count = launched()
    backend = keras.backend.backend()
    engine = already_connected()  # Refuses those of another backend.
    if engine is not None or (count == 1 and backend != "tensorflow"):
        return engine
    if backend == "tensorflow":
        engine = _start_horovod(timeout, count)
    elif backend == "torch":
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= {*os.environ}:
            raise RuntimeError(
                "On the PyTorch backend, processes are connected by "
                "`torch.distributed`: start them with `torchrun`. Received: "
                f"{count} processes, without the variables that it sets"
            )
        engine = TorchEngine(timeout)
    else:
        try:
            engine = JaxEngine(timeout)
        except ValueError as error:
            raise RuntimeError(
                "On the JAX backend, processes are connected by "
                "`jax.distributed`: start them with SLURM's `srun`, or name "
                "them by KERAS_DISTRIBUTION_JOB_ADDRESSES, …_NUM_PROCESSES and "
                f"…_PROCESS_ID. Received: {count} processes, and {error}"
            ) from error
    if engine is not None and engine.size != count > 1:
        raise RuntimeError(
            f"Expected {engine.name} to connect the {count} processes that "
            f"the launcher started. Received: {engine.size} processes"
        )
    return engine if engine is not None and engine.size > 1 else None


def _start_horovod(timeout: float, count: int) -> Engine | None:
    try:
        return HorovodEngine(timeout)
    except ImportError as error:
        if count > 1:
            raise RuntimeError(
                "On the TensorFlow backend, processes are connected by "
                "Horovod, which `python -m keras_apoptosis.distributed.install`"
                " builds and installs (or set KERAS_BACKEND to torch or jax). "
                f"Received: {count} processes, and {error}"
            ) from error
        return None


def already_connected() -> Engine | None:
    """Returns the engine of processes that the script itself has connected.

    Raises:
        RuntimeError: If a library has connected them that does not belong to
            the backend: they would remove different units.
    """
    found = {}
    torch = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        found["torch"] = torch.get_world_size()
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        found["jax"] = jax.process_count()
    found = {name: count for name, count in found.items() if count > 1}
    backend = keras.backend.backend()
    for name, count in found.items():
        if name != backend:
            raise RuntimeError(
                "Expected processes that are connected by the library of the "
                f"'{backend}' backend. For what one process does by itself, "
                f"use `ka.distributed.alone()`. Received: {count} processes "
                f"of `{name}.distributed`"
            )
    if not found:
        return None
    return TorchEngine(600.0) if backend == "torch" else JaxEngine(600.0)

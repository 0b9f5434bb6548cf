"""Reduces, gathers and compares values over the workers of a training.

On one process every function here is the identity, and Horovod is never
imported. All code that decides something about a model uses them: measurements
are summed before they are read (`all_reduce_sum`, `all_reduce_max`), and every
change is compared before it is made (`assert_same`). A method that measures
with `statistics.probe.collect`, removes units with `shrink` and masks weights
with `set_mask` supports several workers without further code.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed.watchdog import Watchdog

# Variables by which launchers tell processes how many they are.
_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_horovod: Any = None  # `horovod.tensorflow`, once there are several workers.
_started = False
_alone = False
_watchdog: Watchdog | None = None


def init(timeout: float = 600.0) -> None:
    """Joins the other processes of a training; call it first in a script.

    On one process it does nothing, with or without Horovod. Of several
    processes each gets one GPU of its host, if there are any.

    Args:
        timeout: Number of seconds > 0. A rank that keeps the others waiting
            for longer ends the job. It must be longer than anything that only
            some ranks do between two steps, such as writing a file.

    Raises:
        ValueError: If `timeout` is not above 0.
        RuntimeError: If a launcher started several processes, and Horovod is
            not installed or the backend is not TensorFlow.

    Example:

    >>> ka.distributed.init()
    >>> ka.distributed.rank(), ka.distributed.size()
    (0, 1)
    """
    global _horovod, _started, _watchdog
    if not timeout > 0:
        raise ValueError(
            "Expected `timeout` to be a number of seconds above 0. "
            f"Received: timeout={timeout}"
        )
    if _started:
        return
    launched = _launched()
    backend = keras.backend.backend()
    if backend != "tensorflow":
        if launched > 1:
            raise RuntimeError(
                "Training on several processes needs the TensorFlow backend: "
                "set KERAS_BACKEND=tensorflow. Received: backend "
                f"'{backend}', {launched} processes"
            )
        _started = True
        return
    # Horovod reads these when it starts. What the user has set is kept.
    seconds = str(max(1, round(timeout)))
    warn = str(max(1, min(60, round(timeout / 2))))
    os.environ.setdefault("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", seconds)
    os.environ.setdefault("HOROVOD_STALL_CHECK_TIME_SECONDS", warn)
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", seconds)
    try:
        import horovod.tensorflow as horovod
    except ImportError as error:
        if launched > 1:
            raise RuntimeError(
                "Training on several processes needs Horovod, which "
                "`python -m keras_apoptosis.distributed.install` builds and "
                f"installs. Received: {launched} processes, and {error}"
            ) from error
        _started = True
        return
    horovod.init()
    _started = True
    if horovod.size() > 1:
        _horovod = horovod
        name = f"Rank {horovod.rank()} of {horovod.size()}"
        # Later than Horovod's own error, which says more.
        _watchdog = Watchdog(name, 1.5 * timeout)
        _take_gpu(horovod.local_rank())


def rank() -> int:
    """Returns the number of this process, counted from 0.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    _check_started()
    return 0 if _horovod is None else _horovod.rank()


def size() -> int:
    """Returns how many processes train together: 1 without a launcher.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    _check_started()
    return 1 if _horovod is None else _horovod.size()


def is_primary() -> bool:
    """Returns whether this process is rank 0, which saves and prints.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    return rank() == 0


def watchdog() -> Watchdog | None:
    """Returns the watchdog of this process, or `None` on one process."""
    return _watchdog


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets one rank measure, mask or shrink a model by itself.

    Without it all ranks do this together, and a single rank would wait for the
    others until the timeout. Use it for what only one rank does, such as
    evaluating and shrinking the model further after the training.

    Example:

    >>> if ka.distributed.is_primary():
    ...     with ka.distributed.alone():
    ...         pass  # ka.shrink(model, ka.selection.dead_units(model, x))
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def together() -> bool:
    """Returns whether there are other workers to reduce with.

    Raises:
        RuntimeError: If there are other workers that Horovod does not know.
    """
    if _alone:
        return False
    if _horovod is None:
        _check_started()
        _check_other_launchers()
    return _horovod is not None


def horovod() -> Any:
    """Returns `horovod.tensorflow`, for use inside the compiled step."""
    return _horovod


def all_reduce_sum(values: Any, name: str) -> np.ndarray:
    """Returns the sum over all workers, in the type of the values.

    Args:
        values: A NumPy array of the same shape on all workers.
        name: A name for the operation, the same on all workers.
    """
    return _reduced(values, name, "Sum")


def all_reduce_max(values: Any, name: str) -> np.ndarray:
    """Returns the maximum over all workers; see `all_reduce_sum`."""
    return _reduced(values, name, "Max")


def all_gather(value: Any, name: str) -> list[Any]:
    """Returns the values of all workers, by rank.

    Args:
        value: Any object that can be pickled.
        name: A name for the operation, the same on all workers.
    """
    if not together():
        return [value]
    with _waiting():
        return _horovod.allgather_object(value, name=f"keras_apoptosis.{name}")


def broadcast(value: Any, name: str) -> Any:
    """Returns the value of rank 0.

    Args:
        value: Any object that can be pickled.
        name: A name for the operation, the same on all workers.
    """
    if not together():
        return value
    with _waiting():
        return _horovod.broadcast_object(
            value, root_rank=0, name=f"keras_apoptosis.{name}"
        )


def assert_same(digest: str, name: str, hint: str = "") -> None:
    """Raises an error on all workers unless all are about to do the same.

    Args:
        digest: What this worker is about to do, as a hash or short text.
        name: What is compared, for the error message.
        hint: A possible cause, for the error message.

    Raises:
        RuntimeError: On every worker, if their digests differ.
    """
    everyone = all_gather((name, digest[:16]), "agree")
    if len(set(everyone)) > 1:
        where: dict[str, list[str]] = {}
        same = len({each for each, _ in everyone}) == 1
        for number, (what, each) in enumerate(everyone):
            said = each if same else f"{what} ({each})"
            where.setdefault(said, []).append(f"rank {number}")
        groups = [f"{each} on {', '.join(w)}" for each, w in where.items()]
        raise RuntimeError(
            f"Expected all ranks to agree on {name}. {hint}"
            f"{' ' if hint else ''}Received: {'; '.join(groups)}"
        )


def digest_of(arrays: Iterable[Any]) -> str:
    """Returns a hash of the bits of arrays."""
    state = hashlib.sha256()
    for each in arrays:
        value = np.ascontiguousarray(each)
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(np.atleast_1d(value).view("uint8").data)
    return state.hexdigest()


def _reduced(values: Any, name: str, operation: str) -> np.ndarray:
    values = np.asarray(values)
    if not together():
        return values
    import tensorflow as tf

    with _waiting():
        found = _horovod.allreduce(
            tf.convert_to_tensor(values),
            op=getattr(_horovod, operation),
            name=f"keras_apoptosis.{name}",
        )
    return np.array(found)  # A copy: what TensorFlow holds is read-only.


def _launched() -> int:
    """Returns how many processes the launcher says it started."""
    return max(int(os.environ.get(name) or 1) for name in _SIZES)


def _check_started() -> None:
    launched = 1 if _started else _launched()
    if launched > 1:
        raise RuntimeError(
            "Call `ka.distributed.init()` at the beginning of the script. "
            f"Received: {launched} processes that do not know of each other"
        )


def _check_other_launchers() -> None:
    """Raises an error if processes train together by other means.

    They would not know of each other here, and remove different units.
    """
    for name, count in _other_processes().items():
        if count > 1:
            raise RuntimeError(
                "Training on several processes needs Horovod and the "
                "TensorFlow backend. For what one process does by itself, use "
                f"`ka.distributed.alone()`. Received: {count} processes of "
                f"`{name}`"
            )


def _other_processes() -> dict[str, int]:
    """Returns how many processes other libraries have connected."""
    found = {}
    torch = sys.modules.get("torch.distributed")
    if torch is not None and torch.is_available() and torch.is_initialized():
        found["torch.distributed"] = torch.get_world_size()
    if keras.backend.backend() == "jax":
        import jax

        found["jax.distributed"] = jax.process_count()
    return found


def _waiting() -> AbstractContextManager[None]:
    """Returns a context in which this process waits for the others."""
    return (
        contextlib.nullcontext() if _watchdog is None else _watchdog.waiting()
    )


def _take_gpu(number: int) -> None:
    """Limits TensorFlow to one of the host's GPUs."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[number % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)

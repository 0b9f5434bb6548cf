"""What the workers of a training know together: the seam for several ranks.

On one process all of it is the identity, and Horovod is never imported. All
code that decides anything about a model goes through these few functions:
measurements are summed before they are read (`all_reduce_sum`,
`all_reduce_max`), and what is about to be done is compared before it is done
(`assert_same`). A method that measures by `statistics.probe.collect`,
removes by `shrink` and masks by `set_mask` takes part without knowing of
workers at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed.watchdog import Watchdog

# What launchers tell the processes they start of their number.
_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_horovod: Any = None  # `horovod.tensorflow`, once there are several workers.
_started = False
_alone = False
_watchdog: Watchdog | None = None


def init(timeout: float = 600.0) -> None:
    """Joins the other processes of a training; call it first in a script.

    On one process it does nothing, with or without Horovod. With several,
    each gets one GPU of its host, where there are any.

    Args:
        timeout: Seconds > 0. A rank that keeps the others waiting for longer
            ends the job. It must be longer than the longest time between
            two steps in which ranks differ, such as one rank writing a file.

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
    # Read by Horovod when it starts; what the user has set stays.
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
        # Horovod's own error, which says more, has come by then.
        _watchdog = Watchdog(name, 1.5 * timeout)
        _take_gpu(horovod.local_rank())


def rank() -> int:
    """The number of this process, from 0.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    _check_started()
    return 0 if _horovod is None else _horovod.rank()


def size() -> int:
    """How many processes train together; 1 without a launcher.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    _check_started()
    return 1 if _horovod is None else _horovod.size()


def is_primary() -> bool:
    """Whether this is the process that saves and prints: rank 0.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    return rank() == 0


def watchdog() -> Watchdog | None:
    """What ends this process when it waits too long for others."""
    return _watchdog


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets one rank measure, mask or shrink a model by itself.

    Otherwise all ranks do it together, and a rank that does it alone waits
    for the others until the time is out. It is for what only one rank does,
    such as evaluating and shrinking further after the training.

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
    """Whether there are other workers to reduce with and to agree with."""
    return _horovod is not None and not _alone


def horovod() -> Any:
    """`horovod.tensorflow`, for collectives inside the compiled step."""
    return _horovod


def all_reduce_sum(values: Any, name: str) -> np.ndarray:
    """The sum over all workers, in the type of the values.

    Args:
        values: A NumPy array, of the same shape on all workers.
        name: What it is; the same on all workers.
    """
    return _reduced(values, name, "Sum")


def all_reduce_max(values: Any, name: str) -> np.ndarray:
    """The maximum over all workers; see `all_reduce_sum`."""
    return _reduced(values, name, "Max")


def all_gather(value: Any, name: str) -> list[Any]:
    """What each worker has, by rank: any object that can be pickled."""
    if not together():
        return [value]
    with _watchdog.waiting():
        return _horovod.allgather_object(value, name=f"keras_apoptosis.{name}")


def broadcast(value: Any, name: str) -> Any:
    """What rank 0 has: any object that can be pickled."""
    if not together():
        return value
    with _watchdog.waiting():
        return _horovod.broadcast_object(
            value, root_rank=0, name=f"keras_apoptosis.{name}"
        )


def assert_same(digest: str, name: str, hint: str = "") -> None:
    """Stops all workers unless they are about to do the same.

    Args:
        digest: What this worker is about to do, as a hash or short text.
        name: What it is, for the error.
        hint: What may be the cause, for the error.

    Raises:
        RuntimeError: On every worker, if not all have the same.
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
            f"Ranks differ in {name}, so the training cannot go on. {hint}"
            f"{' ' if hint else ''}Received: {'; '.join(groups)}"
        )


def digest_of(arrays: Any) -> str:
    """A hash of the bits of arrays."""
    state = hashlib.sha256()
    for each in arrays:
        value = np.ascontiguousarray(each)
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(value.view("uint8") if value.ndim else value.tobytes())
    return state.hexdigest()


def _reduced(values: Any, name: str, operation: str) -> np.ndarray:
    values = np.asarray(values)
    if not together():
        return values
    import tensorflow as tf

    with _watchdog.waiting():
        found = _horovod.allreduce(
            tf.convert_to_tensor(values),
            op=getattr(_horovod, operation),
            name=f"keras_apoptosis.{name}",
        )
    return np.array(found)  # A copy: what TensorFlow holds is read-only.


def _launched() -> int:
    """How many processes the launcher started, as far as it says."""
    return max(int(os.environ.get(name) or 1) for name in _SIZES)


def _check_started() -> None:
    launched = 1 if _started else _launched()
    if launched > 1:
        raise RuntimeError(
            "Call `ka.distributed.init()` first, in the beginning of the "
            f"script. Received: {launched} processes that know nothing of "
            "each other"
        )


def _take_gpu(number: int) -> None:
    """Shows TensorFlow one of the host's GPUs only, and all of its memory."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[number % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)

"""Reduces, gathers and compares values over the workers of a training.

On one process every function here is the identity. On several an engine
connects them: Horovod, `torch.distributed` or `jax.distributed`, by backend.
All code that decides something about a model uses these functions:
measurements are summed before they are read (`all_reduce_sum`,
`all_reduce_max`), and every change is compared before it is made
(`assert_same`). A method that measures with `statistics.probe.collect`,
removes units with `shrink` and masks weights with `set_mask` supports several
workers without further code.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.distributed import engines
from keras_apoptosis.distributed.watchdog import Watchdog

_engine: engines.Engine | None = None  # Once there are several workers.
_started = False
_alone = False
_watchdog: Watchdog | None = None


def init(timeout: float = 600.0) -> None:
    """Joins the other processes of a training; call it first in a script.

    By Horovod on the TensorFlow backend, by `torch.distributed` on PyTorch,
    and by `jax.distributed` on JAX, under the `keras.distribution` that is
    set or, by default, `DataParallel` over all devices. On one process it
    does nothing. Of several processes each gets one GPU of its host, if there
    are any (on JAX, what the launcher gives it).

    Args:
        timeout: Number of seconds > 0. A rank that keeps the others waiting
            for longer ends the job. It must be longer than anything that only
            some ranks do between two steps, such as writing a file.

    Raises:
        ValueError: If `timeout` is not above 0.
        RuntimeError: If a launcher started several processes, and the library
            that connects them is not installed or not meant for the backend.

    Example:

    >>> ka.distributed.init()
    >>> ka.distributed.rank(), ka.distributed.size()
    (0, 1)
    """
    global _started
    if not timeout > 0:
        raise ValueError(
            "Expected `timeout` to be a number of seconds above 0. "
            f"Received: timeout={timeout}"
        )
    if _started:
        return
    found = engines.start(timeout)
    _started = True
    if found is not None:
        _join(found, timeout)


def _join(engine: engines.Engine, timeout: float) -> None:
    global _engine, _watchdog
    _engine = engine
    # Later than an engine's own error, which says more.
    name = f"Rank {engine.rank} of {engine.size}"
    _watchdog = Watchdog(name, 1.5 * timeout)


def rank() -> int:
    """Returns the number of this process, counted from 0.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    found = engine()
    return 0 if found is None else found.rank


def size() -> int:
    """Returns how many processes train together: 1 without a launcher.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called.
    """
    found = engine()
    return 1 if found is None else found.size


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
    saving the model, or evaluating and shrinking it after the training. (On
    JAX the weights of a model that several processes have trained belong to
    all of them: save it alone, and load it alone to go on with it.)

    Example:

    >>> if ka.distributed.is_primary():
    ...     with ka.distributed.alone():
    ...         pass  # ka.shrink(model, ka.selection.dead_units(model, x))
    """
    global _alone
    before, _alone = _alone, True
    try:
        with contextlib.nullcontext() if _engine is None else _engine.alone():
            yield
    finally:
        _alone = before


def together() -> bool:
    """Returns whether there are other workers to reduce with.

    Raises:
        RuntimeError: See `engine`.
    """
    return not _alone and engine() is not None


def engine() -> engines.Engine | None:
    """Returns what connects this process to others, `None` without others.

    Raises:
        RuntimeError: If a launcher started several processes, and `init` was
            not called; or if they are connected by a library that does not
            belong to the backend.
    """
    if _engine is None:
        found = engines.already_connected()
        if found is not None:
            _join(found, 600.0)
        elif not _started and engines.launched() > 1:
            raise RuntimeError(
                "Call `ka.distributed.init()` at the beginning of the script. "
                f"Received: {engines.launched()} processes that do not know "
                "of each other"
            )
    return _engine


def connected() -> engines.Engine:
    """Returns the engine, where it is known that there is one."""
    found = engine()
    assert found is not None
    return found


def sees_all_batches() -> bool:
    """Returns whether the training step of each worker is that of all.

    Then gradients and whatever else a step updates is the same on all
    workers, and nothing of it is to be reduced.
    """
    found = engine()
    return found is not None and found.whole_steps


def all_reduce_sum(values: Any, name: str) -> np.ndarray:
    """Returns the sum over all workers, in the type of the values.

    Args:
        values: A NumPy array of the same shape on all workers.
        name: A name for the operation, the same on all workers.
    """
    return _reduced(values, name, "sum")


def all_reduce_max(values: Any, name: str) -> np.ndarray:
    """Returns the maximum over all workers; see `all_reduce_sum`."""
    return _reduced(values, name, "max")


def all_reduce_state(
    variable: keras.Variable, largest: bool = False
) -> np.ndarray:
    """Returns what the training steps of all workers have counted.

    Args:
        variable: A variable that the steps of each worker add to.
        largest: Whether the variable holds maxima instead of sums.
    """
    value = ops.convert_to_numpy(variable.value)
    if sees_all_batches():
        return value
    operation = "max" if largest else "sum"
    return _reduced(value, f"state.{value.size}", operation)


def all_gather(value: Any, name: str) -> list[Any]:
    """Returns the values of all workers, by rank.

    Args:
        value: Any object that can be pickled.
        name: A name for the operation, the same on all workers.
    """
    if not together():
        return [value]
    with _waiting():
        return connected().gather(value, name)


def broadcast(value: Any, name: str) -> Any:
    """Returns the value of rank 0.

    Args:
        value: Any object that can be pickled.
        name: A name for the operation, the same on all workers.
    """
    if not together():
        return value
    with _waiting():
        return connected().broadcast(value, name)


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
    with _waiting():
        return connected().reduce(values, name, operation)


def _waiting() -> AbstractContextManager[None]:
    """Returns a context in which this process waits for the others."""
    return (
        contextlib.nullcontext() if _watchdog is None else _watchdog.waiting()
    )

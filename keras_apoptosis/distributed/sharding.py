"""Splits data evenly over the workers."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed import collectives


def shard(data: Any) -> Any:
    """Returns this worker's part of the data.

    Each of N workers gets every N-th sample. The last samples, fewer than N,
    are dropped so that all parts have the same size: a worker with more
    batches than the others would wait for them forever. In order, batches of B
    samples on each worker make up the batches of N · B samples of one process.

    On one process the data is returned unchanged.

    Args:
        data: An array, or a tuple, list or dictionary of arrays with the same
            number of rows; or a `tf.data.Dataset` of single samples, not of
            batches.

    Returns:
        The part, in the same structure.

    Raises:
        ValueError: If arrays have different lengths, if there are fewer
            samples than workers, or if a dataset does not know its length.

    Example:

    >>> ka.distributed.init()
    >>> x, y = ka.distributed.shard((np.zeros((8, 2)), np.zeros(8)))
    >>> x.shape
    (8, 2)
    """
    size, rank = collectives.size(), collectives.rank()
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(data, tensorflow.data.Dataset):
        return _shard_dataset(data, size, rank)
    rows = _rows(data)
    _check_enough(rows, size)
    stop = rows - rows % size
    if size == 1:
        return data
    return keras.tree.map_structure(lambda each: each[rank:stop:size], data)


def _shard_dataset(data: Any, size: int, rank: int) -> Any:
    if size == 1:
        return data
    count = int(data.cardinality())
    if count == -2:
        raise ValueError(
            "Expected a dataset that knows its number of samples. Apply "
            "`tf.data.experimental.assert_cardinality(count)` to it. "
            f"Received: {data}"
        )
    if count >= 0:
        _check_enough(count, size)
        data = data.take(count - count % size)
    return data.shard(size, rank)


def shuffled_batches(
    x: Any,
    y: Any = None,
    *,
    batch_size: int = 32,
    seed: int = 0,
    first_epoch: int = 0,
) -> Iterator[Any]:
    """Iterates over shuffled batches, in the same order on all workers.

    The order within an epoch depends on the seed and the epoch only, neither
    on the number of workers nor on previous training. N workers together see
    what one process sees, and a resumed training continues with the next
    batches. (The order in which `fit` shuffles arrays itself cannot be
    restored by a resumed training.) The iterator never ends.

    Args:
        x: An array, or a tuple, list or dictionary of arrays.
        y: The same for the targets, or `None`.
        batch_size: Integer > 0. Size of the batch of all workers together, a
            multiple of their number. The last samples of an epoch, fewer than
            a batch, are dropped.
        seed: Integer >= 0. The seed of the order.
        first_epoch: Integer >= 0. The epoch to begin with: the
            `initial_epoch` of `fit`.

    Returns:
        An iterator over this worker's part of each batch. Pass
        `steps_per_epoch=len(x) // batch_size` to `fit`.

    Raises:
        ValueError: If arrays have different lengths, if there are fewer
            samples than a batch has, or if `batch_size` is not a multiple of
            the number of workers.

    Example:

    >>> data = ka.distributed.shuffled_batches(
    ...     np.arange(10), np.arange(10), batch_size=4
    ... )
    >>> x, y = next(data)
    >>> x.shape, np.array_equal(x, y)
    ((4,), True)
    """
    size = collectives.size()
    if not isinstance(batch_size, (int, np.integer)) or (
        batch_size < 1 or batch_size % size
    ):
        raise ValueError(
            "Expected `batch_size` to be a positive integer that is a "
            f"multiple of the number of workers, {size}. "
            f"Received: batch_size={batch_size}"
        )
    data = (x,) if y is None else (x, y)
    count = _rows(data)
    _check_enough(count, int(batch_size))
    return _shuffled(data, count, int(batch_size), seed, first_epoch)


def _shuffled(
    data: tuple, count: int, batch_size: int, seed: int, first_epoch: int
) -> Iterator[tuple]:
    for epoch in itertools.count(first_epoch):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            # Every N-th, as `shard` does.
            rows = order[start : start + batch_size]
            rows = rows[collectives.rank() :: collectives.size()]
            yield _taken(data, rows)


def _taken(data: tuple, rows: np.ndarray) -> tuple:
    return keras.tree.map_structure(lambda each: each[rows], data)


def _rows(data: Any) -> int:
    counts = {
        int(each.shape[0]) if getattr(each, "shape", None) else -1
        for each in keras.tree.flatten(data)
    }
    if len(counts) != 1 or -1 in counts:
        raise ValueError(
            "Expected arrays with the same number of rows, one per sample. "
            f"Received: {sorted(counts)} rows"
        )
    return counts.pop()


def _check_enough(count: int, needed: int) -> None:
    if count < needed:
        raise ValueError(
            "Expected at least one sample for each worker, and at least one "
            f"batch: {needed} samples. Received: {count} samples"
        )

"""Each worker's part of the data: as many samples for each, none twice."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed import collectives


def shard(data: Any) -> Any:
    """This worker's part of the data.

    Every worker gets every N-th sample, and as many: what is left over, fewer
    than N, is dropped, since a worker with more batches than the others would
    wait for them. Batches of B samples on each worker, in order, are then the
    batches of N · B samples of one process.

    On one process the data are returned as they are.

    Args:
        data: An array, or tuple, list or dictionary of arrays, of as many
            rows; or a `tf.data.Dataset` of single samples, not batches.

    Returns:
        The same, smaller.

    Raises:
        ValueError: If arrays have different lengths, or there are fewer
            samples than workers; or a dataset does not know its length.

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
            "Expected a dataset that knows how many samples it has; apply "
            "`tf.data.experimental.assert_cardinality(count)`. "
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
    """Batches of arrays for `fit`, shuffled alike on all workers, without end.

    The order of an epoch depends on the seed and the epoch alone: not on the
    number of workers, nor on what was trained before. So N workers see
    together what one process sees alone, and a training that resumes goes on
    with the batches that were next. (`fit` shuffles arrays itself in an order
    that a resumed training cannot know.)

    Args:
        x: Array, or tuple, list or dictionary of arrays.
        y: The same for the targets, or `None`.
        batch_size: Integer > 0. Samples of the batch of all workers together,
            a multiple of their number. What is left over at the end of an
            epoch, less than a batch, is dropped.
        seed: Integer >= 0. The seed of the order.
        first_epoch: Integer >= 0. The epoch it begins with: give `fit`'s
            `initial_epoch`.

    Returns:
        An iterator over this worker's part of each batch. Give `fit` its
        `steps_per_epoch=len(x) // batch_size`.

    Raises:
        ValueError: If arrays have different lengths, or there is no whole
            batch, or it cannot be cut evenly.

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
            "Expected arrays with as many rows each, one for each sample. "
            f"Received: {sorted(counts)} rows"
        )
    return counts.pop()


def _check_enough(count: int, needed: int) -> None:
    if count < needed:
        raise ValueError(
            "Expected at least one sample for each worker, and a whole batch: "
            f"{needed}. Received: {count} samples"
        )

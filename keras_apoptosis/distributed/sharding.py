"""Each worker's part of the data: as many samples for each, none twice."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np

from keras_apoptosis import workers


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
    size, rank = workers.size(), workers.rank()
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


class ShardedArrays(keras.utils.PyDataset):
    """Batches of arrays, shuffled alike on all workers, cut among them.

    The order of an epoch depends on the seed and the epoch alone: not on the
    number of workers, nor on what was trained before. So a training that
    resumes goes on with the very batches that were next, and N workers see
    together what one process sees alone.

    Args:
        x: Array, or tuple, list or dictionary of arrays.
        y: The same for the targets, or `None`.
        batch_size: Integer > 0. Samples of the batch of all workers together,
            a multiple of their number. What is left over at the end of an
            epoch, less than a batch, is dropped.
        seed: Integer >= 0. The seed of the order; `None` for that of the data.
        first_epoch: Integer >= 0. The epoch it begins with: give `fit`'s
            `initial_epoch`.

    Raises:
        ValueError: If arrays have different lengths, or there is no whole
            batch, or it cannot be cut evenly.

    Example:

    >>> data = ka.distributed.ShardedArrays(
    ...     np.arange(10), np.arange(10), batch_size=4
    ... )
    >>> len(data), data[0][0].shape
    (2, (4,))
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        seed: int | None = 0,
        first_epoch: int = 0,
    ):
        super().__init__()
        size = workers.size()
        if not isinstance(batch_size, (int, np.integer)) or (
            batch_size < 1 or batch_size % size
        ):
            raise ValueError(
                "Expected `batch_size` to be a positive integer that is a "
                f"multiple of the number of workers, {size}. "
                f"Received: batch_size={batch_size}"
            )
        self._data = (x,) if y is None else (x, y)
        rows = _rows(self._data)
        _check_enough(rows, int(batch_size))
        self.batch_size = int(batch_size)
        self.seed = seed
        self._count = rows
        self._epoch = int(first_epoch)
        self._order = self._shuffled()

    @property
    def num_batches(self) -> int:
        return self._count // self.batch_size

    def __getitem__(self, index: int) -> Any:
        start = index * self.batch_size
        # Every N-th, as `shard` does.
        rows = self._order[start : start + self.batch_size]
        rows = rows[workers.rank() :: workers.size()]
        batch = keras.tree.map_structure(lambda each: each[rows], self._data)
        return batch if len(batch) > 1 else batch[0]

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        if self.seed is None:
            return np.arange(self._count)
        random = np.random.default_rng((self.seed, self._epoch))
        return random.permutation(self._count)


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

"""Reads the inputs of a sample batch by batch, whatever holds the sample."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.distributed.long_work import tracked
from keras_apoptosis.utils.checks import check_count

_EXPECTED = (
    "Expected `data` to be an array, a list or dictionary of arrays, a tuple "
    "`(x, y)`, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` "
    "or an iterable of batches."
)


def batches(
    data: Any, batch_size: int = 512, samples: int | None = None
) -> Iterator[Any]:
    """Iterates over the inputs of a sample, one batch at a time.

    Only one batch is held at a time, so memory does not grow with the
    sample. Samples come in the order of the data, nothing is shuffled.

    What the data means follows `fit`: a tuple is `(x,)`, `(x, y)` or
    `(x, y, sample_weight)`, of which only `x` is used; a list or a
    dictionary holds the several inputs of a model. Items of a `PyDataset` or
    `DataLoader` that are lists count as tuples, since Keras reads the former
    so and PyTorch makes the latter so.

    Args:
        data: NumPy or backend arrays, or whatever can be cut like them (a
            `DataFrame`, a file on disk), alone, as list, dictionary or tuple;
            or a `tf.data.Dataset`, `keras.utils.PyDataset`, `DataLoader`,
            generator or other iterable, each of batches. A generator can be
            read once only.
        batch_size: Integer > 0. How many samples of an array to take at a
            time. All other sources keep their own batches.
        samples: Integer > 0, the maximum number of samples; the last batch is
            cut to fit. `None` for all. An endless source needs it.

    Returns:
        An iterator over the inputs: arrays of NumPy or the backend, in the
        structure of `x`.

    Raises:
        ValueError: If `data` is of no known kind, holds no samples, is
            endless without `samples`, or mixes arrays of different lengths.

    Example:

    >>> import numpy as np
    >>> x, y = np.zeros((5, 3)), np.zeros(5)
    >>> [batch.shape for batch in batches((x, y), batch_size=2, samples=3)]
    [(2, 3), (1, 3)]
    """
    return _stream(data, batch_size, samples, _inputs)


def labelled_batches(
    data: Any, batch_size: int = 512, samples: int | None = None
) -> Iterator[tuple[Any, Any, Any]]:
    """Iterates over a labelled sample, one batch at a time.

    Args:
        data: As for `batches`, where it is `(x, y)` or `(x, y,
            sample_weight)` or consists of such batches.
        batch_size: See `batches`.
        samples: See `batches`.

    Returns:
        An iterator over `(x, y, sample_weight)`; the last is `None` where
        there is none.

    Raises:
        ValueError: As `batches`, or if there are no labels.
    """
    for item in _stream(data, batch_size, samples, _labelled):
        yield (*item, None)[:3]


def sample_of(data: Any, samples: int) -> Any:
    """Loads the first samples of data into memory, to be read repeatedly.

    Args:
        data: Labelled or not; see `batches`.
        samples: How many samples to take at most.

    Returns:
        Arrays in the structure of `data`: `x`, `(x, y)` or `(x, y,
        sample_weight)`.
    """

    def whole(item: Any) -> Any:
        return item if isinstance(item, tuple) else (item,)

    parts = [
        keras.tree.map_structure(keras.ops.convert_to_numpy, batch)
        for batch in _stream(data, samples, samples, whole)
    ]
    sample = keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays), *parts
    )
    return sample if len(sample) > 1 else sample[0]


def _stream(
    data: Any,
    batch_size: int,
    samples: int | None,
    part: Callable[[Any], Any],
) -> Iterator[Any]:
    """Iterates over batches, of the wanted part of each item."""
    check_count("batch_size", batch_size)
    if samples is not None:
        check_count("samples", samples)

    count = None  # Of batches, where that is known.

    def listed(item: Any) -> Any:
        """Returns the part of an item, of which a list is meant as a tuple."""
        return part(tuple(item) if isinstance(item, list) else item)

    if _is(data, "tensorflow", "data.Dataset"):
        _refuse_endless(int(data.cardinality()) == -1, samples, data)
        stream: Iterator[Any] = map(part, data.as_numpy_iterator())
    elif isinstance(data, keras.utils.PyDataset):
        count = data.num_batches
        _refuse_endless(count is None, samples, data)
        stream = map(listed, _items(data, count))
    elif _is(data, "torch", "utils.data.DataLoader"):
        stream = map(listed, data)
    elif isinstance(data, (tuple, list, dict)) or _is_array(data):
        inputs = part(data)
        stream = _slices(inputs, batch_size)
        rows = _size(inputs)
        count = math.ceil(min(rows, samples or rows) / batch_size)
    elif _is_stream(data):
        stream = map(part, data)
    else:
        raise ValueError(f"{_EXPECTED} Received: {_describe(data)}")
    return tracked(_limited(stream, samples, data), "Running batches", count)


def lasting(data: Any, samples: int) -> Any:
    """Returns data that can be read repeatedly: of an iterator, its samples.

    Args:
        data: The sample; see `batches`.
        samples: How many samples of an iterator to keep at most.
    """
    return sample_of(data, samples) if isinstance(data, Iterator) else data


def _limited(
    stream: Iterable[Any], samples: int | None, data: Any
) -> Iterator[Any]:
    taken = 0
    for inputs in stream:
        size = _size(inputs)
        if samples is not None and taken + size > samples:
            size = samples - taken
            inputs = _cut(inputs, 0, size)
        if size:
            taken += size
            yield keras.tree.map_structure(_to_array, inputs)
            inputs = None  # Not two batches while the next is made.
        if taken == samples:  # Before one more batch is asked for.
            return
    if not taken:
        raise ValueError(
            "Expected `data` to hold at least one sample; a generator can be "
            f"read once only. Received: {_describe(data)}, which gave none"
        )


def _slices(inputs: Any, batch_size: int) -> Iterator[Any]:
    size = _size(inputs)  # Checked now rather than at the first batch.
    return (
        _cut(inputs, start, start + batch_size)
        for start in range(0, size, batch_size)
    )


def _items(data: Any, count: int | None) -> Iterator[Any]:
    index = 0
    while count is None or index < count:
        yield data[index]
        index += 1


def _inputs(item: Any) -> Any:
    """Returns the `x` of `x`, `(x,)`, `(x, y)` and so on, as `fit` does."""
    if not isinstance(item, tuple):
        return item
    if not 1 <= len(item) <= 3:
        raise ValueError(
            "Expected a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`; "
            "several inputs go into a list or dictionary. "
            f"Received: a tuple of {len(item)}"
        )
    return item[0]


def _labelled(item: Any) -> tuple[Any, ...]:
    """Returns an item as `(x, y)` or `(x, y, sample_weight)`."""
    parts = item if isinstance(item, tuple) else (item,)
    while parts and parts[-1] is None:
        parts = parts[:-1]
    if len(parts) not in (2, 3):
        raise ValueError(
            "Expected `data` with labels, `(x, y)` or `(x, y, "
            f"sample_weight)`. Received: {_describe(item)}"
        )
    return parts


def _size(inputs: Any) -> int:
    leaves = keras.tree.flatten(inputs)
    for leaf in leaves:
        if not _is_array(leaf):
            raise ValueError(
                "Expected the inputs to be arrays with one row for each "
                f"sample. Received: {_describe(leaf)}"
            )
    sizes = {int(leaf.shape[0]) for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(
            "Expected at least one input, and all inputs to have as many "
            f"samples. Received: inputs with {sorted(sizes)} samples"
        )
    return sizes.pop()


def _cut(inputs: Any, start: int, stop: int) -> Any:
    def cut(leaf: Any) -> Any:
        # A DataFrame counts rows through `iloc` only.
        rows: Any = getattr(leaf, "iloc", leaf)
        return rows[start:stop]

    return keras.tree.map_structure(cut, inputs)


def _to_array(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf):
        return leaf
    if _is(leaf, "torch", "Tensor"):  # With another backend.
        return leaf.detach().cpu().numpy()
    if hasattr(leaf, "__array__"):
        return np.asarray(leaf)
    raise ValueError(
        f"Expected the inputs to be dense arrays. Received: {_describe(leaf)}"
    )


def _is(value: Any, module: str, name: str) -> bool:
    """Tests for a class of a library that may not be imported.

    Who holds an instance has imported the library, so it is not imported
    here.
    """
    if module not in sys.modules:
        return False
    try:
        return isinstance(value, operator.attrgetter(name)(sys.modules[module]))
    except AttributeError:  # A library that is only half imported.
        return False


def _is_array(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return shape is not None and len(shape) > 0


def _is_stream(value: Any) -> bool:
    # A torch `Dataset` gives single samples, not batches.
    text = isinstance(value, (str, bytes, set, frozenset))
    single = _is(value, "torch", "utils.data.Dataset")
    return hasattr(value, "__iter__") and not text and not single


def _refuse_endless(endless: bool, samples: int | None, data: Any) -> None:
    if endless and samples is None:
        raise ValueError(
            "Expected `samples` for data without an end. "
            f"Received: samples=None, data={_describe(data)}"
        )


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{text} (of type {type(value).__name__})"

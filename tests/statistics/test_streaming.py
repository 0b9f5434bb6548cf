"""`batches`: every kind of source, one batch at a time."""

import itertools
import weakref

import keras
import numpy as np
import pytest

from keras_apoptosis.statistics import batches

X = np.arange(20, dtype="float32").reshape(10, 2)
Y = np.arange(10)


class Sequence(keras.utils.PyDataset):
    """Three batches of 4, 4 and 2 samples, or endless ones."""

    def __init__(self, make, count=3):
        super().__init__()
        self.make, self.count, self.read = make, count, []

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        rows = slice(4 * (index % 3), 4 * (index % 3) + 4)
        return self.make(X[rows], Y[rows])


def sizes(iterator):
    return [int(keras.tree.flatten(inputs)[0].shape[0]) for inputs in iterator]


def gathered(iterator):
    parts = [keras.ops.convert_to_numpy(inputs) for inputs in iterator]
    return np.concatenate(parts)


def tf_data(value):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(value).batch(4)


def loader(*arrays):
    data = pytest.importorskip("torch.utils.data")
    from torch import from_numpy

    tensors = (from_numpy(array) for array in arrays)
    return data.DataLoader(data.TensorDataset(*tensors), batch_size=4)


SOURCES = {
    "array": lambda: X,
    "x": lambda: (X,),
    "x y": lambda: (X, Y),
    "x y weights": lambda: (X, Y, Y),
    "tensor": lambda: keras.ops.convert_to_tensor(X),
    "tf.data x": lambda: tf_data(X),
    "tf.data x y": lambda: tf_data((X, Y)),
    "PyDataset tuple": lambda: Sequence(lambda x, y: (x, y)),
    "PyDataset list": lambda: Sequence(lambda x, y: [x, y]),
    "PyDataset x": lambda: Sequence(lambda x, y: x),
    "DataLoader x": lambda: loader(X),
    "DataLoader x y": lambda: loader(X, Y),
    "generator": lambda: (X[i : i + 4] for i in (0, 4, 8)),
    "generator x y": lambda: ((X[i : i + 4], Y) for i in (0, 4, 8)),
    "iterator": lambda: iter(Sequence(lambda x, y: (x, y))),
}


@pytest.mark.parametrize("limit", [None, 7, 8, 100])
@pytest.mark.parametrize("name", SOURCES)
def test_gives_the_inputs_in_order_up_to_the_limit(name, limit):
    expected = X[:limit]
    # Batches are of 4 here, as the sources' own.
    found = gathered(batches(SOURCES[name](), batch_size=4, samples=limit))
    np.testing.assert_array_equal(found, expected)
    assert (
        sizes(batches(SOURCES[name](), 4, limit))
        == {
            None: [4, 4, 2],
            7: [4, 3],
            8: [4, 4],
            100: [4, 4, 2],
        }[limit]
    )


@pytest.mark.parametrize(
    "inputs",
    [
        [X, Y],
        {"a": X, "b": Y},
        ({"a": X, "b": [X, Y]}, Y),
        ([X, Y], Y, Y),
    ],
)
def test_cuts_every_input_of_a_structure(inputs):
    found = list(batches(inputs, batch_size=6))
    wanted = inputs[0] if isinstance(inputs, tuple) else inputs
    assert sizes(found) == [6, 4]
    for number, part in enumerate(found):
        rows = slice(6 * number, 6 * number + 6)
        keras.tree.assert_same_structure(part, wanted)
        keras.tree.map_structure(
            lambda a, b, rows=rows: np.testing.assert_array_equal(a, b[rows]),
            part,
            wanted,
        )


@pytest.mark.parametrize("kind", [tf_data, lambda value: iter([value])])
def test_items_that_are_dictionaries_are_the_inputs(kind):
    (first, *_) = batches(kind({"a": X, "b": Y}))
    assert set(first) == {"a", "b"}
    np.testing.assert_array_equal(first["a"], X[: len(first["b"])])


def test_items_of_a_generator_that_are_lists_are_the_inputs():
    (item,) = batches(iter([[X, Y]]))
    np.testing.assert_array_equal(item[1], Y)


def test_takes_no_item_more_than_the_limit_needs():
    source = itertools.count()
    stream = (next(source) + np.zeros((4, 2)) for _ in itertools.count())
    assert sizes(batches(stream, samples=8)) == [4, 4]
    assert next(source) == 2
    endless = Sequence(lambda x, y: (x, y), count=None)
    assert sizes(batches(endless, samples=11)) == [4, 4, 2, 1]
    assert endless.read == [0, 1, 2, 3]


def test_holds_one_batch_at_a_time():
    made, alive = [], []

    def make():
        array = np.zeros((4, 2))
        made.append(weakref.ref(array))
        alive.append(sum(each() is not None for each in made))
        return array

    stream = batches(((make(), None) for _ in range(5)), samples=18)
    while next(stream, None) is not None:
        pass
    assert alive == [1, 1, 1, 1, 1]


def test_cuts_what_lies_on_disk_without_reading_all_of_it(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    first = next(batches(mapped, batch_size=3))
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, X[:3])


def test_cuts_data_frames_by_position():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=np.arange(10)[::-1])
    np.testing.assert_array_equal(gathered(batches(frame, 3, 7)), X[:7])


def endless():
    return tf_data(X).repeat()


def unbatched():
    data = pytest.importorskip("torch.utils.data")
    return type("Single", (data.Dataset,), {})()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "Expected `data` .* Received: None"),
        (3.0, r"Received: 3\.0 \(of type float\)"),
        ("mnist.npz", r"Received: 'mnist\.npz'"),
        ({1, 2}, "Received: {1, 2}"),
        (unbatched, "Expected `data` .* Received: "),
        (np.float32(1), r"Received: float32 of shape \(\)"),
        ([], "at least one input"),
        ((), "a tuple of 0"),
        ((X, X, Y, Y), "a tuple of 4"),
        ((None, Y), "to be arrays .* Received: None"),
        ([[1.0, 2.0], [3.0, 4.0]], "to be arrays .* Received: 1.0"),
        ([X, Y[:9]], r"inputs with \[9, 10\] samples"),
        (X[:0], "at least one sample"),
        (lambda: iter([]), "read once only"),
        (lambda: iter([None]), "to be arrays .* Received: None"),
        (lambda: iter([np.float32(1)]), "to be arrays"),
        (lambda: iter([([X, Y[:9]], Y)]), r"inputs with \[9, 10\] samples"),
        (lambda: Sequence(lambda x, y: x, count=0), "at least one sample"),
        (
            lambda: Sequence(lambda x, y: x, count=None),
            "Expected `samples` for data",
        ),
        (endless, "Expected `samples` for data"),
    ],
)
def test_says_what_is_wrong_with_the_data(data, message):
    data = data() if callable(data) else data
    with pytest.raises(ValueError, match=message):
        list(batches(data))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "8"])
def test_says_what_is_wrong_with_numbers(wrong):
    with pytest.raises(ValueError, match=r"`batch_size` .* Received"):
        batches(X, batch_size=wrong)
    with pytest.raises(ValueError, match=r"`samples` .* Received"):
        batches(X, samples=wrong)


def test_complains_before_the_first_batch_is_asked_for():
    with pytest.raises(ValueError, match="samples"):
        batches([X, Y[:9]])

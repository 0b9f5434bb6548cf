"""The data of the examples: shapes, ranges, and what is kept apart."""

import keras
import numpy as np
import pytest

from examples import datasets

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="data are read the same way whatever the backend",
)
# name, rows of train + validation, rows of test, shape of a row, classes.
EXPECTED = [
    ("digits", 1437, 360, (8, 8, 1), 10),
    ("mnist", 60_000, 10_000, (28, 28, 1), 10),
    ("cifar10", 50_000, 10_000, (32, 32, 3), 10),
    ("cifar100", 50_000, 10_000, (32, 32, 3), 100),
    ("svhn_cropped", 73_257, 26_032, (32, 32, 3), 10),
    ("higgs", None, 10_000, (28,), 2),
]
READ_ALIKE = [("cifar10", 10), ("cifar100", 100), ("svhn_cropped", 10)]


@pytest.mark.parametrize(
    ("name", "rows", "test_rows", "shape", "classes"), EXPECTED
)
def test_load(name, rows, test_rows, shape, classes):
    if not datasets.is_prepared(name):
        pytest.skip(f"{name} is not here; examples/datasets.py downloads it")
    data = datasets.load(name, verbose=False)
    kept = len(data.y_train) + len(data.y_val)
    assert rows in (None, kept)
    assert len(data.y_val) == kept // 10
    assert len(data.y_test) == test_rows
    assert data.input_shape == shape
    assert data.num_classes == classes
    for part in ("train", "val", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert x.shape == (len(y), *shape)
        assert (x.dtype, y.dtype) == ("float32", "int32")
        assert np.isfinite(x).all()
        assert set(np.unique(y)) == set(range(classes))
    if len(shape) == 3:
        assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    else:
        np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(data.x_train.std(0), 1, atol=1e-3)


def test_digits_are_split_not_changed():
    from sklearn.datasets import load_digits

    data = datasets.load("digits", verbose=False)
    parts = (data.x_train, data.x_val, data.x_test)
    rows = np.concatenate(parts).reshape(-1, 64) * 16
    everything = load_digits().data
    assert sorted(map(tuple, rows)) == sorted(map(tuple, everything))


def test_loading_again_gives_the_same_split():
    first = datasets.load("digits", verbose=False)
    keras.utils.set_random_seed(1)
    second = datasets.load("digits", verbose=False)
    np.testing.assert_array_equal(first.x_val, second.x_val)
    np.testing.assert_array_equal(first.y_test, second.y_test)


def test_it_says_what_it_loaded(capsys):
    datasets.load("digits")
    assert "1,294 / 143 / 360 rows" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "classes"), READ_ALIKE)
def test_images_without_a_download(name, classes, monkeypatch):
    """What TFDS would read: bytes, and labels of its own type."""
    import tensorflow_datasets as tfds

    features = tfds.builder(name).info.features
    assert features["image"].shape == (32, 32, 3)
    assert features["label"].num_classes == classes
    labels = np.arange(4 * classes) % classes
    images = np.zeros((labels.size, 32, 32, 3), "uint8") + 51
    part = {"image": images, "label": labels, "coarse_label": labels}
    monkeypatch.setattr(datasets, "_prepare", lambda name, say: None)
    monkeypatch.setattr(datasets, "_read", lambda name, splits: [part, part])
    data = datasets.load(name, verbose=False)
    assert data.num_classes == classes
    assert data.x_train.shape == (36 * classes // 10, 32, 32, 3)
    np.testing.assert_allclose(data.x_train, 0.2)
    np.testing.assert_array_equal(data.y_test, labels)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"digits, mnist.*name='minst'"):
        datasets.load("minst")

"""The datasets of the examples and benchmarks, as plain arrays.

    python examples/datasets.py mnist cifar10

loads them once and prints their shapes. There are digits, mnist, cifar10,
cifar100, svhn_cropped, higgs and higgs_full. `digits` comes with scikit-learn;
the others are read, and where needed downloaded, by tensorflow-datasets into
`$TFDS_DATA_DIR` (default `~/tensorflow_datasets`).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
HIGGS_TEST_ROWS = 10_000
HIGGS_TRAIN_ROWS = 500_000  # of 11 million, to fit into memory anywhere

# A checkout may have a folder beside it that fills tensorflow-datasets without
# a network. Without one, tensorflow-datasets downloads.
OFFLINE = Path(__file__).resolve().parents[2] / "shared/data/prepare.py"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Arrays to train, to choose and to judge a model with.

    Images are float32 in [0, 1] with shape `(rows, height, width, channels)`;
    features are float32, standardised with the training part's mean and
    standard deviation. Labels are int32 from 0. The validation part is 10 %
    of the training data, the same rows every time; the test part is only for
    the last judgement.
    """

    name: str
    num_classes: int
    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row of `x_train`."""
        return self.x_train.shape[1:]

    def __str__(self) -> str:
        rows = " / ".join(
            f"{len(y):,}" for y in (self.y_train, self.y_val, self.y_test)
        )
        return (
            f"{self.name}: {rows} rows to train / validate / test, "
            f"shape {self.input_shape}, {self.num_classes} classes"
        )


def load(name: str, verbose: bool = True) -> Dataset:
    """A dataset by name.

    Args:
        name: `"digits"`, `"mnist"`, `"cifar10"`, `"cifar100"`,
            `"svhn_cropped"`, `"higgs"` or `"higgs_full"`, of all rows.
        verbose: Whether to say what goes on.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: If there is no dataset of that name.
    """
    if name not in READERS:
        raise ValueError(
            f"`name` must be one of {', '.join(READERS)}. "
            f"Received: name={name!r}"
        )
    say = print if verbose else lambda *_, **__: None
    begin = time.perf_counter()
    say(f"Loading {name} ...", flush=True)
    x, y, x_test, y_test = READERS[name](say)
    chosen = np.random.default_rng(SEED).permutation(len(y))
    val, train = np.split(chosen, [len(y) // 10])
    # In the original order: training shuffles anyway.
    val, train = np.sort(val), np.sort(train)
    x_train, x_val = x[train], x[val]
    if x.ndim == 2:
        mean, scale = x_train.mean(0), x_train.std(0) + 1e-7
        x_train, x_val, x_test = (
            (part - mean) / scale for part in (x_train, x_val, x_test)
        )
    data = Dataset(
        name,
        num_classes=int(y.max()) + 1,
        x_train=x_train,
        y_train=y[train],
        x_val=x_val,
        y_val=y[val],
        x_test=x_test,
        y_test=y_test,
    )
    say(f"{data} ({time.perf_counter() - begin:.1f} s)", flush=True)
    return data


def is_prepared(name: str) -> bool:
    """Whether `load(name)` needs no download."""
    if name == "digits":
        return True
    folder = Path(_tfds().builder(name.removesuffix("_full")).data_dir)
    return (folder / "dataset_info.json").exists()


def _digits(say: Callable) -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x, x_test, y, y_test = train_test_split(
        (data.images[..., None] / 16).astype("float32"),
        data.target.astype("int32"),
        test_size=0.2,
        stratify=data.target,
        random_state=SEED,
    )
    return x, y, x_test, y_test


def _images(name: str) -> Callable[[Callable], tuple[np.ndarray, ...]]:
    def read(say: Callable) -> tuple[np.ndarray, ...]:
        _prepare(name, say)
        arrays = []
        for part in _read(name, ["train", "test"]):
            arrays.append(part["image"].astype("float32") / 255)
            arrays.append(part["label"].astype("int32"))
        return tuple(arrays)

    return read


def _higgs(most: float) -> Callable[[Callable], tuple[np.ndarray, ...]]:
    def read(say: Callable) -> tuple[np.ndarray, ...]:
        _prepare("higgs", say)
        # TFDS has one split, whose rows it shuffles once and for all: its last
        # rows are a fixed random sample.
        splits = _tfds().builder("higgs").info.splits
        rows = splits["train"].num_examples - HIGGS_TEST_ROWS
        arrays = []
        for part in _read(
            "higgs", [f"train[:{min(rows, most)}]", f"train[{rows}:]"]
        ):
            y = part.pop("class_label").astype("int32")
            columns = [part[column] for column in sorted(part)]
            arrays += [np.stack(columns, axis=1).astype("float32"), y]
        return tuple(arrays)

    return read


READERS = {
    "digits": _digits,
    "mnist": _images("mnist"),
    "cifar10": _images("cifar10"),
    "cifar100": _images("cifar100"),
    "svhn_cropped": _images("svhn_cropped"),
    "higgs": _higgs(HIGGS_TRAIN_ROWS),
    "higgs_full": _higgs(np.inf),
}


def _tfds() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "This dataset needs tensorflow-datasets: "
            "pip install 'keras-apoptosis[datasets,tensorflow]'"
        ) from error
    return tensorflow_datasets


def _prepare(name: str, say: Callable) -> None:
    """Fill tensorflow-datasets with `name`, unless it is there."""
    if is_prepared(name):
        return
    if OFFLINE.exists():
        say(f"Preparing {name} with {OFFLINE} ...", flush=True)
        command = [sys.executable, str(OFFLINE), name]
        if subprocess.run(command, check=False).returncode == 0:
            return
        say("That failed.", flush=True)
    say(f"Downloading {name} with tensorflow-datasets ...", flush=True)
    _tfds().builder(name).download_and_prepare()


def _read(name: str, splits: list[str]) -> list[dict[str, np.ndarray]]:
    """Each split whole, as arrays by feature."""
    tfds = _tfds()
    parts = tfds.load(name, split=splits, batch_size=-1, download=False)
    return [dict(part) for part in tfds.as_numpy(parts)]


if __name__ == "__main__":
    for each in sys.argv[1:]:
        load(each)

"""Exported models before and after pruning: difference, size, latency.

    KERAS_BACKEND=tensorflow python benchmarks/deployment.py

A CNN with random weights is pruned by `ka.prune` to a quarter of its FLOPs,
exported in every format that Keras writes from this backend, and quantized.
Printed are the largest difference to the outputs of the model, as a part of
the largest output, before pruning and after it; the sizes of what was written;
and the median time of a batch of 32 after pruning, as a part of the time
before. Both run turn by turn.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _measure import batch_of, machine, seconds

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from tests.exported import FORMATS, export, load, obstacle

LIBRARIES = (
    "ai-edge-litert",
    "jax2onnx",
    "litert-torch",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorflow-cpu",
    "tf2onnx",
    "torch",
)
Written = tuple[Callable[[np.ndarray], object], int]


def cnn() -> keras.Model:
    """Convolutions that take the time, and a dense layer with the weights."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(10),
        ]
    )


def as_keras(model: keras.Model, folder: pathlib.Path) -> Written:
    model.save(file := folder / "model.keras")
    return keras.saving.load_model(file).predict_on_batch, size(file)


def quantized(mode: str) -> Callable[[keras.Model, pathlib.Path], Written]:
    def write(model: keras.Model, folder: pathlib.Path) -> Written:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.quantize(mode)
        return as_keras(copy, folder)

    return write


def exported(form: str) -> Callable[[keras.Model, pathlib.Path], Written]:
    def write(model: keras.Model, folder: pathlib.Path) -> Written:
        file = export(model, form, folder, rows=32)
        serve = load(form, file)
        return serve, size(folder)

    return write


def size(path: pathlib.Path) -> int:
    """Returns the bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())


def rows() -> Iterator[tuple[str, ...]]:
    models = {"before": cnn(), "after": cnn()}
    ka.prune(models["after"], ka.targets.Flops(0.25), criterion="squared_norm")
    x, _ = batch_of(models["before"], 32)
    formats = {".keras": as_keras, "int8": quantized("int8")}
    formats["int4"] = quantized("int4")
    for form in FORMATS:
        if reason := obstacle(form):
            yield form, reason, *("",) * 3
        else:
            formats[form] = exported(form)
    for name, write in formats.items():
        works, sizes, differences = {}, {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for when, model in models.items():
                place = pathlib.Path(folder) / when
                place.mkdir()
                serve, sizes[when] = write(model, place)
                expected = keras.ops.convert_to_numpy(model(x, training=False))
                found = np.asarray(serve(x))
                differences[when] = np.abs(found - expected).max()
                differences[when] /= np.abs(expected).max()
                works[when] = lambda serve=serve: np.asarray(serve(x))
            times = seconds(works, rounds=51)
        yield (
            name,
            f"{differences['before']:.1e}",
            f"{differences['after']:.1e}",
            " → ".join(f"{1e-3 * each:,.0f} kB" for each in sizes.values()),
            f"{times['after'] / times['before']:.2f}",
        )


if __name__ == "__main__":
    heads = ("format", "difference before", "after", "size", "latency")
    print(table(heads, list(rows())))
    versions = []
    for library in LIBRARIES:
        try:
            found = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
        versions.append(f"{library} {found}")
    print(", ".join([machine(), *versions]))

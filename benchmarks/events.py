"""One event of neuron apoptosis, beside an epoch: MNIST and CIFAR-10."""

from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow_datasets as tfds
from _measure import compiled, fit_steps, mlp, now, row, show
from _networks import resnet_20

import keras_apoptosis as ka

BATCH = 128
TURNS = 3


def images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns training images and labels."""
    x, y = tfds.as_numpy(
        tfds.load(name, split="train", batch_size=-1, as_supervised=True)
    )
    return x.astype("float32") / 255, y


def events_of(model: keras.Model, **options: object) -> tuple[float, float]:
    """Returns the seconds of the first event, and of one after it."""
    first, later = [], []
    for _ in range(TURNS):
        each = compiled(keras.models.clone_model(model))
        each.set_weights(model.get_weights())
        callback = ka.callbacks.NeuronApoptosis(min_gain=0.0, **options)
        callback.set_model(each)
        amount = 1.75 if callback.metric == "weights" else 0.07
        for found in (first, later):
            start = now()
            callback.fire(amount)
            found.append(now() - start)
    return float(np.median(first)), float(np.median(later))


def compare(title: str, model: keras.Model, x, y, steps: int) -> None:
    """Prints a table; `steps` steps stand for an epoch."""
    train = fit_steps(model, x[: steps * BATCH], y[: steps * BATCH], steps)
    train()
    start = now()
    train()
    epoch = (now() - start) * len(x) / (steps * BATCH)
    rows = []
    for metric, options in (
        ("weights", {}),
        ("reconstruction", {"data": x[:4096]}),
    ):
        times = events_of(model, metric=metric, **options)
        for which, found, aim in zip(
            ("first", "a later one"), times, (0.05, 0.03), strict=True
        ):
            rows.append(row(f"{which}, {metric}", found, epoch, aim))
    show(f"An event without its retrace, beside an epoch ({title})", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["mlp", "resnet"])
    networks = parser.parse_args().networks
    if "mlp" in networks:
        x, y = images("mnist")
        x = x.reshape(len(x), -1)
        compare("MLP 2x1024", compiled(mlp(1024)), x, y, 400)
    if "resnet" in networks:
        x, y = images("cifar10")
        compare("ResNet-20", compiled(resnet_20(side=32)), x, y, 40)


if __name__ == "__main__":
    main()

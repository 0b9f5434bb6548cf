"""Demon pruning of a network without normalization, on MNIST or HIGGS.

    python examples/mlp_demon.py --dataset mnist
    python examples/mlp_demon.py --dataset higgs --samples 50000 --epochs 6

Without a normalization there are no scales to regularize, so the penalty is on
all weights (Demon pruning, section 4.2); the callback says so. The same
network is trained plain, with a strength, and to a target of sparsity.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import Dataset, load
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table


def build(data: Dataset, width: int, depth: int, rate: float) -> keras.Model:
    """A compiled MLP."""
    model = keras.Sequential([keras.Input(data.input_shape), layers.Flatten()])
    for _ in range(depth):
        model.add(layers.Dense(width, activation="relu"))
    model.add(layers.Dense(data.num_classes, name="logits"))
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(data: Dataset, seed: int, arguments, demon: dict) -> list[float]:
    """Trains once, with what `DemonPruning` gets, or plain if nothing."""
    keras.utils.set_random_seed(seed)
    model = build(data, arguments.width, arguments.depth, arguments.rate)
    cost = ka.callbacks.TrainingCost(arguments.batch_size)
    callbacks: list = [cost]
    if demon:
        pruning = ka.callbacks.DemonPruning(
            data=data.x_train[:512],
            noise_variance=arguments.noise,
            noise_every=10,
            schedule=ka.schedules.Fixed(0.05, start=0.05),
            **demon,
        )
        callbacks.insert(0, pruning)
    history = model.fit(
        data.x_train[: arguments.samples],
        data.y_train[: arguments.samples],
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(data.x_val, data.y_val),
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=2,
    ).history
    _, accuracy = model.evaluate(
        data.x_test, data.y_test, batch_size=500, verbose=0
    )
    return [
        100 * history["val_accuracy"][-1],
        100 * accuracy,
        100 * history["neuron_sparsity"][-1],
        100 * history["weight_sparsity"][-1],
        history["training_flops"][-1],
        cost.seconds,
    ]


def row(name: str, runs: list[list[float]]) -> list[str]:
    """A row of the table: means over seeds, and half of the range."""
    mean, half = np.mean(runs, 0), np.ptp(runs, 0) / 2
    val, test, neurons, weights = (
        f"{m:.2f} ± {h:.2f}" for m, h in zip(mean[:4], half[:4], strict=True)
    )
    return [
        name,
        val,
        test,
        neurons,
        weights,
        f"{mean[4]:.2f}x",
        f"{mean[5]:.0f}",
    ]


def main() -> None:
    """Trains in three ways and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", choices=("digits", "mnist", "higgs"), default="mnist")
    add("--samples", type=int, help="of the training part; default all")
    add("--width", type=int, default=256)
    add("--depth", type=int, default=2)
    add("--epochs", type=int, default=8)
    add("--batch-size", type=int, default=128)
    add("--rate", type=float, default=1e-3)
    add("--strength", type=float, default=1e-3)
    add("--noise", type=float, default=1e-7, help="peak variance")
    add("--target", type=float, default=0.8)
    add("--seeds", type=int, default=1, help="how many, from 0")
    arguments = parser.parse_args()
    data = load(arguments.dataset)
    strength, target = arguments.strength, arguments.target
    ways: dict[str, dict] = {
        "plain": {},
        f"strength {strength:g}": {"strength": strength},
        f"target {target:.0%}": {
            "strength": strength / 10,
            "target": ka.targets.Parameters(at_most=1 - target),
        },
    }
    rows = []
    for name, demon in ways.items():
        print(f"\n== {name}", flush=True)
        seeds = range(arguments.seeds)
        runs = [train(data, seed, arguments, demon) for seed in seeds]
        rows.append(row(name, runs))
    header = "training,val %,test %,neurons gone %,weights gone %,"
    header += "training FLOPs,seconds"
    print(table(header.split(","), rows))


if __name__ == "__main__":
    main()

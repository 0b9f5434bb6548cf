"""Trains a network plain and with neuron apoptosis, and compares the two.

    python examples/mnist_apoptosis.py --dataset mnist --seeds 3

Both start from the same seeds and take the same number of epochs; the time is
that of the whole `fit`, tracing and events included. Prints one table, saves
the smaller model and draws width, parameters and accuracy over the training.

The paper's experiments are in `examples/conf/`; `examples/run.py` runs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import Dataset, load
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.accounting.plots import plot_history
from keras_apoptosis.utils.tables import table

METHODS = ("plain", "apoptosis")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training came to."""

    seed: int
    method: str
    accuracy: float
    parameters: int
    flops: int
    seconds: float
    events: int


def build(data: Dataset, width: int) -> keras.Model:
    """A compiled network of two hidden layers."""
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.Flatten(),
            layers.Dense(width, activation="relu", name="hidden_1"),
            layers.Dense(width, activation="relu", name="hidden_2"),
            layers.Dense(data.num_classes, name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(
    data: Dataset, seed: int, method: str, arguments: argparse.Namespace
) -> tuple[Run, keras.Model, keras.callbacks.History]:
    """Trains once."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(data, arguments.width)
    callbacks = []
    if method == "apoptosis":
        apoptosis = ka.callbacks.NeuronApoptosis(
            arguments.level,
            schedule=ka.schedules.Logarithmic(start=0.125),
            data=data.x_train[:4096],
            verbose=True,
        )
        callbacks.append(apoptosis)
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(data.x_val, data.y_val),
        callbacks=callbacks,
        verbose=arguments.verbose,
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
    events = callbacks[0].history if callbacks else []
    run = Run(
        seed,
        method,
        accuracy,
        model.count_params(),
        ka.flops(model),
        seconds,
        sum(not event.skipped for event in events),
    )
    return run, model, history


def compare(runs: list[Run]) -> str:
    """The table: every run, then means, with ratios to plain."""
    plain = {run.seed: run for run in runs if run.method == "plain"}
    rows = []
    for method in METHODS:
        mine = [run for run in runs if run.method == method]
        for run in mine:
            rows.append(_row(str(run.seed), [run], [plain[run.seed]]))
        if len(mine) > 1:
            rows.append(_row("mean", mine, [plain[r.seed] for r in mine]))
    header = "method,seed,accuracy %,change pp,parameters,fewer,"
    header += "MFLOPs,fewer,seconds,faster,events"
    return table(header.split(","), rows)


def _row(seed: str, runs: list[Run], plain: list[Run]) -> list[str]:
    def mean(of: list[Run], name: str) -> float:
        return float(np.mean([getattr(run, name) for run in of]))

    def ratio(name: str) -> str:
        return f"{mean(plain, name) / mean(runs, name):.1f}x"

    accuracy = mean(runs, "accuracy")
    return [
        runs[0].method,
        seed,
        f"{100 * accuracy:.2f}",
        f"{100 * (accuracy - mean(plain, 'accuracy')):+.2f}",
        f"{mean(runs, 'parameters'):,.0f}",
        ratio("parameters"),
        f"{mean(runs, 'flops') / 1e6:.3f}",
        ratio("flops"),
        f"{mean(runs, 'seconds'):.1f}",
        ratio("seconds"),
        f"{mean(runs, 'events'):.0f}",
    ]


def parse() -> argparse.Namespace:
    """The command line. Defaults follow the dataset's size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", default="mnist", help="digits, mnist, cifar10, higgs, …")
    add("--width", type=int, default=1024, help="units of a hidden layer")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--seeds", type=int, default=1, help="how many, from 0")
    add("--level", default="normal", help="how aggressive")
    add("--output", type=Path, default=Path("output"))
    add("--verbose", type=int, default=2, help="as in `fit`")
    arguments = parser.parse_args()
    small = arguments.dataset == "digits"
    arguments.epochs = arguments.epochs or (40 if small else 16)
    arguments.batch_size = arguments.batch_size or (32 if small else 128)
    return arguments


def main() -> None:
    """Trains all, prints the table, saves model and figure."""
    arguments = parse()
    data = load(arguments.dataset)
    runs = []
    for seed in range(arguments.seeds):
        for method in METHODS:
            print(f"\n== Seed {seed}: {method}", flush=True)
            run, model, history = train(data, seed, method, arguments)
            runs.append(run)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{data.name}_apoptosis"
    model.save(f"{path}.keras")
    plot_history(history.history, f"{path}.png")
    print(f"\n{compare(runs)}")
    print(
        f"\n{arguments.epochs} epochs; "
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}"
    )
    print(f"The smaller model and its figure: {path}.keras, {path}.png")


if __name__ == "__main__":
    main()

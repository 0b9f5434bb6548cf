"""Trains a network plain and with neuron apoptosis, and compares the two.

    python examples/mnist_apoptosis.py --dataset mnist --seeds 3

Both start from the same seeds and take the same number of epochs; the time is
that of the whole `fit`, tracing and events included. Prints one table, saves
the smaller model and draws width, parameters and accuracy over the training.
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


def build(
    data: Dataset, arguments: argparse.Namespace, inputs: bool, steps: int
) -> keras.Model:
    """A compiled network: an MLP of two hidden layers, or Caffe's LeNet.

    With `inputs`, input features may leave like units.
    """
    kind, regime = arguments.model, arguments.regime
    width = arguments.width
    small = {}
    if regime == "small-weights":  # In which similar units come together.
        small = {
            "kernel_initializer": keras.initializers.RandomNormal(stddev=0.001),
            "kernel_regularizer": keras.regularizers.L2(1e-3),
        }
    if kind == "mlp":
        select = [ka.layers.FeatureSelection(name="inputs")] if inputs else []
        hidden = [
            layers.Flatten(),
            *select,
            layers.Dense(width, activation="relu", name="hidden_1", **small),
            layers.Dense(width, activation="relu", name="hidden_2", **small),
        ]
    else:
        hidden = [
            layers.Conv2D(20, 5, activation="relu", name="conv_1", **small),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu", name="conv_2", **small),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu", name="hidden", **small),
        ]
    model = keras.Sequential(
        [
            keras.Input(data.input_shape),
            *hidden,
            layers.Dense(data.num_classes, name="logits"),
        ]
    )
    rate = 1e-3
    if regime == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate),
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
    steps = arguments.epochs * -(-len(data.x_train) // arguments.batch_size)
    model = build(data, arguments, method == "inputs", steps)
    callbacks = []
    if method != "plain":
        callbacks.append(apoptosis(data, method, arguments))
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_data=(data.x_val, data.y_val) if data.y_val.size else None,
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


def apoptosis(
    data: Dataset, metric: str, arguments: argparse.Namespace
) -> ka.callbacks.NeuronApoptosis:
    """The callback."""
    own = {}
    if metric in ("reconstruction", "inputs"):
        metric = "reconstruction"
        own = {
            "data": data.x_train[: arguments.samples],
            "samples": arguments.samples,
            "tolerance": arguments.tolerance,
        }
        if arguments.target is not None:
            own["target"] = ka.targets.Parameters(at_most=arguments.target)
    return ka.callbacks.NeuronApoptosis(
        arguments.level,
        metric=metric,
        schedule=ka.schedules.Logarithmic(
            start=arguments.start, ratio=arguments.ratio, end=arguments.end
        ),
        min_gain=arguments.min_gain,
        verbose=True,
        **own,
    )


def compare(runs: list[Run], methods: list[str]) -> str:
    """The table: every run, then means with each method's ratios to plain."""
    plain = {run.seed: run for run in runs if run.method == "plain"}
    rows = []
    for method in methods:
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
    add("--dataset", default="mnist", help="digits, mnist, cifar10, higgs")
    add("--model", choices=("mlp", "cnn"), default="mlp")
    add("--width", type=int, default=1024, help="units of a hidden layer")
    add("--epochs", type=int)
    add("--batch-size", type=int)
    add("--seeds", type=int, default=1, help="how many, from 0")
    add(
        "--regime",
        choices=("adam", "cosine", "small-weights"),
        default="adam",
        help="constant rate; cosine rate; small initial weights with L2",
    )
    add(
        "--methods",
        nargs="+",
        choices=("reconstruction", "inputs", "weights"),
        default=["reconstruction"],
        help="`inputs` is reconstruction in which input features leave too",
    )
    add("--level", default="normal")
    add("--tolerance", type=float, help="instead of the level")
    add("--target", type=float, help="share of the parameters, instead of it")
    add("--start", type=float, default=0.125)
    add("--ratio", type=float, default=2.0)
    add("--end", type=float, default=1.0)
    add("--min-gain", type=float, default=0.1)
    add("--samples", type=int, default=4096)
    add(
        "--all-rows",
        action="store_true",
        help="train on the validation rows too, once all is chosen",
    )
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
    if arguments.all_rows:
        data = dataclasses.replace(
            data,
            x_train=np.concatenate([data.x_train, data.x_val]),
            y_train=np.concatenate([data.y_train, data.y_val]),
            x_val=data.x_val[:0],
            y_val=data.y_val[:0],
        )
    methods = ["plain", *arguments.methods]
    runs = []
    for seed in range(arguments.seeds):
        for method in methods:
            print(f"\n== Seed {seed}: {method}", flush=True)
            run, model, history = train(data, seed, method, arguments)
            runs.append(run)
            if method != "plain":
                name = f"{data.name}_{arguments.model}_{method}"
                arguments.output.mkdir(parents=True, exist_ok=True)
                model.save(arguments.output / f"{name}.keras")
                plot_history(history.history, arguments.output / f"{name}.png")
    print(f"\n{compare(runs, methods)}")
    print(
        f"\n{arguments.regime}, {arguments.epochs} epochs; "
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}"
    )
    print(f"Models and figures are in {arguments.output}/")


if __name__ == "__main__":
    main()

"""Accuracy at shares of the FLOPs and parameters, beside Torch-Pruning.

    pip install --no-deps torch-pruning==1.6.1
    KERAS_BACKEND=torch python benchmarks/pareto.py [--seeds 3] [--epochs 3]

A LeNet is trained on MNIST, and pruned to 50, 25 and 10 % of its FLOPs, or of
its parameters, by each method from the same trained weights: right after
pruning, and after one pass over the same 16,384 samples. Nothing is chosen by
the test data: each method is told a target, and nothing else.
Torch-Pruning is given the same network with the same weights in PyTorch, its
global ranking, and ever larger ratios until the target is met; its channels
are removed without a replacement, as it does. Printed are medians over seeds
of the accuracy on the test data, in percent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import datasets

try:
    import torch
    import torch_pruning
except ImportError:
    torch_pruning = None

SHARES = (0.5, 0.25, 0.1)
SAMPLES = 4096  # To prune by.
TUNING = 16384  # To train on after pruning, once.
OURS = {
    "reconstruction": {"criterion": "reconstruction"},
    "mean replacement": {"criterion": "mean_replacement_saliency"},
    "mean replacement, least squares": {
        "criterion": "mean_replacement_saliency",
        "replacement": "least_squares",
    },
    "magnitude": {"criterion": "squared_norm", "replacement": "zero"},
    "magnitude, least squares": {
        "criterion": "squared_norm",
        "replacement": "least_squares",
    },
    "random": {"criterion": "random", "replacement": "zero"},
}
TARGETS = {"flops": ka.targets.Flops, "parameters": ka.targets.Parameters}


def lenet() -> keras.Sequential:
    """The LeNet-5 of Caffe."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(20, 5, activation="relu", name="conv1"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(50, 5, activation="relu", name="conv2"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(500, activation="relu", name="dense"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def compiled(model: keras.Model, rate: float) -> keras.Model:
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def trained(data: datasets.Dataset, seed: int, epochs: int) -> list[np.ndarray]:
    keras.utils.set_random_seed(seed)
    model = compiled(lenet(), 1e-3)
    model.fit(
        data.x_train, data.y_train, batch_size=128, epochs=epochs, verbose=0
    )
    return model.get_weights()


def ours(
    data: datasets.Dataset, weights: list[np.ndarray], seed: int
) -> Iterator[tuple[str, str, float, float, float, float]]:
    sample = data.x_train[:SAMPLES], data.y_train[:SAMPLES]
    for method, arguments in OURS.items():
        for kind, target in TARGETS.items():
            for share in SHARES:
                keras.utils.set_random_seed(seed)
                model = compiled(lenet(), 1e-3)
                model.set_weights(weights)
                report = ka.prune(model, target(share), sample, **arguments)
                (result,) = report.targets
                before = accuracy(model, data)
                model.fit(
                    data.x_train[:TUNING],
                    data.y_train[:TUNING],
                    batch_size=128,
                    verbose=0,
                )
                yield (
                    method,
                    kind,
                    share,
                    result.after / result.before,
                    before,
                    accuracy(model, data),
                )


def accuracy(model: keras.Model, data: datasets.Dataset) -> float:
    return model.evaluate(
        data.x_test, data.y_test, batch_size=512, verbose=0, return_dict=True
    )["accuracy"]


def theirs(
    data: datasets.Dataset, weights: list[np.ndarray], seed: int
) -> Iterator[tuple[str, str, float, float, float, float]]:
    for name, importance in {
        "magnitude": torch_pruning.importance.MagnitudeImportance,
        "Taylor": torch_pruning.importance.TaylorImportance,
    }.items():
        name = f"Torch-Pruning, {name}"
        for kind in TARGETS:
            for share in SHARES:
                torch.manual_seed(seed)
                net = their_lenet(weights)
                got = prune_theirs(net, importance(), kind, share, data)
                before = their_accuracy(net, data)
                fine_tune_theirs(net, data, seed)
                yield name, kind, share, got, before, their_accuracy(net, data)


def their_lenet(weights: list[np.ndarray]) -> Any:
    """The same network in PyTorch, with the same weights."""
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
    k1, b1, k2, b2, k3, b3, k4, b4 = map(torch.tensor, weights)
    # Keras flattens channels last.
    k3 = k3.reshape(4, 4, 50, 500).permute(3, 2, 0, 1).reshape(500, 800)
    values = [
        k1.permute(3, 2, 0, 1), b1, k2.permute(3, 2, 0, 1), b2, k3, b3, k4.T, b4
    ]  # fmt: skip
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), values, strict=True):
            parameter.copy_(value)
    return net


def cost(net: Any, kind: str) -> float:
    example = torch.zeros(1, 1, 28, 28)
    macs, parameters = torch_pruning.utils.count_ops_and_params(net, example)
    return macs if kind == "flops" else parameters


def prune_theirs(
    net: Any, importance: Any, kind: str, share: float, data: datasets.Dataset
) -> float:
    whole = cost(net, kind)
    pruner = torch_pruning.pruner.BasePruner(
        net,
        torch.zeros(1, 1, 28, 28),
        importance=importance,
        global_pruning=True,
        pruning_ratio=0.99,
        max_pruning_ratio=0.99,
        iterative_steps=200,
        ignored_layers=[net[-1]],
    )
    x, y = their_data(data.x_train[:SAMPLES], data.y_train[:SAMPLES])
    while cost(net, kind) > share * whole:
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        pruner.step()
    return cost(net, kind) / whole


def their_data(x: np.ndarray, y: np.ndarray) -> tuple[Any, Any]:
    return torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(y).long()


def fine_tune_theirs(net: Any, data: datasets.Dataset, seed: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-7)
    order = np.random.default_rng(seed).permutation(TUNING)
    for start in range(0, len(order), 128):
        rows = order[start : start + 128]
        x, y = their_data(data.x_train[rows], data.y_train[rows])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()


def their_accuracy(net: Any, data: datasets.Dataset) -> float:
    x, y = their_data(data.x_test, data.y_test)
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    data = datasets.load("mnist", verbose=False)
    methods: list[Callable[..., Any]] = [ours]
    if torch_pruning is None:
        print("Without Torch-Pruning, which is not installed.")
    else:
        methods.append(theirs)
    found: dict[tuple[str, str, float], list[tuple[float, ...]]] = {}
    for seed in range(arguments.seeds):
        weights = trained(data, seed, arguments.epochs)
        for method in methods:
            for name, kind, share, *numbers in method(data, weights, seed):
                found.setdefault((name, kind, share), []).append(tuple(numbers))
                print(seed, name, kind, share, numbers, flush=True)
    rows = []
    for (name, kind, share), numbers in found.items():
        got, before, after = np.median(numbers, axis=0)
        rows.append(
            (
                name,
                f"{share:.0%} of {kind}",
                f"{got:.1%}",
                f"{100 * before:.2f}",
                f"{100 * after:.2f}",
            )
        )
    header = ("method", "target", "reached", "right after", "fine-tuned")
    print(table(header, sorted(rows, key=lambda row: row[1])))


if __name__ == "__main__":
    main()

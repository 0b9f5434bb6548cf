"""Whether a limit on held-out data is kept on test data.

    python benchmarks/limits.py [--rows output/limits.jsonl]

Trains networks with `limit=ka.Limit("val_accuracy", worse_by=0.005, ...)`,
by each method at a pace that the limit has to stop, and the same networks
without pruning from the same seed. The limit is judged on a part of the
training data that is not trained on. The test data choose nothing: they are
evaluated wherever the limit is, to see what events cost there, and at the
end. Rows are written as they are done, and those of an earlier run are kept.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from _measure import clock, machine

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import datasets

WORSE_BY = 0.005
SAMPLES = 4000  # To judge units by.


def small(deviation: float) -> dict[str, Any]:
    """What merging by weights needs of the layers."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=deviation),
        "kernel_regularizer": keras.regularizers.L2(1e-3),
    }


def mlp(width: int, shape: tuple[int, ...], **options: Any) -> list:
    return [
        keras.Input(shape),
        keras.layers.Flatten(),
        keras.layers.Dense(width, activation="relu", **options),
        keras.layers.Dense(width, activation="relu", **options),
        keras.layers.Dense(10),
    ]


def lenet(**options: Any) -> list:
    return [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(20, 5, activation="relu", **options),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(50, 5, activation="relu", **options),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dense(500, activation="relu", **options),
        keras.layers.Dense(10),
    ]


def cnn(**options: Any) -> list:
    layers: list = [keras.Input((32, 32, 3))]
    for width in (32, 64, 64):
        layers += [
            keras.layers.Conv2D(width, 3, use_bias=False, **options),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    return [*layers, keras.layers.Flatten(), keras.layers.Dense(10)]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: on how many rows, judged on how many others."""

    data: str
    build: Callable[..., list]
    rows: int
    held_out: int
    epochs: int
    seeds: int = 1
    deviation: float = 0.001  # Of small initial weights.
    watched: int = 10_000  # Test rows on which events are watched.


TASKS = {
    "digits, MLP 2x128": Task(
        "digits", lambda **o: mlp(128, (8, 8, 1), **o), 1137, 300, 40
    ),
    "MNIST, MLP 2x256": Task(
        "mnist", lambda **o: mlp(256, (28, 28, 1), **o), 10_000, 2000, 10, 2
    ),
    # With 0.001 it does not leave its first plateau in so short a training.
    "MNIST, LeNet": Task("mnist", lenet, 10_000, 2000, 5, deviation=0.01),
    "CIFAR-10, CNN": Task("cifar10", cnn, 5000, 2000, 8, watched=3000),
}
METHODS: dict[str, Callable[..., ka.callbacks.PruningCallback]] = {
    "reconstruction": lambda sample, **options: ka.callbacks.NeuronApoptosis(
        "very_aggressive", data=sample[0], **options
    ),
    "weights": lambda sample, **options: ka.callbacks.NeuronApoptosis(
        "very_aggressive", metric="weights", data=sample[0], **options
    ),
    "saliency": lambda sample, **options: ka.callbacks.SaliencyPruning(
        schedule=ka.schedules.Polynomial(0.8, count=4), data=sample, **options
    ),
    "demon": lambda sample, **options: ka.callbacks.DemonPruning(
        target=ka.targets.Parameters(at_most=0.2), data=sample[0], **options
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(ka.Limit):
    """A limit that writes down what it sees, and the same on test data."""

    test: ka.Limit | None = None
    # By the step of the training, in order.
    seen: dict[int, list[tuple[float, float]]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )

    def measure(self, model: keras.Model) -> float:
        value = super().measure(model)
        step = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
        self.seen[step].append((value, self.test.measure(model)))
        return value


class Parts:
    """The rows of a task: to train on, to limit by, and to judge by."""

    def __init__(self, task: Task):
        data = datasets.load(task.data, verbose=False)
        x = np.concatenate([data.x_val, data.x_train])
        y = np.concatenate([data.y_val, data.y_train])
        # The same rows for all; the rest of the training data is not used.
        order = np.random.default_rng(0).permutation(len(x))
        held_out, train = np.split(
            order[: task.held_out + task.rows], [task.held_out]
        )
        self.held_out = x[held_out], y[held_out]
        self.train = x[train], y[train]
        self.test = data.x_test, data.y_test


def trained(
    task: Task, parts: Parts, seed: int, begins_small: bool, callbacks: list
) -> keras.Model:
    keras.utils.set_random_seed(seed)
    options = small(task.deviation) if begins_small else {}
    model = keras.Sequential(task.build(**options))
    steps = task.epochs * -(-task.rows // 64)
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(2e-3, steps)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    keras.utils.set_random_seed(seed)
    model.fit(
        *parts.train,
        batch_size=64,
        epochs=task.epochs,
        verbose=0,
        callbacks=callbacks,
    )
    # As events leave it: where averages lag behind, that would be a gain.
    ka.recalibrate(model, parts.train[0][:SAMPLES])
    return model


def right(model: keras.Model, parts: Parts) -> np.ndarray:
    x, y = parts.test
    return model.predict(x, batch_size=512, verbose=0).argmax(-1) == y


def costs(limit: Watched, history: list[Any]) -> Iterator[tuple[float, float]]:
    """Yields what each event that was kept cost: held-out, and on test."""
    for event in history:
        if event.attempts and event.attempts[-1].kept:
            # Before it, after each attempt, and maybe more.
            before, *after = limit.seen[event.steps]
            done = after[len(event.attempts) - 1]
            assert done[0] == event.attempts[-1].value
            yield tuple(np.subtract(before, done).tolist())


def rows(
    task: str, seed: int, begins_small: bool, methods: list[str], done: set
) -> Iterator[dict]:
    """Trains without pruning, and by the methods that are not done."""
    methods = [
        name
        for name in methods
        if (name == "weights") == begins_small
        and (task, name, seed) not in done
    ]
    if not methods:
        return
    chosen = TASKS[task]
    parts = Parts(chosen)
    sample = tuple(part[:SAMPLES] for part in parts.train)
    watched = tuple(part[: chosen.watched] for part in parts.test)
    plain_seconds, plain = clock(trained, chosen, parts, seed, begins_small, [])
    plain_right = right(plain, parts)
    for name in methods:
        limit = Watched(
            "val_accuracy",
            WORSE_BY,
            data=parts.held_out,
            test=ka.Limit("accuracy", 0, data=watched),
        )
        method = METHODS[name](sample, limit=limit, verbose=0)
        seconds, model = clock(
            trained, chosen, parts, seed, begins_small, [method]
        )
        is_right = right(model, parts)
        kept = list(costs(limit, method.history))
        yield {
            "task": task,
            "method": name,
            "seed": seed,
            "parameters": [plain.count_params(), model.count_params()],
            "events": [
                [each.kept for each in event.attempts]
                for event in method.history
                if event.attempts
            ],
            "spent": method.get_state()["spent"],
            "held_out": [cost for cost, _ in kept],
            "on_test": [cost for _, cost in kept],
            "test": [float(plain_right.mean()), float(is_right.mean())],
            # Of a difference of two models on the same rows.
            "error": float((plain_right != is_right).sum() ** 0.5)
            / len(is_right),
            "seconds": [round(plain_seconds, 1), round(seconds, 1)],
        }


def show(found: list[dict]) -> None:
    lines = []
    for each in found:
        tried = sum(map(len, each["events"]))
        plain, pruned = each["test"]
        lines.append(
            (
                each["task"],
                each["method"],
                each["seed"],
                f"{each['parameters'][0] / each['parameters'][1]:.1f}x",
                f"{len(each['held_out'])} of {tried}",
                f"{100 * each['spent']:.2f}",
                f"{100 * sum(max(cost, 0) for cost in each['on_test']):.2f}",
                f"{100 * sum(each['on_test']):+.2f}",
                f"{100 * plain:.2f}",
                f"{100 * (pruned - plain):+.2f} ± {100 * each['error']:.2f}",
            )
        )
    header = (
        "task",
        "method",
        "seed",
        "fewer",
        "kept of tried",
        "spent",
        "spent on test",
        "events on test",
        "plain",
        "pruned",
    )
    print(table(header, lines))
    worse = np.array([each["test"][0] - each["test"][1] for each in found])
    error = np.array([each["error"] for each in found])
    beyond = worse > WORSE_BY
    print(
        f"{len(found)} trainings; on test data {beyond.sum()} ended more than "
        f"{100 * WORSE_BY:g} points below the plain one, "
        f"{(worse - 2 * error > WORSE_BY).sum()} by more than that and two "
        f"standard errors; mean {-100 * worse.mean():+.2f}, worst "
        f"{-100 * worse.max():+.2f}. {machine()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=Path, default=Path("output/limits.jsonl")
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS
    )
    given = parser.parse_args()
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    found = []
    if given.rows.exists():
        lines = given.rows.read_text().splitlines()
        found = [json.loads(line) for line in lines]
    done = {(each["task"], each["method"], each["seed"]) for each in found}
    for task in given.tasks:
        for seed in range(TASKS[task].seeds):
            for begins_small in (False, True):
                for each in rows(task, seed, begins_small, given.methods, done):
                    found.append(each)
                    with given.rows.open("a") as file:
                        print(json.dumps(each), file=file, flush=True)
                    print(task, each["method"], each["test"], flush=True)
    show(found)


if __name__ == "__main__":
    main()

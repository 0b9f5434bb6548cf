"""Accuracy at shares of the FLOPs and parameters, beside other pruners.

    pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1
    python benchmarks/pareto.py [lenet] [mlp] [vgg] [resnet_20]
    python benchmarks/pareto.py --show --figure pareto.png

Each network is trained, and pruned to 50, 25 and 10 % of its FLOPs, or of its
parameters, by each method from the same trained weights. Printed are medians
over seeds of the accuracy in percent: right after pruning, and after the same
fine-tuning: one epoch over 8,192 samples by Adam, from a rate of 1e-3 to 0.
Results are written line by line to `--results`, and what is there already is
not run again; trained weights are kept in `--weights`, and rows of others are
not gone on with. `--show` only prints the tables; `--figure` draws them, with
matplotlib.

Ours is `ka.prune(model, target, sample, criterion=...)` with its defaults.
Torch-Pruning and torch-kirigami are given the same network in PyTorch, checked
to have the same outputs, with gradients of the same sample; they are told
ratios of channels, and the first that meets the target is taken: for all
channels of the network together, or the same of each layer, whichever has the
better accuracy on 2,000 held-out training samples right after pruning. What
they leave goes back into a Keras model, so that counting, fine-tuning and
judging are the same code for all.

Nothing is chosen by test data. `--judge validation` judges by 2,000 held-out
training samples instead, which is what to develop with.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import torch
from _in_torch import to_keras, to_torch, torch_inputs
from _measure import machine
from _networks import normalized, resnet_20
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.distributed.collectives import digest_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import datasets

try:
    import _other_pruners as others
except ImportError as error:
    print(f"Only ours ({error}); see the top of this file.", file=sys.stderr)
    others = None  # type: ignore[assignment]

SHARES = (0.5, 0.25, 0.1)
SAMPLES = 4096  # To prune by.
HELD_OUT = 2000
TUNING = 8192  # Samples of one epoch after pruning.
OURS = {
    "reconstruction": "reconstruction",
    "mean replacement": "mean_replacement_saliency",
    "Taylor": "snap",
    "magnitude": "squared_norm",
    "random": "random",
}
TARGETS = {"flops": ka.targets.Flops, "parameters": ka.targets.Parameters}
KEYS = ("network", "seed", "method", "kind", "share")


def lenet() -> keras.Model:
    """The LeNet-5 of Caffe."""
    x = inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(20, 5, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(50, 5, activation="relu", name="conv2")(x)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(500, activation="relu", name="dense")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def mlp() -> keras.Model:
    """Three hidden layers of 512."""
    x = inputs = keras.Input((28,))
    for number in range(3):
        x = layers.Dense(512, activation="relu", name=f"hidden{number}")(x)
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def vgg() -> keras.Model:
    """Three pairs of convolutions with batch normalization."""
    x = inputs = keras.Input((16, 16, 3))
    for stage, width in enumerate((24, 48, 96)):
        for number in range(2):
            x = normalized(x, width, name=f"conv{stage}_{number}")
            x = layers.ReLU(name=f"relu{stage}_{number}")(x)
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(128, activation="relu", name="dense")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network learns.

    Args:
        build: Makes the network.
        title: What to call it.
        dataset: Name of the dataset.
        samples: How many training samples to use.
        epochs: How often.
        halved: Whether images are averaged over 2 x 2 pixels.
    """

    build: Callable[[], keras.Model]
    title: str
    dataset: str
    samples: int
    epochs: int
    halved: bool = False

    def data(self) -> datasets.Dataset:
        data = datasets.load(self.dataset, verbose=False)
        parts = {
            "x_train": data.x_train[: self.samples],
            "y_train": data.y_train[: self.samples],
            "x_val": data.x_val[:HELD_OUT],
            "y_val": data.y_val[:HELD_OUT],
            "x_test": data.x_test,
        }
        if self.halved:
            for name in ("x_train", "x_val", "x_test"):
                parts[name] = _halved(parts[name])
        return dataclasses.replace(data, **parts)


def _halved(images: np.ndarray) -> np.ndarray:
    rows, height, width, channels = images.shape
    shape = (rows, height // 2, 2, width // 2, 2, channels)
    return images.reshape(shape).mean((2, 4))


TASKS = {
    "lenet": Task(lenet, "LeNet on MNIST", "mnist", 20_000, 5),
    "mlp": Task(mlp, "MLP 3x512 on HIGGS", "higgs", 40_000, 5),
    "vgg": Task(
        vgg, "VGG-like on CIFAR-10 at 16 pixels", "cifar10", 10_000, 8, True
    ),
    "resnet_20": Task(
        resnet_20,
        "ResNet-20 on CIFAR-10 at 16 pixels",
        "cifar10",
        10_000,
        8,
        True,
    ),
}


class Trial:
    """One network with one seed: trains it, prunes it, judges it.

    Args:
        name: Of the network.
        seed: For the training, the pruning and the fine-tuning.
        data: What it learns.
        judge: `"test"` or `"validation"`.
        folder: Where trained weights are kept.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        data: datasets.Dataset,
        judge: str,
        folder: Path,
    ):
        self.name, self.seed, self.data, self.judge = name, seed, data, judge
        self.build = TASKS[name].build
        self.weights = self._trained(folder / f"{name}_{seed}.npz")
        self.digest = digest_of(self.weights)[:12]
        self.sample = data.x_train[:SAMPLES], data.y_train[:SAMPLES]

    def model(self) -> keras.Model:
        """Returns the trained model."""
        keras.utils.set_random_seed(self.seed)
        model = compiled(self.build())
        model.set_weights(self.weights)
        return model

    def ours(self, method: str, kind: str, share: float) -> dict[str, Any]:
        """Prunes by one of our methods."""
        model = self.model()
        start = time.perf_counter()
        ka.prune(
            model,
            TARGETS[kind](share),
            self.sample,
            criterion=OURS[method],
            seed=self.seed,
        )
        seconds = time.perf_counter() - start
        return {**self.judged(model, kind), "seconds": round(seconds, 2)}

    def theirs(
        self, method: str, missing: Sequence[tuple[str, float]]
    ) -> Iterator[tuple[str, float, dict[str, Any]]]:
        """Prunes by one of the others' methods, to several targets."""
        torch.manual_seed(self.seed)
        net = to_torch(self.model(), self.data.x_val[:64])
        x, y = self.sample
        sample = torch_inputs(x), torch.tensor(y).long()
        shares = {
            kind: tuple(share for k, share in missing if k == kind)
            for kind in TARGETS
        }
        pruned = {
            scope: others.prune_to(method, net, sample, shares, everywhere)
            for scope, everywhere in (("network", True), ("layer", False))
        }
        for key in missing:
            nets = {
                scope: self._in_keras(found[key])
                for scope, found in pruned.items()
                if key in found
            }
            scope = max(nets, key=lambda each: self._held_out(nets[each]))
            result = self.judged(nets[scope], key[0])
            yield (*key, {**result, "ratio_of": scope})

    def _in_keras(self, net: Any) -> keras.Model:
        return compiled(to_keras(net, self.model()))

    def judged(self, model: keras.Model, kind: str) -> dict[str, Any]:
        """Measures a pruned model, fine-tunes it and measures it again."""
        cost = TARGETS[kind](0.5)
        result = {
            "reached": cost.measure(model) / cost.measure(self.build()),
            "units": [int(g.size) for g in ka.unit_groups(model)],
            "after": self.accuracy(model),
        }
        if any(
            isinstance(each, layers.BatchNormalization) for each in model.layers
        ):
            # Ours are recalibrated already.
            ka.recalibrate(model, self.sample[0])
            result["recalibrated"] = self.accuracy(model)
        keras.utils.set_random_seed(self.seed)
        steps = -(-TUNING // 64)
        compiled(model, keras.optimizers.schedules.CosineDecay(1e-3, steps))
        x, y = self.data.x_train[:TUNING], self.data.y_train[:TUNING]
        model.fit(x, y, batch_size=64, verbose=0)
        return {**result, "tuned": self.accuracy(model)}

    def accuracy(self, model: keras.Model) -> float:
        data = self.data
        if self.judge == "test":
            return accuracy(model, data.x_test, data.y_test)
        return self._held_out(model)

    def _held_out(self, model: keras.Model) -> float:
        return accuracy(model, self.data.x_val, self.data.y_val)

    def _trained(self, path: Path) -> list[np.ndarray]:
        if path.exists():
            with np.load(path) as file:
                return [file[name] for name in file.files]
        task = TASKS[self.name]
        keras.utils.set_random_seed(self.seed)
        steps = task.epochs * -(-len(self.data.y_train) // 128)
        model = compiled(
            self.build(), keras.optimizers.schedules.CosineDecay(2e-3, steps)
        )
        model.fit(
            self.data.x_train,
            self.data.y_train,
            batch_size=128,
            epochs=task.epochs,
            verbose=0,
        )
        weights = model.get_weights()
        np.savez(path, *weights)
        return weights


def compiled(model: keras.Model, rate: Any = 1e-3) -> keras.Model:
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    logits = model.predict(x, batch_size=512, verbose=0)
    return float((logits.argmax(1) == y).mean())


def run(
    trial: Trial, rows: Sequence[dict[str, Any]], write: Callable[..., None]
) -> None:
    """Runs what is missing of one network and seed."""
    start = trial.name, trial.seed
    here = [row for row in rows if (row["network"], row["seed"]) == start]
    done = {tuple(row[key] for key in KEYS) for row in here}
    targets = [(kind, share) for kind in TARGETS for share in SHARES]
    methods = {
        method: [t for t in targets if (*start, method, *t) not in done]
        for method in (*OURS, *(others.METHODS if others else ()))
    }
    unpruned = (*start, "unpruned", "", 1.0) in done
    complete = unpruned and not any(methods.values())
    if not complete and any(row.get("weights") != trial.digest for row in here):
        raise ValueError(
            f"Rows of {trial.name}, seed {trial.seed}, are of other weights. "
            "Expected those in `--weights`, or no rows. Received: weights "
            f"{trial.digest}, rows of "
            f"{sorted({str(row.get('weights')) for row in here})}"
        )

    def say(*line: Any) -> None:
        *key, result = line
        write(*start, *key, {**result, "weights": trial.digest})

    if not unpruned:
        say("unpruned", "", 1.0, {"after": trial.accuracy(trial.model())})
    for method, missing in methods.items():
        if method in OURS:
            for target in missing:
                say(method, *target, trial.ours(method, *target))
        elif missing:
            for kind, share, result in trial.theirs(method, missing):
                say(method, kind, share, result)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as file:
        return [json.loads(line) for line in file]


def medians(rows: Sequence[dict[str, Any]], key: str) -> dict[tuple, float]:
    """Returns medians over seeds, for each network, method and target."""
    found: dict[tuple, list[float]] = {}
    for each in rows:
        if key in each:
            where = tuple(each[k] for k in KEYS if k != "seed")
            found.setdefault(where, []).append(each[key])
    return {where: float(np.median(each)) for where, each in found.items()}


def methods_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the methods in these rows, ours first."""
    found = dict.fromkeys(each["method"] for each in rows if each["kind"])
    return [name for name in OURS if name in found] + [
        name for name in found if name not in OURS
    ]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a table for each network, in Markdown, the best in bold."""
    found = [medians(rows, key) for key in ("after", "tuned")]
    for name in dict.fromkeys(each["network"] for each in rows):
        here = [each for each in rows if each["network"] == name]
        seeds = len({each["seed"] for each in here})
        whole = 100 * found[0][name, "unpruned", "", 1.0]
        columns = [(kind, share) for kind in TARGETS for share in SHARES]
        lines = {
            method: [
                [f"{100 * key[name, method, *c]:.1f}" for key in found]
                if (name, method, *c) in found[0]
                else None
                for c in columns
            ]
            for method in methods_of(here)
        }
        for cells in zip(*lines.values(), strict=True):
            for number in range(len(found)):
                best = max(float(cell[number]) for cell in cells if cell)
                for cell in cells:
                    if cell and float(cell[number]) == best:
                        cell[number] = f"**{cell[number]}**"
        print(
            f"\n{TASKS[name].title}, {seeds} seeds, {whole:.2f} % before "
            "pruning:\n"
        )
        heads = [f"{share:.0%} of {kind}" for kind, share in columns]
        heads = [
            each.replace("%", " %").replace("flops", "FLOPs") for each in heads
        ]
        for line in (
            ("method", *heads),
            ["---"] * (1 + len(heads)),
            *(
                (method, *(" / ".join(each) if each else "–" for each in cells))
                for method, cells in lines.items()
            ),
        ):
            print(f"| {' | '.join(line)} |")


def draw(rows: Sequence[dict[str, Any]], path: str) -> None:
    """Draws accuracy against shares, a row for each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(each["network"] for each in rows))
    figure, axes = pyplot.subplots(
        len(names), 4, figsize=(13, 2.8 * len(names)), squeeze=False
    )
    methods = methods_of(rows)
    found = {key: medians(rows, key) for key in ("after", "tuned")}
    for line, name in zip(axes, names, strict=True):
        whole = 100 * found["after"][name, "unpruned", "", 1.0]
        panels = [(kind, key) for kind in TARGETS for key in found]
        for axis, (kind, key) in zip(line, panels, strict=True):
            axis.axhline(whole, color="gray", linewidth=0.8)
            for number, method in enumerate(methods):
                where = [(name, method, kind, share) for share in SHARES]
                axis.plot(
                    [100 * s for s in SHARES],
                    [100 * found[key].get(each, np.nan) for each in where],
                    color=f"C{number}",
                    linestyle="-" if method in OURS else "--",
                    marker="o" if method in OURS else "x",
                    markersize=4,
                    label=method,
                )
            axis.set_xticks([100 * share for share in SHARES])
            axis.invert_xaxis()
            axis.set_xlabel(f"% of {kind}".replace("flops", "FLOPs"))
            axis.grid(alpha=0.3)
            axis.set_title(
                "after pruning" if key == "after" else "fine-tuned", fontsize=10
            )
        line[0].set_ylabel(f"{TASKS[name].title}\ntest accuracy, %", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=9)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--results", type=Path, default=Path("docs/results/data/pareto.jsonl")
    )
    parser.add_argument("--weights", type=Path, default=Path("output/pareto"))
    parser.add_argument(
        "--judge", choices=("test", "validation"), default="test"
    )
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.weights.mkdir(parents=True, exist_ok=True)

    def write(*line: Any) -> None:
        *key, result = line
        row = {**dict(zip(KEYS, key, strict=True)), **result}
        with arguments.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    if not arguments.show:
        for name in arguments.networks or TASKS:
            data = TASKS[name].data()
            for seed in arguments.seeds:
                folder = arguments.weights
                trial = Trial(name, seed, data, arguments.judge, folder)
                run(trial, read(arguments.results), write)
    rows = read(arguments.results)
    show(rows)
    print(machine())
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()

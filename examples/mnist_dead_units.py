"""Dead weights and dead units on MNIST: the experiments of Evci's thesis.

    python examples/mnist_dead_units.py pruning --seeds 3
    python examples/mnist_dead_units.py saliencies
    python examples/mnist_dead_units.py attack

The network is that of appendix C.1: two convolutions of 8 and 16 channels,
each with max-pooling and a ReLU, and dense layers of 64 and 10. It trains by
gradient descent with a rate of 0.01 on batches of 32, from the weights that
PyTorch, in which the thesis was done, begins with.

- `pruning` (sections 2.2 and 4.2) prunes while it trains: weights by magnitude
  (table 2.2), units by mean replacement saliency (table 4.2), and beside them
  by what else this package does, in the thesis' training and in a better one
  (Adam, 3e-3 falling as a cosine, batches of 128).
- `saliencies` (sections 2.1 and 4.1) asks at moments of one training what
  each criterion's choice would cost.
- `attack` (chapter 3) attacks a unit by a high learning rate.

Scores and means are taken from 1,000 training images. Every training that is
finished is written to a file at once, and not repeated when the command is
given again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import load
from initial_weights import as_in_pytorch
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.criteria import budget
from keras_apoptosis.report import table
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits

schedules = ka.schedules
FRACTIONS_OF_WEIGHTS = {2: 0.2, 3: 0.5, 4: 0.8, 5: 0.9}  # Table 2.2.
FRACTIONS_OF_UNITS = {2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6}  # Table 4.2.
THESIS = ("units, thesis 4.2", 4019, 98.42)


def build(activation: str = "relu") -> keras.Model:
    """The small CNN of appendix C.1, compiled."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            ka.layers.PrunableConv2D(8, 5, name="conv1", **as_in_pytorch(25)),
            layers.MaxPooling2D(),
            layers.Activation(activation),
            ka.layers.PrunableConv2D(16, 5, name="conv2", **as_in_pytorch(200)),
            layers.MaxPooling2D(),
            layers.Activation(activation),
            layers.Flatten(),
            ka.layers.PrunableDense(
                64, activation=activation, name="fc1", **as_in_pytorch(256)
            ),
            ka.layers.PrunableDense(10, name="fc2", **as_in_pytorch(64)),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def saliency_pruning(criterion: str, sample: Any, **arguments: Any):
    return ka.callbacks.SaliencyPruning(criterion, data=sample, **arguments)


# What prunes, by name: made from a training sample.
METHODS: dict[str, Callable[[Any], list]] = {
    "plain": lambda sample: [],
    "weights, magnitude (2.2)": lambda sample: [
        saliency_pruning(
            "magnitude",
            sample,
            structure="weights",
            budget="global",
            schedule=schedules.AtEpochs(FRACTIONS_OF_WEIGHTS),
        )
    ],
    "units, MRS (4.2)": lambda sample: [
        saliency_pruning(
            "mean_replacement_saliency",
            sample,
            schedule=schedules.AtEpochs(FRACTIONS_OF_UNITS),
        )
    ],
    "units, random (4.2)": lambda sample: [
        saliency_pruning(
            "random",
            sample,
            schedule=schedules.AtEpochs(FRACTIONS_OF_UNITS),
        )
    ],
    "ours, reconstruction 0.05": lambda sample: [apoptosis(sample, 0.05)],
    "ours, reconstruction 0.10": lambda sample: [apoptosis(sample, 0.10)],
    "ours, reconstruction 0.15": lambda sample: [apoptosis(sample, 0.15)],
    "Adam, plain": lambda sample: [],
    "Adam, reconstruction 0.10": lambda sample: [apoptosis(sample, 0.10)],
    "Adam, reconstruction 0.15": lambda sample: [apoptosis(sample, 0.15)],
    "Adam, reconstruction 0.20": lambda sample: [apoptosis(sample, 0.20)],
}


def apoptosis(sample: Any, tolerance: float) -> ka.callbacks.NeuronApoptosis:
    """Units leave by least squares, a quarter and half-way through."""
    return ka.callbacks.NeuronApoptosis(
        data=sample[0],
        tolerance=tolerance,
        schedule=schedules.Logarithmic(start=0.2, ratio=1.6),
        min_gain=0.05,
    )


def train(data: Any, method: str, seed: int, arguments: Any) -> dict[str, Any]:
    """Trains once, and judges."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build()
    size = 32
    if method.startswith("Adam"):  # Ours: not the thesis' training.
        size = 128
        steps = arguments.epochs * -(-len(data.y_train) // size)
        rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        model.compile(
            keras.optimizers.Adam(rate), model.loss, metrics=["accuracy"]
        )
    parameters = model.count_params()
    callbacks = METHODS[method](sample_of(data, seed))
    start = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=size,
        epochs=arguments.epochs,
        validation_data=(data.x_val, data.y_val),
        validation_batch_size=500,
        callbacks=callbacks,
        verbose=arguments.verbose,
    ).history
    seconds = time.perf_counter() - start
    run = {
        "method": method,
        "seed": seed,
        "epochs": arguments.epochs,
        "parameters_at_first": parameters,
        **judged(model, data),
        "seconds": seconds,
        "events": [str(event) for each in callbacks for event in each.history],
        "history": history,
        "machine": machine(),
    }
    if method.startswith("weights"):
        run["after_removal"] = {
            str(share): judged(removed(model, share, data, seed), data)
            for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
        }
    if seed == 0:
        run["fc1"] = kernel_of(model, "fc1").tolist()
    return run


def judged(model: keras.Model, data: Any) -> dict[str, Any]:
    """Size and accuracies; masked weights and masks are no parameters."""
    masked = [
        int((~keras.ops.convert_to_numpy(layer.kernel_mask.value)).sum())
        for layer in model.layers
        if getattr(layer, "kernel_mask", None) is not None
    ]
    small = ka.strip(model)
    small.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    _, val = small.evaluate(data.x_val, data.y_val, 500, verbose=0)
    _, test = small.evaluate(data.x_test, data.y_test, 500, verbose=0)
    return {
        "parameters": small.count_params(),
        "weights_left": small.count_params() - sum(masked),
        "val_accuracy": val,
        "test_accuracy": test,
        "widths": [
            layer.get_weights()[1].size
            for layer in small.layers
            if layer.weights
        ],
    }


def removed(model: keras.Model, share: float, data: Any, seed: int) -> Any:
    """The model without units that have lost most weights (figure 2.11)."""
    sample = sample_of(data, seed)[0]
    removal = ka.criteria.sparse_units(model, share, sample)
    return ka.rebuild(model, removal)


def sample_of(data: Any, seed: int, size: int = 1000) -> tuple:
    """Training images by which units and weights are judged."""
    rows = np.random.default_rng(seed).permutation(len(data.y_train))[:size]
    return data.x_train[rows], data.y_train[rows]


def kernel_of(model: keras.Model, name: str) -> np.ndarray:
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


def machine() -> str:
    return (
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{platform.machine()}"
    )


def prune(data: Any, arguments: Any) -> None:
    """Sections 2.2 and 4.2."""
    path = Path(arguments.out) / "mnist_dead_units.jsonl"
    runs = read(path)
    done = {(run["method"], run["seed"], run["epochs"]) for run in runs}
    wanted = [
        (method, seed)
        for seed in range(arguments.seeds)
        for method in METHODS
        if (method, seed, arguments.epochs) not in done
    ]
    for number, (method, seed) in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {method}, seed {seed}", flush=True)
        run = train(data, method, seed, arguments)
        runs.append(run)
        with path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(
            f"    {run['parameters']:,} parameters, "
            f"{run['weights_left']:,} of them not masked, validation "
            f"{run['val_accuracy']:.2%}, {run['seconds']:.0f} s",
            flush=True,
        )
    runs = [run for run in runs if run["epochs"] == arguments.epochs]
    print(pruning_table(runs))
    print(removal_table(runs))
    if not arguments.no_figures:
        draw_pruning(runs, Path(arguments.out) / "mnist_pruning.png")


def read(path: Path) -> list[dict[str, Any]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def pruning_table(runs: list[dict[str, Any]]) -> str:
    rows = [(THESIS[0], "", f"{THESIS[1]:,}", "", f"{THESIS[2]:.2f}", "")]
    for method in METHODS:
        mine = [run for run in runs if run["method"] == method]
        if not mine:
            continue
        left = np.mean([run["weights_left"] for run in mine])
        rows.append(
            (
                method,
                len(mine),
                f"{np.mean([run['parameters'] for run in mine]):,.0f}",
                f"{left:,.0f}",
                spread([100 * run["test_accuracy"] for run in mine]),
                f"{np.mean([run['seconds'] for run in mine]):.0f}",
            )
        )
    return table(
        (
            "pruned",
            "seeds",
            "parameters",
            "not masked",
            "test accuracy %",
            "seconds",
        ),
        rows,
    )


def removal_table(runs: list[dict[str, Any]]) -> str:
    """Figure 2.11: units that lost their weights are removed."""
    mine = [run for run in runs if "after_removal" in run]
    rows = []
    for share in mine[0]["after_removal"] if mine else ():
        found = [run["after_removal"][share] for run in mine]
        rows.append(
            (
                f"{float(share):.0%}",
                f"{np.mean([each['parameters'] for each in found]):,.0f}",
                spread([100 * each["test_accuracy"] for each in found]),
            )
        )
    return table(
        ("units with at most … non-zero", "parameters", "test accuracy %"),
        rows or [("", "", "")],
    )


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.2f} ± {np.std(values):.2f}"


def draw_pruning(runs: list[dict[str, Any]], path: Path) -> None:
    """Figures 2.8 and 4.6, and the colour maps of 2.10 and 4.9."""
    from matplotlib.figure import Figure

    shown = ["plain", "weights, magnitude (2.2)", "units, MRS (4.2)"]
    first = {
        run["method"]: run
        for run in runs
        if run["seed"] == 0 and run["method"] in shown
    }
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1))
    loss, size = above.subplots(1, 2)
    for method, run in first.items():
        history = run["history"]
        epochs = np.arange(1, len(history["loss"]) + 1)
        loss.plot(epochs, history["loss"], marker=".", label=method)
        left = np.array(history.get("parameters", [run["parameters"]]))
        left = np.broadcast_to(left, epochs.shape)
        left = left - np.array(history.get("masked_weights", 0))
        size.plot(epochs, left, marker=".", label=method)
    loss.set(title="training loss", xlabel="epoch", yscale="log")
    size.set(title="weights left", xlabel="epoch", ylim=(0, None))
    for axes in (loss, size):
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    for axes, (method, run) in zip(
        below.subplots(1, len(first), squeeze=False)[0],
        first.items(),
        strict=True,
    ):
        kernel = np.abs(np.array(run["fc1"])).T
        axes.imshow(kernel, aspect="auto", interpolation="nearest")
        axes.set(title=f"fc1, {method}", xlabel="inputs", ylabel="units")
    figure.savefig(path, dpi=130)
    print(f"Figure: {path}")


class Comparison(keras.callbacks.Callback):
    """What each criterion's choice would do to the loss, now and then."""

    def __init__(self, sample: Any, every: int):
        super().__init__()
        self.sample = sample
        self.every = every
        self.steps: list[int] = []
        self.units: dict[str, list[float]] = {}
        self.weights: dict[str, list[float]] = {}
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        if self._step % self.every == 0:
            self.steps.append(self._step)
            self._compare_units()
            self._compare_weights()

    def _compare_units(self, group: str = "fc1", share: float = 0.5) -> None:
        analysis = ka.graph.analyse(self.model)
        units = ReplacedUnits(analysis, groups=[group])
        means = units.means(self.sample)
        plain = units.losses(self.sample, means, {}).mean()
        for name, criterion in ka.criteria.named.UNITS.items():
            if name == "random":
                criterion = functools.partial(criterion, seed=self._step)
            scores = criterion(self.model, self.sample)[group]
            gone = np.zeros(scores.size)
            count = budget.share_of(scores.size, share)
            gone[budget.lowest({group: scores}, count)[group]] = 1
            loss = units.losses(self.sample, means, {group: gone}).mean()
            self.units.setdefault(name, []).append(float(loss - plain))

    def _compare_weights(self, share: float = 0.5) -> None:
        derivatives = WeightDerivatives(self.model)
        plain = derivatives.loss(self.sample)
        weights = [
            keras.ops.convert_to_numpy(each) for each in derivatives.weights
        ]
        for name, criterion in ka.criteria.named.WEIGHTS.items():
            if name == "loss_change":  # A pass for each of 20,000 weights.
                continue
            if name == "random":
                criterion = functools.partial(criterion, seed=self._step)
            flat = {
                str(i): np.ravel(each)
                for i, each in enumerate(criterion(self.model, self.sample))
            }
            count = budget.share_of(sum(w.size for w in weights), share)
            pruned = []
            for (key, gone), weight in zip(
                budget.lowest(flat, count).items(), weights, strict=True
            ):
                pruned.append(weight.copy())
                pruned[-1].reshape(-1)[gone] = 0
                del key
            loss = derivatives.loss(self.sample, pruned)
            self.weights.setdefault(name, []).append(loss - plain)


def compare(data: Any, arguments: Any) -> None:
    """Sections 2.1 and 4.1."""
    keras.utils.set_random_seed(0)
    model = build()
    steps = len(data.y_train) // 32
    comparison = Comparison(sample_of(data, 0), max(1, steps // 4))
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=32,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
        callbacks=[comparison],
    )
    for title, found in (
        ("half of all weights set to zero", comparison.weights),
        ("half of the units of fc1 replaced by their means", comparison.units),
    ):
        half = len(comparison.steps) // 2
        rows = [
            (
                name,
                f"{np.mean(values[:half]):.4f}",
                f"{np.mean(values[half:]):.4f}",
                f"{np.max(values):.4f}",
            )
            for name, values in found.items()
        ]
        rows.sort(key=lambda row: float(row[2]))
        print(f"\nChange of the training loss, {title}")
        print(table(("criterion", "first half", "second half", "worst"), rows))
    if not arguments.no_figures:
        draw_comparison(
            comparison, Path(arguments.out) / "mnist_saliencies.png"
        )


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Figures 2.3 to 2.6, and 4.2."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(1, 2),
        (
            ("half of all weights to zero", comparison.weights),
            ("half of fc1's units to their means", comparison.units),
        ),
        strict=True,
    ):
        for name, values in found.items():
            axes.plot(comparison.steps, values, marker=".", label=name)
        axes.set(title=title, xlabel="step", ylabel="change of the loss")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.legend(frameon=False, fontsize="x-small", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"Figure: {path}")


def attack(data: Any, arguments: Any) -> None:
    """Chapter 3: a unit of the first layer, with and without an attack."""
    sample = sample_of(data, 0)
    steps = len(data.y_train) // 32 * arguments.epochs
    monitors: dict[str, ka.callbacks.UnitMonitor] = {}
    rows = []
    for multiplier in (1.0, 100.0, 1000.0):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = build(arguments.activation)
        name = "original" if multiplier == 1 else f"× {multiplier:g}"
        monitors[name] = ka.callbacks.UnitMonitor(
            sample,
            every=max(1, steps // 40),
            groups=["conv1"],
            penalty=True,
            histograms={"conv1": [arguments.unit]},
        )
        model.fit(
            data.x_train,
            data.y_train,
            batch_size=32,
            epochs=arguments.epochs,
            verbose=arguments.verbose,
            callbacks=[
                monitors[name],
                ka.callbacks.LearningRateAttack(
                    "conv1",
                    arguments.unit,
                    multiplier=multiplier,
                    start=steps // 10,
                    repeats=10,
                    interval=10,
                ),
            ],
        )
        last = monitors[name].records[-1]
        rows.append(
            (
                name,
                *(
                    f"{last.measures[m]['conv1'][arguments.unit]:.4g}"
                    for m in ("penalty", "saliency", "incoming", "outgoing")
                ),
                f"{last.loss:.4f}",
            )
        )
    print(f"\nUnit {arguments.unit} of conv1 after {steps:,} steps")
    print(table(("attack", "MRP", "MRS", "incoming", "outgoing", "loss"), rows))
    print(monitors[name].report())
    if not arguments.no_figures:
        draw_attack(
            monitors,
            arguments.unit,
            Path(arguments.out) / f"mnist_attack_{arguments.activation}.png",
        )


def draw_attack(
    monitors: dict[str, ka.callbacks.UnitMonitor], unit: int, path: Path
) -> None:
    """Figures 3.1 and 3.6."""
    from matplotlib.figure import Figure

    titles = ka.callbacks.unit_monitor.TITLES
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    grid = figure.subplots(3, 3)
    for axes, (measure, title) in zip(
        grid[:2].flat, titles.items(), strict=True
    ):
        for name, monitor in monitors.items():
            steps = [record.step for record in monitor.records]
            values = monitor.series(measure, "conv1")[:, unit]
            axes.plot(steps, values, label=name)
        axes.set(title=title, xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    grid[0, 0].legend(frameon=False)
    for axes, (name, monitor) in zip(grid[2], monitors.items(), strict=True):
        for record in monitor.records:
            counts, edges = record.histograms["conv1"][unit]
            share = counts / counts.sum()
            steps = np.full(counts.size, record.step)
            # Most values are near zero; the root lets the others be seen.
            axes.scatter(steps, edges[:-1], c=share**0.3, s=4)
        axes.set(title=f"values before the activation, {name}", xlabel="step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"Figure: {path}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, help="of the training images")
    parser.add_argument("--unit", type=int, default=0, help="to attack")
    parser.add_argument(
        "--activation", default="relu", choices=("relu", "tanh")
    )
    parser.add_argument("--out", default="results")
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--verbose", type=int, default=0)
    return parser.parse_args()


EXPERIMENTS = {"pruning": prune, "saliencies": compare, "attack": attack}


def main() -> None:
    arguments = parse()
    data = load("mnist")
    # As PyTorch's examples normalize it.
    for part in ("train", "val", "test"):
        x = (getattr(data, f"x_{part}") - 0.1307) / 0.3081
        object.__setattr__(data, f"x_{part}", x)
    if arguments.samples:
        for name in ("x_train", "y_train"):
            short = getattr(data, name)[: arguments.samples]
            object.__setattr__(data, name, short)
    EXPERIMENTS[arguments.experiment](data, arguments)


if __name__ == "__main__":
    main()

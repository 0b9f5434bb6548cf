"""Trains MLPs plain and with synaptic stripping.

Table I of Whitaker and Whitley, "Synaptic stripping", section IV-A: hidden
layers of 2, 4 or 8 times 256, 512 or 1024 units with ReLU; Adam with a rate of
1e-3, batches of 64, 50 epochs; images normalized with the paper's means and
deviations, no augmentation. Dead units are detected on the 10 % of the
training images that are split off for validation, never on test images. The
paper does not say how weights begin; PyTorch, in which its models were made,
draws weights and biases uniformly up to 1 / sqrt(inputs), and so do we.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka
from experiments import training
from experiments.figures import tidy
from experiments.initial_weights import as_in_pytorch
from experiments.rows import Row, markdown, percent
from experiments.training import score
from keras_apoptosis.training.masking import masked_count

MEAN = np.array([0.4914, 0.4822, 0.4465], "float32")
DEVIATION = np.array([0.2023, 0.1994, 0.2010], "float32")

# Table I, CIFAR-10: peak validation accuracy, #D, %A; plain and stripped.
PAPER = {
    "2x256": ((53.28, 30, 88.62), (53.74, 0, 94.01)),
    "2x512": ((53.89, 224, 61.04), (53.94, 0, 82.88)),
    "2x1024": ((53.92, 1010, 25.69), (54.38, 3, 68.67)),
    "4x256": ((53.50, 63, 88.07), (53.54, 1, 91.23)),
    "4x512": ((54.27, 645, 46.93), (54.42, 5, 83.02)),
    "4x1024": ((55.04, 2610, 13.16), (54.67, 53, 59.07)),
    "8x256": ((52.72, 781, 38.58), (52.92, 6, 73.95)),
    "8x512": ((53.89, 2566, 13.95), (53.89, 31, 64.33)),
    "8x1024": ((54.08, 6052, 6.82), (54.04, 248, 43.57)),
}


@dataclasses.dataclass
class Config(training.Config):
    """Settings.

    Attributes:
        size: Number and width of hidden layers, such as `2x512`.
        method: `plain`, which only counts, or `stripping`.
        share: Of its weights that a dead unit loses.
        histograms: Epochs of which the weights are kept (figure 2).
    """

    dataset: str = "cifar10"
    epochs: int = 50
    batch_size: int = 64
    size: str = "2x512"
    method: str = "plain"
    share: float = 0.1
    histograms: int = 0


def build(size: str, inputs: int, classes: int) -> keras.Model:
    """Makes a compiled MLP of Prunable layers, which count as they go."""
    depth, width = map(int, size.split("x"))
    model = keras.Sequential([keras.Input((inputs,))])
    for number in range(1, depth + 1):
        model.add(
            ka.layers.PrunableDense(
                width,
                activation="relu",
                name=f"hidden_{number}",
                track_statistics=True,
                **as_in_pytorch(inputs),
            )
        )
        inputs = width
    model.add(layers.Dense(classes, name="logits", **as_in_pytorch(inputs)))
    model.compile(
        keras.optimizers.Adam(1e-3, epsilon=1e-8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Histograms(keras.callbacks.Callback):
    """Histograms of the second layer's weights, unit by unit (figure 2).

    The first has next to no dead units: its inputs have a mean of zero.
    """

    edges = np.linspace(-0.3, 0.3, 61)

    def __init__(self, stripping: ka.callbacks.SynapticStripping, epochs: int):
        super().__init__()
        self.stripping = stripping
        self.epochs = epochs
        self.counts: list[list] = []
        self.dead: list[list] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch < self.epochs:
            kernel = keras.ops.convert_to_numpy(self.model.layers[1].kernel)
            # A masked weight is exactly zero, and no weight any more.
            counts = [np.histogram(w[w != 0], self.edges)[0] for w in kernel.T]
            self.counts.append(np.array(counts).tolist())
            self.dead.append(self.stripping.dead["hidden_2"].tolist())

    def of_some_units(self, count: int = 16) -> dict[int, Row]:
        """Returns those of units that are dead at first, and of a healthy one.

        With a seed these units are the same with stripping and without.
        """
        if not self.dead:
            return {}
        dead = np.array(self.dead)
        units = [*np.flatnonzero(dead[0])[:count]]
        units += [*np.flatnonzero(~dead.any(0))[:1]]
        return {
            int(unit): {
                "dead": dead[:, unit],
                "counts": np.array(self.counts)[:, unit],
            }
            for unit in units
        }

    def get_state(self) -> dict[str, list]:
        return {"weights": self.counts, "dead": self.dead}

    def set_state(self, state: dict[str, list]) -> None:
        self.counts, self.dead = state["weights"], state["dead"]


def run(config: Config) -> Row:
    """Trains once."""
    data = prepare(config)
    # With a share of 0 it only counts.
    stripping = ka.callbacks.SynapticStripping(
        config.share if config.method == "stripping" else 0.0
    )
    histograms = Histograms(stripping, config.histograms)
    x, y = data["train"]
    model, log = training.fit(
        config,
        lambda: build(config.size, x.shape[1], int(y.max()) + 1),
        x,
        y,
        callbacks=[stripping, histograms],
        validation_data=data["val"],
    )
    history = log.history
    hidden = {
        layer.name: sum(w.size for w in layer.get_weights()[:2])
        for layer in model.layers[:-1]
    }
    active = [
        count * history[f"active_parameters/{name}"][-1]
        for name, count in hidden.items()
    ]
    return {
        "peak_val_accuracy": max(history["val_accuracy"]),
        "test_accuracy": score(model, *data["test"]),
        "dead_by_layer": {n: history[f"dead_units/{n}"][-1] for n in hidden},
        "pruned": masked_count(model),
        "active_hidden": sum(active) / sum(hidden.values()),
        "active_parameters": history["active_parameters"][-1],
        **log.times(),
        "callback_seconds": sum(history["synaptic_stripping_seconds"]),
        "dead_units": history["dead_units"],
        "weights": histograms.of_some_units(),
    }


def prepare(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the three parts of the data, normalized, with images as rows."""
    data = training.data_of(config)
    found = {}
    for part in ("train", "val", "test"):
        x = getattr(data, f"x_{part}")
        x = ((x - MEAN) / DEVIATION).reshape(len(x), -1)
        found[part] = (x, getattr(data, f"y_{part}"))
    return found


def as_in_table_1(row: Row) -> float:
    """Returns the active share by the formula that Table I follows.

    Its plain rows are (1 - #D / units)² to the last digit, in 16 of 18, which
    takes dead units as spread evenly over layers as wide on both sides. The
    share that is pruned, of as many weights, is a guess; it comes close.
    """
    depth, width = map(int, row["config"]["size"].split("x"))
    alive = 1 - row["dead_units"][-1] / (depth * width)
    return alive**2 - row["pruned"] / (depth * width**2)


def table(rows: list[Row]) -> str:
    """Returns Table I, with the paper's numbers beside ours."""

    def paper(place: int, form: str) -> tuple:
        def number(row: Row) -> float | None:
            config = row["config"]
            if config["dataset"] != "cifar10":
                return None
            theirs = PAPER[config["size"]]
            return theirs[config["method"] == "stripping"][place]

        return number, form

    return markdown(
        rows,
        {
            "peak val %": percent("peak_val_accuracy"),
            "paper": paper(0, ".2f"),
            "test %": percent("test_accuracy"),
            "#D": (lambda row: row["dead_units"][-1], "±.0f"),
            "paper: #D": paper(1, ",.0f"),
            "%A": percent("active_parameters"),
            "of hidden": percent("active_hidden"),
            "by formula": (lambda row: 100 * as_in_table_1(row), "±.2f"),
            "paper: %A": paper(2, ".2f"),
            "callback %": (
                lambda row: 100 * row["callback_seconds"] / row["seconds"],
                ".2f",
            ),
            "seconds": ("seconds", ",.0f"),
        },
        order=lambda mine: [
            mine[0]["config"]["dataset"],
            list(PAPER).index(mine[0]["config"]["size"]),
            mine[0]["config"]["method"],
        ],
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draws dead units by size, and over the epochs (figure 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_size, over_time = figure.subplots(1, 2)
    found: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        key = row["config"]["size"], row["config"]["method"]
        found.setdefault(key, []).append(row["dead_units"])
    sizes = [size for size in PAPER if (size, "plain") in found]
    for offset, method, style in (
        (-0.2, "plain", "-"),
        (0.2, "stripping", "--"),
    ):
        dead = [np.mean(found.get((size, method), [[0]]), 0) for size in sizes]
        places = np.arange(len(sizes)) + offset
        bars = by_size.bar(places, [d[-1] for d in dead], 0.4, label=method)
        by_size.bar_label(bars, fmt="{:.0f}", fontsize="small")
        for color, (size, values) in enumerate(zip(sizes, dead, strict=True)):
            over_time.plot(
                np.arange(1, len(values) + 1),
                values,
                style,
                color=f"C{color}",
                label=f"{size}, {method}",
            )
    by_size.set_xticks(np.arange(len(sizes)), sizes)
    by_size.set(title="at the end", xlabel="hidden layers", ylabel="dead units")
    over_time.set(title="over the training", xlabel="epoch")
    by_size.legend(frameon=False, fontsize="small")
    over_time.legend(
        frameon=False,
        fontsize="small",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    for axes in (by_size, over_time):
        tidy(axes)
    figure.savefig(path, dpi=110)
    draw_weights(rows, path.with_name(f"{path.stem}_weights.png"))


def draw_weights(rows: list[Row], path: Path) -> None:
    """Draws the weights of three units, epoch by epoch (figure 2).

    Both trainings are the same until the first weights are stripped, so the
    same unit can be followed through both. Nothing is drawn if none fits.
    """
    from matplotlib.figure import Figure

    kept = [row for row in rows if row["weights"]]
    plain, stripped = (
        next((r["weights"] for r in kept if r["config"]["method"] == name), {})
        for name in ("plain", "stripping")
    )
    healthy = [unit for unit in plain.values() if not any(unit["dead"])]
    revived = [
        (unit, stripped[name])
        for name, unit in plain.items()
        if all(unit["dead"]) and not stripped.get(name, unit)["dead"][-1]
    ]
    if not healthy or not revived:
        return
    panels = {
        "healthy": healthy[0],
        "dead": revived[0][0],
        "dead, with stripping": revived[0][1],
    }
    middles = (Histograms.edges[1:] + Histograms.edges[:-1]) / 2
    figure = Figure(figsize=(9, 4), layout="constrained")
    every = figure.subplots(1, 3, sharey=True)
    for axes, (title, unit) in zip(every, panels.items(), strict=True):
        counts = np.array(unit["counts"])
        for epoch in reversed(range(len(counts))):
            base = epoch + 1.0
            curve = base + 1.5 * counts[epoch] / counts.max()
            axes.fill_between(
                middles, base, curve, color="C0", alpha=0.6, zorder=-epoch
            )
            axes.plot(middles, curve, color="k", lw=0.6, zorder=-epoch)
        axes.axvline(0, color="k", lw=0.5, ls=":")
        axes.set(title=title, xlabel="weight")
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("epoch")
    figure.savefig(path, dpi=110)

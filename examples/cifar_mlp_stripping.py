"""Trains MLPs on CIFAR-10 plain and with synaptic stripping, and compares.

    python examples/cifar_mlp_stripping.py --sizes 2x256 2x512 --seeds 2

Table I of Whitaker and Whitley, "Synaptic stripping", section IV-A: hidden
layers of 2, 4 or 8 times 256, 512 or 1024 units with ReLU; Adam with a rate of
1e-3, batches of 64, 50 epochs; images normalized with the paper's means and
deviations, no augmentation. Dead units are detected on the 10 % of the
training images that are split off for validation, never on test images. The
paper does not say how weights begin; PyTorch, in which its models were made,
draws weights and biases uniformly up to 1 / sqrt(inputs), and so do we.

Every finished training is written to a file at once, and not repeated when the
command is given again; `--table` only prints and draws what the file has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import load
from initial_weights import as_in_pytorch
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

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
METHODS = ("plain", "stripping")


def build(size: str) -> keras.Model:
    """A compiled MLP of Prunable layers, which count as they go."""
    depth, width = map(int, size.split("x"))
    model = keras.Sequential([keras.Input((32 * 32 * 3,))])
    inputs = 32 * 32 * 3
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
    model.add(layers.Dense(10, name="logits", **as_in_pytorch(inputs)))
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
        self.counts: list[np.ndarray] = []
        self.dead: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch < self.epochs:
            kernel = keras.ops.convert_to_numpy(self.model.layers[1].kernel)
            # A masked weight is exactly zero, and no weight any more.
            self.counts.append(
                np.stack(
                    [np.histogram(w[w != 0], self.edges)[0] for w in kernel.T]
                )
            )
            self.dead.append(self.stripping.dead["hidden_2"])


def train(
    data: dict[str, tuple], size: str, seed: int, method: str, arguments
) -> tuple[dict[str, Any], Histograms]:
    """Trains once."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(size)
    # With a share of 0 it only counts.
    stripping = ka.callbacks.SynapticStripping(
        arguments.share if method == "stripping" else 0.0
    )
    histograms = Histograms(stripping, arguments.histograms)
    start = time.perf_counter()
    history = model.fit(
        *data["train"],
        batch_size=64,
        epochs=arguments.epochs,
        validation_data=data["val"],
        validation_batch_size=500,
        callbacks=[stripping, histograms],
        verbose=arguments.verbose,
    ).history
    seconds = time.perf_counter() - start
    hidden = {
        layer.name: sum(w.size for w in layer.get_weights()[:2])
        for layer in model.layers[:-1]
    }
    history["active_hidden"] = (
        sum(
            count * np.array(history[f"active_parameters/{name}"])
            for name, count in hidden.items()
        )
        / sum(hidden.values())
    ).tolist()
    _, accuracy = model.evaluate(*data["test"], batch_size=500, verbose=0)
    run = {
        "size": size,
        "method": method,
        "seed": seed,
        "epochs": arguments.epochs,
        "share": arguments.share,
        "peak_val_accuracy": max(history["val_accuracy"]),
        "test_accuracy": accuracy,
        "dead_units": history["dead_units"][-1],
        "dead_by_layer": {n: history[f"dead_units/{n}"][-1] for n in hidden},
        "parameters_by_layer": hidden,
        "pruned_by_layer": {
            layer.name: pruned(layer) for layer in model.layers[:-1]
        },
        "active_hidden": history["active_hidden"][-1],
        "active_parameters": history["active_parameters"][-1],
        "seconds": seconds,
        "callback_seconds": sum(history["synaptic_stripping_seconds"]),
        "machine": machine(),
        "history": history,
    }
    return run, histograms


def pruned(layer: ka.layers.PrunableDense) -> int:
    """How many weights of a layer are masked."""
    if layer.kernel_mask is None:
        return 0
    return int((~keras.ops.convert_to_numpy(layer.kernel_mask.value)).sum())


def machine() -> str:
    """Where it ran."""
    return (
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{platform.machine()}"
    )


def prepare(samples: int | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The three parts of CIFAR-10, normalized, with images as rows."""
    data = load("cifar10")
    found = {}
    for part in ("train", "val", "test"):
        x = getattr(data, f"x_{part}")[:samples]
        x = ((x - MEAN) / DEVIATION).reshape(len(x), -1)
        found[part] = (x, getattr(data, f"y_{part}")[:samples])
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """The trainings that a file has."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def as_in_table_1(run: dict[str, Any]) -> float:
    """The active share by the formula that Table I follows.

    Its plain rows are (1 - #D / units)² to the last digit, in 16 of 18, which
    takes dead units as spread evenly over layers as wide on both sides. The
    share that is pruned, of as many weights, is a guess; it comes close.
    """
    depth, width = map(int, run["size"].split("x"))
    pruned = sum(run["pruned_by_layer"].values())
    alive = 1 - run["dead_units"] / (depth * width)
    return alive**2 - pruned / (depth * width**2)


def compare(runs: list[dict[str, Any]]) -> str:
    """Table I, with the paper's numbers beside ours.

    Several seeds give the mean, plus or minus half of their range.
    """
    header = "size,method,seeds,peak val %,paper,test %,#D,paper,"
    header += "%A,of hidden,by formula,paper,callback %"
    rows = []
    for size, paper in PAPER.items():
        for method, theirs in zip(METHODS, paper, strict=True):
            mine = [
                r for r in runs if (r["size"], r["method"]) == (size, method)
            ]
            if mine:
                rows.append(_row(size, method, mine, theirs))
    return table(header.split(","), rows) if rows else "No trainings yet."


def _row(
    size: str, method: str, runs: list[dict[str, Any]], paper: tuple
) -> tuple:
    def share(name: str) -> str:
        return _mean([100 * run[name] for run in runs], ".2f")

    accuracy, dead, active = paper
    cost = [100 * r["callback_seconds"] / r["seconds"] for r in runs]
    return (
        size,
        method,
        len(runs),
        share("peak_val_accuracy"),
        f"{accuracy:.2f}",
        share("test_accuracy"),
        _mean([run["dead_units"] for run in runs], ".0f"),
        dead,
        share("active_parameters"),
        share("active_hidden"),
        _mean([100 * as_in_table_1(run) for run in runs], ".2f"),
        f"{active:.2f}",
        f"{max(cost):.2f}",
    )


def _mean(values: list[float], form: str) -> str:
    text = f"{np.mean(values):{form}}"
    if len(values) > 1:
        text += f" ± {np.ptp(values) / 2:{form}}"
    return text


def draw_dead(runs: list[dict[str, Any]], path: Path) -> None:
    """Dead units by size, and over the epochs (figure 3)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_size, over_time = figure.subplots(1, 2)
    sizes = [s for s in PAPER if any(r["size"] == s for r in runs)]
    styles = {"plain": "-", "stripping": "--"}
    for offset, (method, style) in zip(
        (-0.2, 0.2), styles.items(), strict=True
    ):
        counts = []
        for size in sizes:
            mine = [
                r for r in runs if (r["size"], r["method"]) == (size, method)
            ]
            counts.append(np.mean([r["dead_units"] for r in mine] or [0]))
            if size.startswith("2x") and mine:
                dead = [r["history"]["dead_units"] for r in mine]
                over_time.plot(
                    np.arange(1, len(dead[0]) + 1),
                    np.mean(dead, 0),
                    style,
                    color=f"C{list(PAPER).index(size)}",
                    label=f"{size}, {method}",
                )
        places = np.arange(len(sizes)) + offset
        bars = by_size.bar(places, counts, 0.4, label=method)
        by_size.bar_label(bars, fmt="{:.0f}", fontsize="small")
    by_size.set_xticks(np.arange(len(sizes)), sizes)
    by_size.set(title="at the end", xlabel="hidden layers", ylabel="dead units")
    over_time.set(title="two hidden layers", xlabel="epoch")
    for axes in (by_size, over_time):
        axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def draw_histograms(
    plain: np.lib.npyio.NpzFile, stripped: np.lib.npyio.NpzFile, path: Path
) -> bool:
    """The weights of three units, epoch by epoch (figure 2).

    Both trainings are the same until the first weights are stripped, so the
    same unit can be followed through both. `False` if no unit fits.
    """
    from matplotlib.figure import Figure

    stays = plain["dead"].all(0)  # In the plain training, from the first epoch.
    revived = plain["dead"][0] & ~stripped["dead"][-1]
    chosen = np.flatnonzero(stays & revived)
    healthy = np.flatnonzero(~plain["dead"].any(0))
    if not chosen.size or not healthy.size:
        return False
    panels = {
        "healthy": plain["counts"][:, healthy[0]],
        "dead": plain["counts"][:, chosen[0]],
        "dead, with stripping": stripped["counts"][:, chosen[0]],
    }
    middles = (Histograms.edges[1:] + Histograms.edges[:-1]) / 2
    figure = Figure(figsize=(9, 4), layout="constrained")
    every = figure.subplots(1, 3, sharey=True)
    for axes, (title, counts) in zip(every, panels.items(), strict=True):
        top = counts.max()
        for epoch in reversed(range(len(counts))):
            base = epoch + 1.0
            curve = base + 1.5 * counts[epoch] / top
            axes.fill_between(
                middles, base, curve, color="C0", alpha=0.6, zorder=-epoch
            )
            axes.plot(middles, curve, color="k", lw=0.6, zorder=-epoch)
        axes.axvline(0, color="k", lw=0.5, ls=":")
        axes.set(title=title, xlabel="weight")
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("epoch")
    figure.savefig(path, dpi=150)
    return True


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", choices=PAPER, default=list(PAPER), metavar="LxN")
    add("--seeds", type=int, default=2, help="how many, from 0")
    add("--epochs", type=int, default=50)
    add("--share", type=float, default=0.1)
    add("--samples", type=int, help="of each part of the data; default all")
    add("--histograms", type=int, default=10, help="epochs of figure 2")
    add("--output", type=Path, default=Path("output/stripping"))
    add("--figures", type=Path, help="folder; default that of --output")
    add("--table", action="store_true", help="no training, only the table")
    add("--verbose", type=int, default=2, help="as in `fit`")
    return parser.parse_args()


def main() -> None:
    """Trains what is not in the file yet, prints the table, draws."""
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "runs.jsonl"
    done = {(r["size"], r["seed"], r["method"]) for r in read(results)}
    wanted = [
        (size, seed, method)
        for size in arguments.sizes
        for seed in range(arguments.seeds)
        for method in METHODS
        if (size, seed, method) not in done and not arguments.table
    ]
    data = prepare(arguments.samples) if wanted else {}
    for size, seed, method in wanted:
        print(f"\n== {size}, seed {seed}: {method}", flush=True)
        run, histograms = train(data, size, seed, method, arguments)
        with results.open("a") as file:
            file.write(json.dumps(run) + "\n")
        np.savez_compressed(
            arguments.output / f"{size}_{seed}_{method}.npz",
            counts=np.stack(histograms.counts),
            dead=np.stack(histograms.dead),
        )
    runs = read(results)
    print(f"\n{compare(runs)}")
    print("\n".join(sorted({run["machine"] for run in runs})))
    figures = arguments.figures or arguments.output
    draw_dead(runs, figures / "stripping_dead_units.png")
    for size in arguments.sizes:
        parts = [arguments.output / f"{size}_0_{m}.npz" for m in METHODS]
        if all(part.exists() for part in parts):
            name = figures / f"stripping_histograms_{size}.png"
            if not draw_histograms(*map(np.load, parts), name):
                print(f"{size}: no unit to draw figure 2 of")
    print(f"Runs are in {results}, figures in {figures}/")


if __name__ == "__main__":
    main()

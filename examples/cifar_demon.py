"""Trains a network plain, with demon pruning and with others, and compares.

    python examples/cifar_demon.py --samples 20000 --epochs 10 --pool 2 \
        --width 16 --methods plain demon:0.01 early_snap:0.6 early_crop:0.6

Section 4 and figures 3, 13 and 14 of "Maxwell's demon at work": accuracy by
sparsity, with FLOPs and time. A method is a name with a number:

- `plain`
- `demon:λ`, or `demon:λ:σ²` with another noise variance than `--noise`;
  `demon_static` likewise, where the dead leave at the end alone (figure 7);
  `demon_target:s` or `demon_target:s:σ²` for a target of weight sparsity
- `snap:u`, `cropit:u`: the share u of all units goes after the first step,
  by the scores of SNAP and CroPit-S
- `early_snap:u`, `early_crop:u`: the same at the end of the first epoch in
  which the weights have settled (`ka.schedules.WhenSettled`), or at the moment
  that `--early` says
- `slimming:u`: network slimming: a constant l1 penalty on the scales
  (`--slimming`), and the share u with the smallest scales goes half-way
- `magnitude:u`: the share u with the smallest incoming weights goes half-way

Each network is tested as `fit` leaves it, and again after `ka.recalibrate` has
computed the moving mean and variance of normalizations from training images.

The recipes of appendix I (demon_recipes.py) are the defaults of each `--model`,
and arguments: optimizer (Adam, AdamW, SGD with momentum), rate and its
schedule, weight decay (a penalty in the loss; for AdamW decoupled), batches,
label smoothing, crops and flips with `--augment`, RandAugment, mixup and
cutmix, accumulated and clipped gradients. Models, with `--width` and
`--depth`: see demon_models.py.

Every finished training is written to a file at once, and not repeated when the
command is given again; `--table` only prints and draws what the file has. The
accuracy to choose by is that on the 10 % of the training images that are split
off; test images are used once, at the end of each run.
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

import demon_recipes
import keras
import numpy as np
from datasets import load
from demon_models import MODELS

import keras_apoptosis as ka
from keras_apoptosis.backend import step_hooks
from keras_apoptosis.training.penalty import Regularization, scales_of
from keras_apoptosis.utils.tables import table

RATES = {"adam": 0.005, "adamw": 0.005, "sgd": 0.1}
BASELINES = {
    "snap": "snap",
    "cropit": "cropit",
    "early_snap": "snap",
    "early_crop": "cropit",
    "slimming": "normalization_scale",
    "magnitude": "squared_norm",
}


class Penalty(keras.callbacks.Callback):
    """A constant l1 penalty on the scales of normalizations."""

    def __init__(self, strength: float):
        super().__init__()
        self.strength = ka.schedules.Constant(strength)

    def on_train_begin(self, logs: Any = None) -> None:
        scales = scales_of(self.model)
        hook = Regularization(self.strength, "l1", scales)
        self.detach = step_hooks.attach(self.model, hook)

    def on_train_end(self, logs: Any = None) -> None:
        self.detach()


def build(data: dict[str, tuple], steps: int, arguments) -> keras.Model:
    """A compiled network."""
    images = data["train"][0]
    options = {"depth": arguments.depth} if arguments.depth else {}
    model = MODELS[arguments.model](
        images.shape[1:],
        10,
        arguments.width,
        activation=arguments.activation,
        augment=arguments.augment,
        **options,
    )
    peak = arguments.rate or RATES[arguments.optimizer]
    steps = max(1, steps // (arguments.accumulate or 1))
    shared = {
        "learning_rate": demon_recipes.SCHEDULES[arguments.schedule](
            peak, steps
        ),
        "global_clipnorm": arguments.clip_norm,
        "gradient_accumulation_steps": arguments.accumulate,
    }
    optimizer = {
        "adam": lambda: keras.optimizers.Adam(**shared),
        "adamw": lambda: keras.optimizers.AdamW(
            weight_decay=arguments.decay, **shared
        ),
        "sgd": lambda: keras.optimizers.SGD(momentum=0.9, **shared),
    }[arguments.optimizer]()
    model.compile(
        optimizer,
        demon_recipes.loss(arguments.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def callbacks_of(method: str, data: dict[str, tuple], arguments) -> list[Any]:
    """What a method adds to `fit`."""
    name, _, number = method.partition(":")
    x, y = data["train"]
    if name == "plain":
        return []
    if name.startswith("demon"):
        number, _, variance = number.partition(":")
        wanted = (
            {
                "target": ka.targets.Parameters(at_most=1 - float(number)),
                "strength": 3e-3,
            }
            if name == "demon_target"
            else {"strength": float(number)}
        )
        return [
            ka.callbacks.DemonPruning(
                recalibrate=False,  # Measured after training.
                data=x[:512],
                schedule=ka.schedules.Fixed(
                    arguments.prune_every, start=arguments.prune_every
                ),
                noise_variance=float(variance or arguments.noise),
                noise_every=arguments.noise_every,
                dynamic=name != "demon_static",
                start=arguments.start,
                min_gain=arguments.min_gain,
                penalty=arguments.penalty,
                **wanted,
            )
        ]
    share, half_way = float(number), name in ("slimming", "magnitude")
    schedule: Any = ka.schedules.OneShot(share, 0.5 if half_way else 1e-6)
    if name.startswith("early"):
        schedule = (
            ka.schedules.OneShot(share, arguments.early)
            if arguments.early
            else ka.schedules.WhenSettled(share)
        )
    pruning = ka.callbacks.SaliencyPruning(
        BASELINES[name],
        recalibrate=False,
        schedule=schedule,
        data=(x[:1000], y[:1000]),
        scope="global",
        replacement="mean" if half_way else "zero",
    )
    slims = name == "slimming"
    return [Penalty(arguments.slimming)] * slims + [pruning]


def train(
    data: dict[str, tuple], seed: int, method: str, arguments
) -> dict[str, Any]:
    """Trains once."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    batches = -(-len(data["train"][0]) // arguments.batch_size)
    model = build(data, arguments.epochs * batches, arguments)
    cost = ka.callbacks.TrainingCost(arguments.batch_size)
    callbacks = callbacks_of(method, data, arguments)
    decay = WeightDecay(arguments.decay)
    if arguments.optimizer != "adamw":
        callbacks.append(decay)
    # Units leave first, then the step is counted, then logged.
    images = demon_recipes.Mixed(
        *data["train"],
        arguments.batch_size,
        rand_augment=arguments.rand_augment,
        mixup=arguments.mixup,
        cutmix=arguments.cutmix,
        seed=seed,
    )
    history = model.fit(
        images,
        epochs=arguments.epochs,
        validation_data=data["val"],
        validation_batch_size=500,
        callbacks=[*callbacks, cost],
        verbose=arguments.verbose,
    ).history
    start = time.perf_counter()
    accuracy = accuracy_of(model, data["test"])
    test_seconds = time.perf_counter() - start
    ka.recalibrate(model, data["train"])
    demons = [
        each
        for each in callbacks
        if isinstance(each, ka.callbacks.DemonPruning)
    ]
    return {
        "method": method,
        "seed": seed,
        "epochs": arguments.epochs,
        "val_accuracy": history["val_accuracy"][-1],
        "test_accuracy": accuracy,
        "val_recalibrated": accuracy_of(model, data["val"]),
        "test_recalibrated": accuracy_of(model, data["test"]),
        "neuron_sparsity": history["neuron_sparsity"][-1],
        "weight_sparsity": history["weight_sparsity"][-1],
        "training_flops": history["training_flops"][-1],
        "inference_flops": 1 - history["flop_sparsity"][-1],
        "parameters": model.count_params(),
        "seconds": cost.seconds,
        "test_seconds": test_seconds,
        "retraces": demons[0].retraces if demons else None,
        "overlap": [each.overlap for each in demons[0].history]
        if demons
        else None,
        "arguments": {
            key: value
            for key, value in vars(arguments).items()
            if isinstance(value, int | float | str)
        },
        "machine": machine(),
        "history": history,
    }


def accuracy_of(model: keras.Model, data: tuple) -> float:
    """Accuracy on images and labels."""
    return model.evaluate(*data, batch_size=500, verbose=0)[1]


class WeightDecay(Penalty):
    """A constant l2 penalty on all kernels, as in the loss: λ/2 Σ w²."""

    def __init__(self, strength: float):
        super().__init__(strength / 2)

    def on_train_begin(self, logs: Any = None) -> None:
        kernels = [w for w in self.model.trainable_variables if w.ndim > 1]
        hook = Regularization(self.strength, "l2", kernels)
        self.detach = step_hooks.attach(self.model, hook)


def machine() -> str:
    """Where it ran."""
    return (
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, "
        f"{platform.machine()}"
    )


def prepare(arguments) -> dict[str, tuple]:
    """The three parts of CIFAR-10, with images of another size if wanted."""
    samples, pool, size = arguments.samples, arguments.pool, arguments.size
    data = load("cifar10")
    found = {}
    for part in ("train", "val", "test"):
        x = getattr(data, f"x_{part}")
        y = getattr(data, f"y_{part}")
        if part == "train":
            x, y = x[:samples], y[:samples]
        side = x.shape[1] // pool
        x = x.reshape(len(x), side, pool, side, pool, 3).mean((2, 4))
        if size:
            x = keras.ops.image.resize(x, (size, size))
            x = keras.ops.convert_to_numpy(x)
        found[part] = (x, keras.utils.to_categorical(y, data.num_classes))
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """The trainings that a file has."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def compare(runs: list[dict[str, Any]]) -> str:
    """The runs as a table; several seeds give the mean."""
    header = "method,seeds,val %,test %,recalibrated: val %,test %,"
    header += "neurons gone %,weights gone %,"
    header += "training FLOPs,inference FLOPs,seconds,retraces,least overlap"
    rows = []
    for method, mine in by_method(runs).items():

        def mean(key: str, form: str, factor: float = 1, mine=mine) -> str:
            return f"{factor * np.mean([run[key] for run in mine]):{form}}"

        rows.append(
            (
                method,
                len(mine),
                mean("val_accuracy", ".2f", 100),
                mean("test_accuracy", ".2f", 100),
                mean("val_recalibrated", ".2f", 100),
                mean("test_recalibrated", ".2f", 100),
                mean("neuron_sparsity", ".1f", 100),
                mean("weight_sparsity", ".1f", 100),
                mean("training_flops", ".2f") + "x",
                mean("inference_flops", ".2f") + "x",
                mean("seconds", ".0f"),
                "" if mine[0]["retraces"] is None else mean("retraces", ".0f"),
                least_overlap(mine),
            )
        )
    return table(header.split(","), rows) if rows else "No trainings yet."


def least_overlap(runs: list[dict[str, Any]]) -> str:
    """How many of the dead stayed dead, at worst (figure 8)."""
    found = [o for run in runs for o in run["overlap"] or () if o is not None]
    return f"{min(found):.3f}" if found else ""


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Test accuracy by sparsity of neurons and of weights (figure 3).

    A point is the mean of a setting over its seeds, a bar their range.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    every = figure.subplots(1, 2, sharey=True)
    settings = by_method(runs)
    names = dict.fromkeys(series(method) for method in settings)
    for axes, kind in zip(every, ("neuron", "weight"), strict=True):
        for name in names:
            found = [
                (
                    np.array([100 * run[f"{kind}_sparsity"] for run in mine]),
                    np.array([100 * run["test_accuracy"] for run in mine]),
                )
                for method, mine in settings.items()
                if series(method) == name
            ]
            if name == "plain":
                axes.axhline(found[0][1].mean(), color="k", ls=":", lw=1)
                continue
            found.sort(key=lambda each: each[0].mean())
            x, y = (np.array([e[i].mean() for e in found]) for i in (0, 1))
            low = y - [e[1].min() for e in found]
            high = [e[1].max() for e in found] - y
            axes.errorbar(x, y, (low, high), marker="o", capsize=3, label=name)
        axes.set(xlabel=f"{kind} sparsity (%)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    every[0].set_ylabel("test accuracy (%)")
    every[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def draw_trainings(runs: list[dict[str, Any]], path: Path) -> None:
    """Accuracy, sparsity, and how many of the dead stay so, over time.

    The last (figure 8) only where the dead stay in the model.
    """
    from matplotlib.figure import Figure

    methods = {name: mine[0] for name, mine in by_method(runs).items()}
    static = [name for name in methods if name.startswith("demon_static")]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    accuracy, sparsity, *others = figure.subplots(1, 3 if static else 2)
    for method, run in methods.items():
        epochs = np.arange(1, run["epochs"] + 1)
        for axes, key in (
            (accuracy, "val_accuracy"),
            (sparsity, "weight_sparsity"),
        ):
            values = 100 * np.array(run["history"][key])
            axes.plot(epochs, values, label=method)
    accuracy.set(title="validation accuracy (%)")
    sparsity.set(title="weights gone (%)")
    sparsity.legend(frameon=False, fontsize="x-small")
    for overlap in others:
        for method in static:
            found, epochs = (methods[method][k] for k in ("overlap", "epochs"))
            values = [np.nan if each is None else each for each in found]
            times = np.linspace(0, epochs, len(values) + 1)[1:]
            overlap.plot(times, values, marker=".", label=method)
        overlap.set(title="of those once dead, dead now")
    for axes in (accuracy, sparsity, *others):
        axes.set(xlabel="epoch", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def by_method(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each setting, in order of the seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        found.setdefault(run["method"], []).append(run)
    return found


def series(method: str) -> str:
    """What a curve shows: a method, with its noise where it has any."""
    name, *numbers = method.split(":")
    if not name.startswith("demon"):
        return name
    return f"{name}, σ² = {numbers[1] if len(numbers) > 1 else '5e-5'}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--methods", nargs="+", default=["plain", "demon:0.01"])
    add("--model", choices=MODELS, default="resnet_18")
    add("--width", type=int, default=64)
    add("--depth", type=int, nargs="+", help="blocks of each stage")
    add("--activation", default="relu")
    add("--optimizer", choices=RATES, default="adam")
    add("--rate", type=float, help="default 0.005, for SGD 0.1")
    add("--schedule", choices=demon_recipes.SCHEDULES, default="fifths")
    add("--decay", type=float, default=5e-4)
    add("--label-smoothing", type=float, default=0.0)
    add("--mixup", type=float, default=0.0, help="alpha")
    add("--cutmix", type=float, default=0.0, help="alpha")
    add("--rand-augment", action="store_true")
    add("--accumulate", type=int, help="batches of an update")
    add("--clip-norm", type=float, help="of all gradients")
    add("--size", type=int, help="resize images to")
    add("--augment", action="store_true", help="random crops and flips")
    add("--batch-size", type=int, default=128)
    add("--epochs", type=int, default=250)
    add("--samples", type=int, help="of the training images; default all")
    add("--pool", type=int, default=1, help="average so many pixels a side")
    add("--seeds", type=int, default=1, help="how many, from 0")
    add("--noise", type=float, default=5e-5, help="peak variance")
    add("--noise-every", type=int, default=1)
    add("--penalty", choices=("l1", "l2"), default="l1")
    add("--prune-every", type=float, default=0.05)
    add("--start", type=float, default=0.0)
    add("--min-gain", type=float, default=0.01, help="the dead wait for it")
    add("--early", type=float, help="moment, as a part of the training")
    add("--slimming", type=float, default=1e-3)
    add("--output", type=Path, default=Path("output/demon"))
    add("--figures", type=Path, help="folder; default that of --output")
    add("--table", action="store_true", help="no training, only the table")
    add("--verbose", type=int, default=2, help="as in `fit`")
    model = parser.parse_known_args()[0].model
    parser.set_defaults(**demon_recipes.RECIPES[model])
    arguments = parser.parse_args()
    if arguments.model == "vit_b16" and arguments.depth:
        arguments.depth = arguments.depth[0]
    return arguments


def main() -> None:
    """Trains what is not in the file yet, prints the table, draws."""
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = arguments.output / "runs.jsonl"
    done = {(run["method"], run["seed"]) for run in read(results)}
    wanted = [
        (method, seed)
        for seed in range(arguments.seeds)
        for method in arguments.methods
        if (method, seed) not in done and not arguments.table
    ]
    data = prepare(arguments) if wanted else {}
    for method, seed in wanted:
        print(f"\n== {method}, seed {seed}", flush=True)
        run = train(data, seed, method, arguments)
        with results.open("a") as file:
            file.write(json.dumps(run) + "\n")
    runs = read(results)
    print(f"\n{compare(runs)}")
    print("\n".join(sorted({run["machine"] for run in runs})))
    if runs:
        figures = arguments.figures or arguments.output
        draw(runs, figures / "demon_sparsity.png")
        draw_trainings(runs, figures / "demon_trainings.png")
        print(f"Runs are in {results}, figures in {figures}/")


if __name__ == "__main__":
    main()

"""Trains a network plain, with demon pruning and with others.

Section 4 and figures 3, 13 and 14 of "Maxwell's demon at work": accuracy by
sparsity, with FLOPs and time. A method is a name with a number:

- `plain`
- `demon:λ`, or `demon:λ:σ²` with another noise variance than `noise`;
  `demon_static` likewise, where the dead leave at the end alone (figure 7);
  `demon_paper` likewise, where only units that are zero are dead, the paper's
  rule, and not those that are another constant;
  `demon_target:s` or `demon_target:s:σ²` for a target of weight sparsity
- `snap:u`, `cropit:u`: the share u of all units goes after the first step,
  by the scores of SNAP and CroPit-S
- `early_snap:u`, `early_crop:u`: the same at the end of the first epoch in
  which the weights have settled (`ka.schedules.WhenSettled`), or at the moment
  that `early` says
- `slimming:u`: network slimming: a constant l1 penalty on the scales
  (`slimming`), and the share u with the smallest scales goes half-way
- `magnitude:u`: the share u with the smallest incoming weights goes half-way

Each network is tested as `fit` leaves it, and again after `ka.recalibrate` has
computed the moving mean and variance of normalizations from training images.
Without normalizations the penalty of demon pruning is on all weights.

The recipes of appendix I are in `conf/`. The accuracy to choose by is that on
the 10 % of the training images that are split off; test images are used once,
at the end of each run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_apoptosis as ka
from experiments import demon_recipes, training
from experiments.demon_models import MODELS
from experiments.figures import tidy
from experiments.rows import Row, by_setting, markdown, percent
from experiments.training import score
from keras_apoptosis.backend import step_hooks
from keras_apoptosis.training.penalty import Regularization, scales_of

RATES = {"adam": 0.005, "adamw": 0.005, "sgd": 0.1}
BASELINES = {
    "snap": "snap",
    "cropit": "cropit",
    "early_snap": "snap",
    "early_crop": "cropit",
    "slimming": "normalization_scale",
    "magnitude": "squared_norm",
}


@dataclasses.dataclass
class Config(training.Config):
    """Settings; defaults are those of the paper's ResNet-18.

    Attributes:
        model: See demon_models.py.
        width: Of the first stage, or of hidden layers.
        depth: Blocks of each stage, or how many blocks or layers.
        activation: Such as `leaky_relu`.
        method: See above.
        optimizer: `adam`, `adamw` or `sgd`, which has momentum.
        rate: Its peak; by default 0.005, for `sgd` 0.1.
        schedule: Of the rate; see demon_recipes.py.
        decay: A penalty in the loss; for `adamw` decoupled.
        label_smoothing: Of the cross-entropy.
        augment: Whether to crop and to flip at random.
        rand_augment: Whether to apply RandAugment.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none. Of the two each batch gets one.
        accumulate: Batches of an update.
        clip_norm: Of all gradients.
        size: Resize images to so many pixels.
        pool: Average so many pixels a side.
        strength: Of `demon_target` at first.
        noise: Peak variance.
        noise_every: Steps whose noise is added at once.
        penalty: `l1` or `l2`.
        prune_every: Fraction of the training between two events.
        start: Fraction of the training before which no unit leaves.
        min_gain: Share of the parameters for which the dead wait.
        rounds: Of `snap` and `cropit`, as their authors have it; see
            `ka.criteria.snap`.
        early: When `early_snap` and `early_crop` prune.
        slimming: Strength of the penalty of network slimming.
    """

    dataset: str = "cifar10"
    epochs: int = 250
    model: str = "resnet_18"
    width: int = 64
    depth: list[int] | None = None
    activation: str = "relu"
    method: str = "plain"
    optimizer: str = "adam"
    rate: float | None = None
    schedule: str = "fifths"
    decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: bool = False
    rand_augment: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    accumulate: int | None = None
    clip_norm: float | None = None
    size: int | None = None
    pool: int = 1
    strength: float = 3e-3
    noise: float = 5e-5
    noise_every: int = 1
    penalty: str = "l1"
    prune_every: float = 0.05
    start: float = 0.0
    min_gain: float = 0.01
    rounds: int = 7
    early: float | None = None
    slimming: float = 1e-3


def run(config: Config, pruning: Callable | None = None) -> Row:
    """Trains once.

    Args:
        config: What is set.
        pruning: A function that makes the callbacks, if not by the method.
    """
    data = prepare(config)
    x, y = data["train"]
    steps = config.epochs * -(-len(y) // config.batch_size)
    cost = ka.callbacks.TrainingCost(config.batch_size)
    callbacks = (pruning or callbacks_of)(config, data)
    if config.decay and config.optimizer != "adamw":
        # As in the loss: λ/2 Σ w².
        callbacks.append(Penalty(config.decay / 2, "l2", kernels_of))
    model, log = training.fit(
        config,
        lambda: build(data, steps, config),
        x,
        y,
        # Units leave first, then the step is counted, then logged.
        callbacks=[*callbacks, cost],
        change=demon_recipes.changes(config),
        validation_data=data["val"],
    )
    start = time.perf_counter()
    accuracy = score(model, *data["test"])
    test_seconds = time.perf_counter() - start
    ka.recalibrate(model, data["train"])
    history = log.history
    demons = [c for c in callbacks if isinstance(c, ka.callbacks.DemonPruning)]
    return {
        "val_accuracy": history["val_accuracy"][-1],
        "test_accuracy": accuracy,
        "val_recalibrated": score(model, *data["val"]),
        "test_recalibrated": score(model, *data["test"]),
        "neuron_sparsity": history["neuron_sparsity"][-1],
        "weight_sparsity": history["weight_sparsity"][-1],
        "training_flops": history["training_flops"][-1],
        "inference_flops": 1 - history["flop_sparsity"][-1],
        "parameters": model.count_params(),
        **log.times(),
        "test_seconds": test_seconds,
        "retraces": demons[0].retraces if demons else None,
        "overlap": [e.overlap for e in demons[0].history] if demons else None,
        "history": {
            name: history[name] for name in ("val_accuracy", "weight_sparsity")
        },
    }


class Penalty(keras.callbacks.Callback):
    """A constant penalty on some weights of a model."""

    def __init__(self, strength: float, norm: str, weights_of: Callable):
        super().__init__()
        self.strength = ka.schedules.Constant(strength)
        self.norm = norm
        self.weights_of = weights_of

    def on_train_begin(self, logs: Any = None) -> None:
        weights = self.weights_of(self.model)
        hook = Regularization(self.strength, self.norm, weights)
        self.detach = step_hooks.attach(self.model, hook)

    def on_train_end(self, logs: Any = None) -> None:
        self.detach()


def kernels_of(model: keras.Model) -> list[keras.Variable]:
    return [w for w in model.trainable_variables if w.ndim > 1]


def build(data: dict[str, tuple], steps: int, config: Config) -> keras.Model:
    """Makes a compiled network."""
    images, labels = data["train"]
    options = {"depth": config.depth} if config.depth else {}
    model = MODELS[config.model](
        images.shape[1:],
        labels.shape[1],
        config.width,
        activation=config.activation,
        augment=config.augment,
        **options,
    )
    peak = config.rate or RATES[config.optimizer]
    steps = max(1, steps // (config.accumulate or 1))
    shared = {
        "learning_rate": demon_recipes.SCHEDULES[config.schedule](peak, steps),
        "global_clipnorm": config.clip_norm,
        "gradient_accumulation_steps": config.accumulate,
    }
    optimizer = {
        "adam": lambda: keras.optimizers.Adam(**shared),
        "adamw": lambda: keras.optimizers.AdamW(
            weight_decay=config.decay, **shared
        ),
        "sgd": lambda: keras.optimizers.SGD(momentum=0.9, **shared),
    }[config.optimizer]()
    model.compile(
        optimizer,
        demon_recipes.loss(config.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def callbacks_of(config: Config, data: dict[str, tuple]) -> list[Any]:
    """Makes what a method adds to `fit`."""
    name, _, number = config.method.partition(":")
    x, y = data["train"]
    if name == "plain":
        return []
    if name.startswith("demon"):
        number, _, variance = number.partition(":")
        wanted = (
            {
                "target": ka.targets.Parameters(at_most=1 - float(number)),
                "strength": config.strength,
            }
            if name == "demon_target"
            else {"strength": float(number)}
        )
        return [
            demon_of(
                config,
                x,
                noise_variance=float(variance or config.noise),
                dynamic=name != "demon_static",
                constant=name != "demon_paper",
                penalty=config.penalty,
                **wanted,
            )
        ]
    share, half_way = float(number), name in ("slimming", "magnitude")
    schedule: Any = ka.schedules.OneShot(share, 0.5 if half_way else 1e-6)
    if name.startswith("early"):
        schedule = (
            ka.schedules.OneShot(share, config.early)
            if config.early
            else ka.schedules.WhenSettled(share)
        )
    pruning = ka.callbacks.SaliencyPruning(
        BASELINES[name],
        recalibrate=False,
        schedule=schedule,
        data=(x[:1000], y[:1000]),
        scope="global",
        replacement="mean" if half_way else "zero",
        rounds=config.rounds if name in ("snap", "cropit") else 1,
    )
    if name == "slimming":
        return [Penalty(config.slimming, "l1", scales_of), pruning]
    return [pruning]


def demon_of(config: Config, x: Any, **own: Any) -> ka.callbacks.DemonPruning:
    """Makes demon pruning as all its experiments have it."""
    return ka.callbacks.DemonPruning(
        recalibrate=False,  # Measured after training.
        data=x[:512],
        schedule=ka.schedules.Fixed(
            config.prune_every, start=config.prune_every
        ),
        noise_every=config.noise_every,
        start=config.start,
        min_gain=config.min_gain,
        **own,
    )


def prepare(config: Config) -> dict[str, tuple]:
    """Returns the three parts of the data, as one-hot labels and images.

    Images have another size if wanted.
    """
    data, pool = training.data_of(config), config.pool
    found = {}
    for part in ("train", "val", "test"):
        x = getattr(data, f"x_{part}")
        y = getattr(data, f"y_{part}")
        if pool > 1:
            side, channels = x.shape[1] // pool, x.shape[3]
            x = x.reshape(len(x), side, pool, side, pool, channels)
            x = x.mean((2, 4))
        if config.size:
            x = keras.ops.image.resize(x, (config.size, config.size))
            x = keras.ops.convert_to_numpy(x)
        found[part] = (x, keras.utils.to_categorical(y, data.num_classes))
    return found


def table(rows: list[Row]) -> str:
    """Returns a table with means over seeds, ± half of their range."""
    return markdown(
        rows,
        {
            "val %": percent("val_accuracy"),
            "test %": percent("test_accuracy"),
            "recalibrated: val %": percent("val_recalibrated"),
            "test, recalibrated %": percent("test_recalibrated"),
            "neurons removed %": percent("neuron_sparsity", "±.1f"),
            "weights removed %": percent("weight_sparsity", "±.1f"),
            "training FLOPs": ("training_flops", ".2f"),
            "inference FLOPs": ("inference_flops", ".2f"),
            "seconds": ("seconds", ",.0f"),
            "retraces": ("retraces", ".0f"),
            "least overlap": (least_overlap, ".3f"),
        },
    )


def least_overlap(row: Row) -> float | None:
    """Returns how many of the dead stayed dead, at worst (figure 8)."""
    found = [each for each in row["overlap"] or () if each is not None]
    return min(found) if found else None


def draw(rows: list[Row], path: Path) -> None:
    """Draws accuracy by sparsity, and both over time (figures 3 and 8).

    Above, a point is the mean of a setting over its seeds, a bar their range;
    below is the first seed of each setting, and how many of the dead stay so.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.8), layout="constrained")
    above, below = figure.subfigures(2, 1)
    draw_sparsity(rows, above)
    draw_trainings(rows, below)
    figure.savefig(path, dpi=110)


def label(rows: list[Row]) -> str:
    """Returns what tells a setting from others."""
    return rows[0]["config"]["method"]


def draw_sparsity(rows: list[Row], figure: Any) -> None:
    """Draws test accuracy by sparsity of neurons and of weights."""
    every = figure.subplots(1, 2, sharey=True)
    settings = list(by_setting(rows).values())
    names = dict.fromkeys(series(label(mine)) for mine in settings)
    for axes, kind in zip(every, ("neuron", "weight"), strict=True):
        for name in names:
            found = [
                (
                    np.array([100 * run[f"{kind}_sparsity"] for run in mine]),
                    np.array([100 * run["test_accuracy"] for run in mine]),
                )
                for mine in settings
                if series(label(mine)) == name
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
        tidy(axes)
    every[0].set_ylabel("test accuracy (%)")
    if len(names) > 1:
        every[0].legend(frameon=False, fontsize="small")


def draw_trainings(rows: list[Row], figure: Any) -> None:
    """Draws accuracy, sparsity, and how many of the dead stay so."""
    runs = {label(mine): mine[0] for mine in by_setting(rows).values()}
    static = [name for name in runs if name.startswith("demon_static")]
    accuracy, sparsity, *others = figure.subplots(1, 3 if static else 2)
    for method, run in runs.items():
        for axes, key in (
            (accuracy, "val_accuracy"),
            (sparsity, "weight_sparsity"),
        ):
            values = 100 * np.array(run["history"][key])
            axes.plot(np.arange(1, len(values) + 1), values, label=method)
    accuracy.set(title="validation accuracy (%)")
    sparsity.set(title="weights removed (%)")
    sparsity.legend(frameon=False, fontsize="x-small")
    for overlap in others:
        for method in static:
            run = runs[method]
            values = [np.nan if o is None else o for o in run["overlap"]]
            epochs = run["config"]["epochs"]
            times = np.linspace(0, epochs, len(values) + 1)[1:]
            overlap.plot(times, values, marker=".", label=method)
        overlap.set(title="of those once dead, dead now")
    for axes in (accuracy, sparsity, *others):
        axes.set(xlabel="epoch", xlim=(0, None))
        tidy(axes)


def series(method: str) -> str:
    """Returns the curve of a method: with its noise where it says it."""
    name, *numbers = method.split(":")
    return f"{name}, σ² = {numbers[1]}" if len(numbers) > 1 else name

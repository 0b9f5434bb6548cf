"""Neuron apoptosis of MLPs, LeNet and AlexNet (Siegel et al., 2016).

Methods: `plain`; `reconstruction`, by least squares; `inputs`, the same where
input features leave like units; `weights`, the paper's rule. The last needs
small initial weights and L2, as in the regimes `small_weights` and `quick`.
The latter is the paper's "quick" solver: gradient descent with momentum, whose
rate falls exponentially, over any number of steps as far as by the paper's
0.999964 in each of 60,000.
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
from experiments.rows import Row, beside_plain, by_setting, markdown
from keras_apoptosis.selection.levels import LEVELS

# Channels, kernel, strides, padding, and whether there is a pooling; AlexNet
# has a quarter of its channels and strides for small images.
CONVOLUTIONS = {
    "mlp": (),
    "lenet": ((20, 5, 1, "valid", True), (50, 5, 1, "valid", True)),
    "alexnet": (
        (24, 5, 2, "same", True),
        (64, 3, 1, "same", True),
        (96, 3, 1, "same", False),
        (96, 3, 1, "same", False),
        (64, 3, 1, "same", True),
    ),
}
DECAY = 0.999964**60_000


@dataclasses.dataclass
class Config(training.Config):
    """Settings.

    Attributes:
        model: `mlp`, `lenet` or `alexnet`.
        hidden: Units of the hidden dense layers.
        regime: `adam`, `cosine` (the rate falls), `small_weights` or `quick`.
        deviation: Of initial weights in the last two; with `relative` of
            their share by `1 / √inputs`.
        relative: Whether initial weights are as much smaller as a unit has
            more inputs, which deep networks need to begin.
        l2: In the last two.
        rate: At first.
        method: `plain`, `reconstruction`, `inputs` or `weights`.
        level: How aggressive.
        tolerance: Or a factor, instead of a level.
        target: Share of the parameters, instead of a level.
        start: Fraction of the training before the first event.
        later: Of events after it: `logarithmic` or `fixed`.
        ratio: From one event to the next in `logarithmic`.
        interval: From one event to the next in `fixed`.
        end: Fraction of the training after which there are no events.
        degree: `fixed`, or with each event more `aggressive` or
            `conservative`, by a third in all.
        min_gain: Share of the parameters below which an event is left out.
        judged: How many rows to judge units by.
        all_rows: Whether to train on the validation part, too.
    """

    model: str = "mlp"
    hidden: list[int] = dataclasses.field(default_factory=lambda: [1024, 1024])
    epochs: int = 16
    regime: str = "adam"
    deviation: float = 0.001
    relative: bool = False
    l2: float = 1e-3
    rate: float = 1e-3
    method: str = "plain"
    level: str = "normal"
    tolerance: float | None = None
    target: float | None = None
    start: float = 0.125
    later: str = "logarithmic"
    ratio: float = 2.0
    interval: float = 0.1
    end: float = 1.0
    degree: str = "fixed"
    min_gain: float = 0.1
    judged: int = 4096
    all_rows: bool = False


def run(config: Config) -> Row:
    """Trains once."""
    data = training.data_of(config)
    x, y = data.x_train, data.y_train
    if config.all_rows:
        x = np.concatenate([x, data.x_val])
        y = np.concatenate([y, data.y_val])
    steps = config.epochs * -(-len(y) // config.batch_size)
    pruning = None if config.method == "plain" else apoptosis(x, config)
    model, log = training.fit(
        config,
        lambda: build(data, config, steps),
        x,
        y,
        callbacks=[pruning] if pruning else [],
        validation_data=None if config.all_rows else (data.x_val, data.y_val),
    )
    return {
        **judged(model, data),
        **log.times(),
        "events": sum(not e.skipped for e in pruning.history) if pruning else 0,
        "val_accuracy": log.history.get("val_accuracy"),
    }


def judged(model: keras.Model, data: Any) -> Row:
    """Returns accuracy on test data, AUC if there are two classes, sizes."""
    logits = model.predict(data.x_test, batch_size=500, verbose=0)
    found = {
        "accuracy": float(np.mean(logits.argmax(1) == data.y_test)),
        "parameters": model.count_params(),
        "flops": ka.flops(model),
        "widths": [g.size for g in ka.unit_groups(model) if g.removable],
    }
    if data.num_classes == 2:
        from sklearn.metrics import roc_auc_score

        found["auc"] = roc_auc_score(data.y_test, logits[:, 1] - logits[:, 0])
    return found


def build(data: Any, config: Config, steps: int) -> keras.Model:
    """Makes a compiled network."""
    small = {}
    if config.regime in ("small_weights", "quick"):
        # Similar units come together.
        small = {
            "kernel_initializer": keras.initializers.VarianceScaling(
                config.deviation**2, "fan_in", "untruncated_normal"
            )
            if config.relative
            else keras.initializers.RandomNormal(stddev=config.deviation),
            "kernel_regularizer": keras.regularizers.L2(config.l2),
        }
    stack: list[Any] = [keras.Input(data.input_shape)]
    for number, (channels, size, strides, padding, pooling) in enumerate(
        CONVOLUTIONS[config.model], 1
    ):
        convolution = layers.Conv2D(
            channels,
            size,
            strides,
            padding,
            activation="relu",
            name=f"conv_{number}",
            **small,
        )
        stack += [convolution, *[layers.MaxPooling2D(2)] * pooling]
    stack.append(layers.Flatten())
    if config.method == "inputs":
        stack.append(ka.layers.FeatureSelection(name="inputs"))
    for number, width in enumerate(config.hidden, 1):
        name = f"hidden_{number}"
        stack.append(layers.Dense(width, activation="relu", name=name, **small))
    stack.append(layers.Dense(data.num_classes, name="logits"))
    model = keras.Sequential(stack)
    rate: Any = config.rate
    if config.regime == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    optimizer: keras.Optimizer = keras.optimizers.Adam(rate)
    if config.regime == "quick":
        rate = keras.optimizers.schedules.ExponentialDecay(rate, steps, DECAY)
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def apoptosis(x: np.ndarray, config: Config) -> ka.callbacks.NeuronApoptosis:
    """Makes the callback."""
    kind = "factor" if config.method == "weights" else "tolerance"
    amount: Any = getattr(LEVELS[config.level], kind)
    if config.tolerance is not None:
        amount = config.tolerance
    if config.degree != "fixed":
        # A larger factor is more conservative, a larger tolerance less so.
        grows = (config.degree == "aggressive") == (kind == "tolerance")
        ends = amount * (5 / 6), amount * (7 / 6)
        amount = ka.schedules.LinearDegree(*(ends if grows else ends[::-1]))
    own: dict[str, Any] = {kind: amount}
    if kind == "tolerance":
        own |= {"data": x[: config.judged], "samples": config.judged}
    if config.target is not None:
        own["target"] = ka.targets.Parameters(at_most=config.target)
        del own[kind]
    schedules = ka.schedules
    return ka.callbacks.NeuronApoptosis(
        metric="weights" if kind == "factor" else "reconstruction",
        schedule=schedules.Fixed(
            config.interval, start=config.start, end=config.end
        )
        if config.later == "fixed"
        else schedules.Logarithmic(config.start, config.ratio, config.end),
        min_gain=config.min_gain,
        verbose=config.verbose > 0,
        **own,
    )


def table(rows: list[Row]) -> str:
    """Returns a table in which ratios are to the plain training of a seed."""
    best = "auc" if "auc" in rows[0] else "accuracy"
    factor = 1 if best == "auc" else 100
    digits = ".4f" if best == "auc" else ".2f"

    def fewer(name: str) -> Any:
        return lambda row: row["plain"] and row["plain"][name] / row[name]

    return markdown(
        beside_plain(rows),
        {
            "test AUC" if best == "auc" else "test accuracy %": (
                lambda row: factor * row[best],
                f"±{digits}",
            ),
            "change": (
                lambda row: (
                    row["plain"] and factor * (row[best] - row["plain"][best])
                ),
                f"+{digits}",
            ),
            "parameters": ("parameters", ",.0f"),
            "fewer": (fewer("parameters"), ".1f"),
            "FLOPs, fewer": (fewer("flops"), ".1f"),
            "seconds": ("seconds", ".0f"),
            "CPU seconds": ("cpu_seconds", ".0f"),
            "fewer CPU seconds": (fewer("cpu_seconds"), ".1f"),
            "events": ("events", ".1f"),
            "units, first seed": (
                lambda row: "-".join(map(str, row["widths"])),
                "",
            ),
        },
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draws a grid of heuristics: accuracy by parameters (section IV)."""
    if len({row["config"]["degree"] for row in rows}) < 2:
        return  # Other tables have none.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    groups = by_setting(rows).values()
    plain = [g for g in groups if g[0]["config"]["method"] == "plain"]
    factors = ("start", "later", "degree", "level")
    for axes, factor in zip(figure.subplots(2, 2).flat, factors, strict=True):
        for value in dict.fromkeys(row["config"][factor] for row in rows):
            found = [
                [
                    np.mean([row["parameters"] for row in group]),
                    100 * np.mean([row["accuracy"] for row in group]),
                ]
                for group in groups
                if group[0]["config"][factor] == value and group not in plain
            ]
            if found:
                axes.plot(*np.transpose(found), "o", label=f"{value}")
        for group in plain:
            accuracy = 100 * np.mean([row["accuracy"] for row in group])
            axes.axhline(accuracy, color="k", ls=":", lw=1)
        axes.set(title=factor, xlabel="parameters", xscale="log")
        axes.set(ylabel="test accuracy (%)")
        axes.legend(frameon=False, fontsize="small")
        tidy(axes)
    figure.savefig(path, dpi=110)

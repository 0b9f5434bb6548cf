"""Neuron apoptosis of MLPs and of LeNet (Siegel, Daily and Vishnu, 2016).

Methods: `plain`; `reconstruction`, by least squares; `inputs`, the same where
input features leave like units; `weights`, the paper's rule. The last needs
the regime `small_weights`: initial weights of deviation 0.001, and L2.
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


@dataclasses.dataclass
class Config(training.Config):
    """Settings.

    Attributes:
        model: `mlp` or `lenet`.
        hidden: Units of the hidden layers of an MLP.
        regime: `adam`, `cosine` (the rate falls) or `small_weights`.
        deviation: Of initial weights in `small_weights`.
        l2: In `small_weights`.
        rate: The rate of Adam at first.
        method: `plain`, `reconstruction`, `inputs` or `weights`.
        level: How aggressive.
        tolerance: Instead of a level.
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
    """Makes a compiled network: an MLP, or Caffe's LeNet."""
    small = {}
    if config.regime == "small_weights":  # Similar units come together.
        small = {
            "kernel_initializer": keras.initializers.RandomNormal(
                stddev=config.deviation
            ),
            "kernel_regularizer": keras.regularizers.L2(config.l2),
        }
    stack: list[Any] = [keras.Input(data.input_shape)]
    if config.model == "lenet":
        for number, channels in enumerate((20, 50), 1):
            name = f"conv_{number}"
            stack += [
                layers.Conv2D(
                    channels, 5, activation="relu", name=name, **small
                ),
                layers.MaxPooling2D(2),
            ]
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
    model.compile(
        keras.optimizers.Adam(rate),
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

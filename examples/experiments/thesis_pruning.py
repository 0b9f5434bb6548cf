"""Pruning while the thesis' network trains (sections 2.2 and 4.2).

The network is that of section 2.2: two convolutions of 8 and 16 channels,
each with max-pooling and a ReLU, and dense layers of 64 and 10. It trains by
gradient descent with a rate of 0.01 on batches of 32, from the weights that
PyTorch, in which the thesis was done, begins with; or by Adam, from 3e-3 down
by a cosine, which is not the thesis'. Methods: `plain`; `magnitude`, weights
(table 2.2); `mrs`, units by mean replacement saliency (table 4.2); `random`,
units at random; `reconstruction:t`, ours, with a tolerance; `snap:u` and
`cropit:u`, the share u of all units after the first step, by their scores.
Scores and means are taken from 1,000 training images.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_apoptosis as ka
from experiments import thesis_network, training
from experiments.figures import tidy
from experiments.rows import Row, grid, markdown, percent
from experiments.thesis_network import build, kernel_of, sample_of
from experiments.training import score
from keras_apoptosis.training.masking import masked_count

schedules = ka.schedules
FRACTIONS_OF_WEIGHTS = {2: 0.2, 3: 0.5, 4: 0.8, 5: 0.9}  # Table 2.2.
FRACTIONS_OF_UNITS = {2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6}  # Table 4.2.


@dataclasses.dataclass
class Config(thesis_network.Config):
    """Settings.

    Attributes:
        method: See above.
        optimizer: `sgd` or `adam`.
        replacement: Of `mrs`; see `ka.callbacks.SaliencyPruning`.
        at: Of `mrs`, likewise.
        rounds: Of `mrs`, `snap` and `cropit`, likewise.
    """

    method: str = "plain"
    optimizer: str = "sgd"
    replacement: str = "mean"
    at: str = "post"
    rounds: int = 1


def run(config: Config) -> Row:
    """Trains once, and judges."""
    data = thesis_network.data_of(config)
    steps = config.epochs * -(-len(data.y_train) // config.batch_size)
    callbacks = callbacks_of(config, sample_of(data, config.seed))
    model, log = training.fit(
        config,
        lambda: compiled(config, steps),
        data.x_train,
        data.y_train,
        callbacks=callbacks,
        validation_data=(data.x_val, data.y_val),
    )
    history = log.history
    row = {
        **judged(model, data),
        **log.times(),
        "events": [str(event) for each in callbacks for event in each.history],
        "history": {
            name: history[name]
            for name in ("loss", "parameters", "masked_weights")
            if name in history
        },
    }
    if config.method == "magnitude":
        row["after_removal"] = {
            str(share): judged(removed(model, share, data, config.seed), data)
            for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
        }
    if config.seed == 0 and config.optimizer == "sgd":  # For the figure.
        row["fc1"] = np.abs(kernel_of(model, "fc1")).round(3)
    return row


def compiled(config: Config, steps: int) -> keras.Model:
    """Makes the network, with the optimizer of the thesis or ours."""
    model = build()
    if config.optimizer == "adam":
        rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
        model.compile(
            keras.optimizers.Adam(rate), model.loss, metrics=["accuracy"]
        )
    return model


def callbacks_of(config: Config, sample: Any) -> list[Any]:
    """Makes what prunes."""
    name, _, number = config.method.partition(":")
    units = schedules.AtEpochs(FRACTIONS_OF_UNITS)
    methods: dict[str, Any] = {
        "plain": lambda: [],
        "magnitude": lambda: [
            ka.callbacks.SaliencyPruning(
                "magnitude",
                data=sample,
                granularity="weights",
                scope="global",
                schedule=schedules.AtEpochs(FRACTIONS_OF_WEIGHTS),
            )
        ],
        "mrs": lambda: [
            ka.callbacks.SaliencyPruning(
                "mean_replacement_saliency",
                data=sample,
                schedule=units,
                replacement=config.replacement,
                at=config.at,
                rounds=config.rounds,
            )
        ],
        "random": lambda: [
            ka.callbacks.SaliencyPruning("random", data=sample, schedule=units)
        ],
        "reconstruction": lambda: [
            ka.callbacks.NeuronApoptosis(
                data=sample[0],
                tolerance=float(number),
                schedule=schedules.Logarithmic(start=0.2, ratio=1.6),
                min_gain=0.05,
            )
        ],
    }
    if name in ("snap", "cropit"):  # After the first step.
        return [
            ka.callbacks.SaliencyPruning(
                name,
                data=sample,
                schedule=schedules.OneShot(float(number), at=1e-6),
                scope="global",
                replacement="zero",
                rounds=config.rounds,
            )
        ]
    return methods[name]()


def judged(model: keras.Model, data: Any) -> dict[str, Any]:
    """Returns size and accuracies; masked weights do not count."""
    small = ka.strip_pruning(model)
    small.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return {
        "parameters": small.count_params(),
        "weights_left": small.count_params() - masked_count(model),
        "val_accuracy": score(small, data.x_val, data.y_val),
        "test_accuracy": score(small, data.x_test, data.y_test),
        "widths": [
            layer.get_weights()[1].size
            for layer in small.layers
            if layer.weights
        ],
    }


def removed(model: keras.Model, share: float, data: Any, seed: int) -> Any:
    """Makes the model without units that lost most weights (figure 2.11)."""
    sample = sample_of(data, seed)[0]
    removal = ka.selection.sparse_units(model, sample, share=share)
    return ka.rebuild(model, removal)


def table(rows: list[Row]) -> str:
    """Returns the methods, and what removing sparse units does (2.11)."""
    methods = markdown(
        rows,
        {
            "parameters": ("parameters", ",.0f"),
            "not masked": ("weights_left", ",.0f"),
            "test accuracy %": percent("test_accuracy"),
            "seconds": ("seconds", ".0f"),
        },
    )
    mine = [row["after_removal"] for row in rows if "after_removal" in row]
    if not mine:
        return methods
    lines = [["units with at most … non-zero", "parameters", "test accuracy %"]]
    for share in mine[0]:
        found = [each[share] for each in mine]
        lines.append(
            [
                f"{float(share):.0%}",
                f"{np.mean([each['parameters'] for each in found]):,.0f}",
                f"{100 * np.mean([e['test_accuracy'] for e in found]):.2f}",
            ]
        )
    return f"{methods}\n\n{grid(lines)}"


def draw(rows: list[Row], path: Path) -> None:
    """Draws figures 2.8 and 4.6, and the colour maps of 2.10 and 4.9."""
    from matplotlib.figure import Figure

    shown = ("plain", "magnitude", "mrs")
    first = {row["config"]["method"]: row for row in rows if "fc1" in row}
    first = {name: first[name] for name in shown if name in first}
    if not first:
        return
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
        tidy(axes)
    for axes, (method, run) in zip(
        below.subplots(1, len(first), squeeze=False)[0],
        first.items(),
        strict=True,
    ):
        kernel = np.array(run["fc1"]).T
        axes.imshow(kernel, aspect="auto", interpolation="nearest")
        axes.set(title=f"fc1, {method}", xlabel="inputs", ylabel="units")
    figure.savefig(path, dpi=130)

"""Attacks on a unit by a high learning rate (chapter 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from learning_rate_attack import LearningRateAttack
from thesis_network import build, sample_of

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table


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
            layers=["conv1"],
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
                LearningRateAttack(
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

    titles = {
        "penalty": "mean replacement penalty",
        "saliency": "mean replacement saliency",
        "output_gradient": "gradient at the unit, L1",
        "weight_gradient": "gradient of incoming weights, L1",
        "incoming": "incoming weights, L1",
        "outgoing": "outgoing weights, L1",
    }
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

"""Attacks on a unit by a high learning rate (chapter 3)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import keras_apoptosis as ka
from experiments import thesis_network, training
from experiments.figures import tidy
from experiments.learning_rate_attack import LearningRateAttack
from experiments.rows import Row, markdown
from experiments.thesis_network import build, sample_of

MEASURES = {
    "penalty": "mean replacement penalty",
    "saliency": "mean replacement saliency",
    "output_gradient": "gradient at the unit, L1",
    "weight_gradient": "gradient of incoming weights, L1",
    "incoming": "incoming weights, L1",
    "outgoing": "outgoing weights, L1",
}


@dataclasses.dataclass
class Config(thesis_network.Config):
    """Settings.

    Attributes:
        activation: `relu` or `tanh`.
        normalize: Whether a batch normalization precedes each activation.
        layer: That of the unit.
        unit: Which one is attacked.
        multiplier: Of the rate; 1 for no attack.
        start: The step of the first attack; after a tenth of the training if
            none is given.
        records: How often the unit is measured.
    """

    epochs: int = 5
    activation: str = "relu"
    normalize: bool = False
    layer: str = "conv1"
    unit: int = 0
    multiplier: float = 1.0
    start: int | None = None
    records: int = 40


def run(config: Config) -> Row:
    """Trains once, and attacks."""
    data = thesis_network.data_of(config)
    steps = len(data.y_train) // config.batch_size * config.epochs
    monitor = ka.callbacks.UnitMonitor(
        sample_of(data, 0),
        every=max(1, steps // config.records),
        layers=[config.layer],
        penalty=True,
        histograms={config.layer: [config.unit]},
    )
    attack = LearningRateAttack(
        config.layer,
        config.unit,
        multiplier=config.multiplier,
        start=steps // 10 if config.start is None else config.start,
        repeats=10,
        interval=10,
    )
    _, log = training.fit(
        config,
        lambda: build(config.activation, data.input_shape, config.normalize),
        data.x_train,
        data.y_train,
        callbacks=[monitor, attack],
        resume=False,
    )
    histograms = [
        r.histograms[config.layer][config.unit] for r in monitor.records
    ]
    return {
        "steps": [record.step for record in monitor.records],
        **{
            name: monitor.series(name, config.layer)[:, config.unit]
            for name in MEASURES
        },
        "loss": monitor.records[-1].loss,
        # Most values are near zero; the root lets the others be seen.
        "histograms": [
            ((counts / counts.sum()) ** 0.3).round(2)
            for counts, _ in histograms
        ],
        "edges": [(edges[0], edges[-1]) for _, edges in histograms],
        **log.times(),
    }


def table(rows: list[Row]) -> str:
    """Returns what the unit is at the end of the training."""

    def last(name: str) -> tuple:
        return lambda row: row[name][-1], ".3g"

    return markdown(
        rows,
        {
            "MRP": last("penalty"),
            "MRS": last("saliency"),
            "incoming, L1": last("incoming"),
            "outgoing, L1": last("outgoing"),
            "loss": ("loss", ".4f"),
            "seconds": ("seconds", ".0f"),
        },
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draws figures 3.1 and 3.6: of the first activation and seed."""
    from matplotlib.figure import Figure

    first = rows[0]["config"]
    rows = [
        row
        for row in rows
        if all(row["config"][k] == first[k] for k in first if k != "multiplier")
    ]
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 1))
    grid = above.subplots(2, 3)
    for axes, (measure, title) in zip(grid.flat, MEASURES.items(), strict=True):
        for row in rows:
            label = f"× {row['config']['multiplier']:g}"
            axes.plot(row["steps"], row[measure], label=label)
        axes.set(title=title, xlabel="step")
        tidy(axes)
    grid[0, 0].legend(frameon=False)
    every = below.subplots(1, len(rows), squeeze=False)[0]
    for axes, row in zip(every, rows, strict=True):
        for step, shares, ends in zip(
            row["steps"], row["histograms"], row["edges"], strict=True
        ):
            values = np.linspace(*ends, len(shares) + 1)[:-1]
            axes.scatter(np.full(len(shares), step), values, c=shares, s=4)
        axes.set(
            title=f"before the activation, × {row['config']['multiplier']:g}",
            xlabel="step",
        )
    figure.savefig(path, dpi=110)

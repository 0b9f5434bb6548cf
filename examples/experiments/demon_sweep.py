"""What makes units die: penalty, noise, and how both go over a training.

Sections 2.2 and 4.2 of "Maxwell's demon at work", figures 2, 4 to 8 and 13:
demon pruning by the paper's rule of death with one thing changed at a time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import keras_apoptosis as ka
from experiments import demon
from experiments.figures import tidy
from experiments.rows import Row, cell, grid

# What differs from a penalty of l1 on scales, and noise of σ² = 1e-6 for the
# living, in one cycle; those that die leave at once.
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "no_noise": {"noise_variance": 0.0},
    "noise_1e-5": {"noise_variance": 1e-5},
    "noise_1e-4": {"noise_variance": 1e-4},
    "symmetric_1e-5": {"noise_variance": 1e-5, "symmetric_noise": True},
    "l2": {"penalty": "l2"},
    "all_weights": {"regularize": "all"},
    "l2_all_weights": {"regularize": "all", "penalty": "l2"},
    "warmup": {"strength": ka.schedules.Warmup},
    "cosine": {"strength": lambda peak: ka.schedules.OneCycle(peak, warmup=0)},
    "constant": {"strength": ka.schedules.Constant},
    "static": {"dynamic": False},
}


@dataclasses.dataclass
class Config(demon.Config):
    """Settings.

    Attributes:
        variant: One of `VARIANTS`.
    """

    variant: str = "none"


def run(config: Config) -> Row:
    """Trains once."""
    return demon.run(config, pruning)


def pruning(config: Config, data: dict[str, tuple]) -> list[Any]:
    """Makes the callback."""
    own = {"noise_variance": config.noise, **VARIANTS[config.variant]}
    schedule = own.pop("strength", float)
    return [
        demon.demon_of(
            config,
            data["train"][0],
            strength=schedule(config.strength),
            constant=False,
            **own,
        )
    ]


def table(rows: list[Row]) -> str:
    """Returns accuracy and sparsity of each variant, by optimizer and λ."""

    def setting(row: Row) -> tuple[str, float]:
        return row["config"]["optimizer"], row["config"]["strength"]

    settings = sorted({setting(row) for row in rows})
    titles = [
        f"{optimizer}, λ = {strength:g}" for optimizer, strength in settings
    ]
    lines = [["test accuracy %, weights gone %", "seeds", *titles]]
    for variant in VARIANTS:
        mine = [row for row in rows if row["config"]["variant"] == variant]
        cells = [variant, len({row["config"]["seed"] for row in mine})]
        for each in settings:
            found = [row for row in mine if setting(row) == each]
            shown = [
                cell([100 * row[name] for row in found], form) if found else ""
                for name, form in (
                    ("test_accuracy", ".1f"),
                    ("weight_sparsity", ".0f"),
                )
            ]
            cells.append(", ".join(filter(None, shown)))
        if mine:
            lines.append(cells)
    return grid(lines)


PANELS = {
    "noise (figure 6)": (
        "no_noise",
        "none",
        "noise_1e-5",
        "noise_1e-4",
        "symmetric_1e-5",
    ),
    "penalty (figure 5)": ("none", "l2", "all_weights", "l2_all_weights"),
    "its course (figure 4)": ("none", "warmup", "cosine", "constant"),
    "removal (figure 7)": ("none", "static"),
}


def draw(rows: list[Row], path: Path) -> None:
    """Draws accuracy by sparsity, each with one thing changed.

    What is more than ten points below the best is left out.
    """
    from matplotlib.figure import Figure

    optimizers = list(dict.fromkeys(row["config"]["optimizer"] for row in rows))
    figure = Figure(figsize=(13, 3.2 * len(optimizers)), layout="constrained")
    grid = figure.subplots(
        len(optimizers), len(PANELS), sharey="row", squeeze=False
    )
    for line, optimizer in zip(grid, optimizers, strict=True):
        mine = [row for row in rows if row["config"]["optimizer"] == optimizer]
        for axes, (title, variants) in zip(line, PANELS.items(), strict=True):
            for variant in variants:
                axes.plot(*points(mine, variant), "o-", ms=4, label=variant)
            axes.set(title=f"{optimizer}: {title}", xlabel="weights gone (%)")
            axes.legend(frameon=False, fontsize="x-small")
            tidy(axes)
        best = 100 * max(row["test_accuracy"] for row in mine)
        line[0].set(ylabel="test accuracy (%)", ylim=(best - 10, best + 1))
    figure.savefig(path, dpi=110)


def points(rows: list[Row], variant: str) -> np.ndarray:
    """Returns sparsities and accuracies, means of the seeds for each λ."""
    found: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        if row["config"]["variant"] == variant:
            point = row["weight_sparsity"], row["test_accuracy"]
            found.setdefault(row["config"]["strength"], []).append(point)
    means = [np.mean(found[strength], axis=0) for strength in sorted(found)]
    return 100 * np.reshape(means, (-1, 2)).T

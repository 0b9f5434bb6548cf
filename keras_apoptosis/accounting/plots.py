"""Plots of training histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def plot_history(history: Mapping[str, Sequence[float]], path: Any) -> None:
    """Draws widths, parameters and accuracy over a training.

    Args:
        history: The `history` of Keras' `History`, of a training with one of
            our callbacks: they add `parameters` and `units/<group>`.
        path: Where to write the figure; its ending says in which form.
    """
    from matplotlib.figure import Figure

    epochs = np.arange(1, len(history["loss"]) + 1)
    panels = {
        "units": [name for name in history if name.startswith("units/")],
        "parameters": ["parameters"] if "parameters" in history else [],
        "accuracy": [n for n in ("accuracy", "val_accuracy") if n in history],
        "loss": [n for n in ("loss", "val_loss") if n in history],
    }
    panels = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    for axes, (title, names) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))),
        panels.items(),
        strict=True,
    ):
        for name in names:
            label = name.removeprefix("units/")
            axes.plot(epochs, history[name], marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        if title in ("units", "parameters"):
            axes.set_ylim(bottom=0)
        if len(names) > 1 and len(names) <= 8:
            axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)

"""Plots training histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def plot_history(history: Any, path: Any) -> None:
    """Plots the widths, parameters, accuracy and loss of a training.

    Args:
        history: What `fit` returns, or its `history`. Pruning callbacks add
            `parameters` and `units/<group>`.
        path: Path of the figure to write; its suffix sets the format.

    Raises:
        ValueError: If the history has none of these.

    Example:

    >>> history = {"loss": [1.0, 0.5], "units/hidden": [64, 32]}
    >>> ka.plot_history(history, "figure.png")  # doctest: +SKIP
    """
    from matplotlib.figure import Figure

    logs: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    if not isinstance(logs, Mapping):
        raise ValueError(
            "Expected `history` to be what `fit` returns, or its `history`. "
            f"Received: {history!r}"
        )
    panels = {
        "units": [name for name in logs if name.startswith("units/")],
        "parameters": ["parameters"] if "parameters" in logs else [],
        "accuracy": [n for n in ("accuracy", "val_accuracy") if n in logs],
        "loss": [n for n in ("loss", "val_loss") if n in logs],
    }
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise ValueError(
            "Expected a history with `loss`, `accuracy`, `parameters` or "
            f"`units/<group>`. Received: {', '.join(logs) or 'no logs'}"
        )
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    for axes, (title, names) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))),
        panels.items(),
        strict=True,
    ):
        for name in names:
            label = name.removeprefix("units/")
            epochs = np.arange(1, len(logs[name]) + 1)
            axes.plot(epochs, logs[name], marker=".", label=label)
        axes.set(title=title, xlabel="epoch")
        if title in ("units", "parameters"):
            axes.set_ylim(bottom=0)
        if len(names) > 1 and len(names) <= 8:
            axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)

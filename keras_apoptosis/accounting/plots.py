"""Plots training histories, and the widths of unit groups."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_apoptosis.graph import UnitGroup, unit_groups
from keras_apoptosis.surgery import Report

BEFORE, AFTER = 0, -1  # Where a pair of sizes has them.


def plot_history(history: Any, path: Any = None) -> Any:
    """Plots the widths, parameters, accuracy and loss of a training.

    Args:
        history: What `fit` returns, or its `history`. Pruning callbacks add
            `parameters` and `units/<group>`.
        path: Path of a file to write; its suffix sets the format. `None` to
            write none.

    Returns:
        The Matplotlib figure, which notebooks show.

    Raises:
        ValueError: If the history has none of these.

    Example:

    >>> history = {"loss": [1.0, 0.5], "units/hidden": [64, 32]}
    >>> figure = ka.plot_history(history)
    >>> [axes.get_title() for axes in figure.axes]
    ['units', 'loss']
    """
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
    figure = _figure(3.2 * len(panels), 2.8)
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
        axes.xaxis.get_major_locator().set_params(integer=True)
        if title in ("units", "parameters"):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        if len(names) > 1 and len(names) <= 8:
            axes.legend(frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return _written(figure, path)


def plot_groups(groups: Any, path: Any = None, before: Any = None) -> Any:
    """Plots how wide each unit group is, and was before pruning.

    Args:
        groups: A model; or what was done to one: a report of `ka.shrink` or
            `ka.prune`, or the `history` of a pruning callback.
        path: Path of a file to write; its suffix sets the format. `None` to
            write none.
        before: Where the earlier widths are from: any of the above, or what
            `ka.unit_groups` returned. `None` for those of `groups`, of which
            a model has none.

    Returns:
        The Matplotlib figure, which notebooks show.

    Raises:
        ValueError: If `groups` or `before` is something else, or empty.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> report = ka.shrink(model, ka.Removal({"hidden": [0, 3]}))
    >>> figure = ka.plot_groups(model, before=report)
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['8 → 6', '2']
    """
    after = _widths("groups", groups, AFTER)
    was = after
    if before is not None or not isinstance(groups, keras.Model):
        given = ("groups", groups) if before is None else ("before", before)
        was = {**after, **_widths(*given, BEFORE)}
    places = np.arange(len(after))
    now, then = list(after.values()), [was[name] for name in after]
    figure = _figure(6.4, 0.9 + 0.22 * len(after))
    axes = figure.subplots()
    if then != now:
        axes.barh(places, then, color="lightgray", label="before")
    axes.barh(places, now, color="tab:blue", height=0.5, label="after")
    for place, first, last in zip(places, then, now, strict=True):
        axes.annotate(
            f"{last:,}" if first == last else f"{first:,} → {last:,}",
            (max(first, last), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(places, after, fontsize="small")
    axes.set_ylim(len(after) - 0.4, -0.6)  # The first group is on top.
    axes.set_xlim(0, 1.2 * max(then + now))
    axes.set_xlabel("units")
    if then != now:
        figure.legend(
            frameon=False, fontsize="small", ncols=2, loc="outside upper right"
        )
    axes.spines[["top", "right"]].set_visible(False)
    return _written(figure, path)


def _widths(argument: str, given: Any, end: int) -> dict[str, int]:
    """Returns the size of each group, at one end of what was done."""
    if isinstance(given, keras.Model):
        given = unit_groups(given)
    elif isinstance(given, Report):
        given = given.groups
    found: dict[str, int] = {}
    for each in given if isinstance(given, Sequence) else ():
        if isinstance(each, UnitGroup):
            found[each.name] = each.size
        elif hasattr(each, "units"):  # An event: all groups, before and after.
            sizes = {name: pair[end] for name, pair in each.units.items()}
            found = {**sizes, **found} if end == BEFORE else {**found, **sizes}
        elif hasattr(each, "before"):  # What a report says of a group.
            found[each.name] = (each.before, each.after)[end]
    if not found:
        raise ValueError(
            f"Expected `{argument}` to be a model with unit groups, a report "
            "of what was removed, or the `history` of a pruning callback. "
            f"Received: {argument}={given!r}"
        )
    return found


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that notebooks show, though `pyplot` does not know it."""

        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png", dpi=100)
            return image.getvalue()

    return NotebookFigure(figsize=(width, height), layout="constrained")


def _written(figure: Any, path: Any) -> Any:
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure

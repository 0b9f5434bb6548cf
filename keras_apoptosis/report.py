"""Tables for people."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class GroupChange:
    """What happened to one group.

    Args:
        name: The group.
        before: Units before.
        after: Units after.
        residual: Root mean square of what the replacement leaves unexplained
            of the removed activations; `None` where it was not measured.
    """

    name: str
    before: int
    after: int
    residual: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a removal did to a model.

    Args:
        groups: The groups that lost units.
        parameters_before: Parameters of the model before.
        parameters_after: Parameters of the model after.
        notes: What could not be done exactly, in words.
    """

    groups: tuple[GroupChange, ...]
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [
            (
                change.name,
                change.before,
                change.after,
                "" if change.residual is None else f"{change.residual:.3g}",
            )
            for change in self.groups
        ]
        rows.append(
            ("parameters", self.parameters_before, self.parameters_after, "")
        )
        text = table(("group", "before", "after", "residual"), rows)
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])


def report_of(
    groups: Iterable[Any],
    removal: Any,
    before: int,
    after: int,
    notes: Sequence[str],
) -> Report:
    """The report of a removal that was carried out.

    Args:
        groups: The groups before it.
        removal: The removal.
        before: Parameters before.
        after: Parameters after.
        notes: What could not be done exactly.
    """
    changes = []
    for group in groups:
        if group.name in removal:
            residuals = [
                given.arrays()["residual"]
                for each in group.observations
                if "residual"
                in (
                    given := removal.replacement(group.name, each.name)
                ).arrays()
            ]
            changes.append(
                GroupChange(
                    group.name,
                    group.size,
                    group.size - removal[group.name].size,
                    float(np.sqrt(np.mean(np.square(residuals))))
                    if residuals
                    else None,
                )
            )
    return Report(tuple(changes), before, after, tuple(notes))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A plain-text table.

    Args:
        header: Names of the columns. Columns of numbers are aligned right.
        rows: Cells, turned to text by `str`; integers get thousands commas.

    Returns:
        The table, without a newline at its end.
    """
    cells = [
        [f"{c:,}" if isinstance(c, (int, np.integer)) else str(c) for c in row]
        for row in rows
    ]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, column in zip(header, zip(*cells, strict=True), strict=True):
        numbers = all(c[:1] in "+-0123456789" for c in column)
        grid.add_column(name, justify="right" if numbers else "left")
    for row in cells:
        grid.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=200, color_system=None).print(grid)
    return "\n".join(
        line.rstrip() for line in text.getvalue().splitlines() if line.strip()
    )


def report(model: keras.Model) -> str:
    """Says which units of a model may leave, what each saves, and what not.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Returns:
        A table with one row for each unit group: its size, the parameters
        and the forward FLOPs that go with one of its units, and, if it is
        frozen, why.

    Raises:
        ValueError: If the model's graph cannot be read.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> print(ka.report(model))
     group    units   parameters a unit   FLOPs a unit   frozen because
     ─────...
     hidden       8                   7             12
     logits       2                                      the model returns them
    """
    from keras_apoptosis.graph import analyse
    from keras_apoptosis.surgery import Removal
    from keras_apoptosis.surgery.plan import parameters_after, work_after

    analysis = analyse(model)
    nothing = Removal({})
    parameters = parameters_after(analysis, nothing)
    work = work_after(analysis, nothing)
    rows = []
    for group in analysis.groups:
        weights: Any = ""
        flops: Any = ""
        if group.removable and group.size > 1:
            removal = Removal({group.name: [group.size - 1]})
            weights = parameters - parameters_after(analysis, removal)
            saved = 2 * (work - work_after(analysis, removal))
            flops = "unknown" if math.isnan(saved) else int(saved)
        rows.append((group.name, group.size, weights, flops, group.reason))
    header = (
        "group",
        "units",
        "parameters a unit",
        "FLOPs a unit",
        "frozen because",
    )
    return table(header, rows)


def plot(history: Mapping[str, Sequence[float]], path: Any) -> None:
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

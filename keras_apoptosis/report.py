"""Tables for people."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

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
        header: Names of the columns; the first is aligned left.
        rows: Cells, turned to text by `str`; integers get thousands commas.

    Returns:
        The table, without a newline at its end.
    """
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        grid.add_column(name, justify="right" if number else "left")
    for row in rows:
        grid.add_row(
            *(f"{c:,}" if isinstance(c, (int, np.integer)) else str(c) for c in row)
        )
    text = io.StringIO()
    Console(file=text, width=200, color_system=None).print(grid)
    return "\n".join(
        line.rstrip() for line in text.getvalue().splitlines() if line.strip()
    )

"""Tables for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_apoptosis.utils.tables import table


@dataclasses.dataclass(frozen=True)
class GroupChange:
    """The changes of one group.

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
    """Reports what a removal did to a model.

    Args:
        groups: The groups that lost units.
        parameters_before: Parameters of the model before.
        parameters_after: Parameters of the model after.
        notes: What could not be done exactly, in words.
        output_change: Root mean square of how much the outputs changed, as a
            part of that of the outputs; `None` where it was not measured.
    """

    groups: tuple[GroupChange, ...]
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...] = ()
    output_change: float | None = None

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
        if self.output_change is not None:
            text += f"\noutputs changed by {self.output_change:.2%}"
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])


def report_of(
    groups: Iterable[Any],
    removal: Any,
    before: int,
    after: int,
    notes: Sequence[str],
) -> Report:
    """Returns the report of a removal that was carried out.

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

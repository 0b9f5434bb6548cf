"""Checks that a removal fits a model."""

from __future__ import annotations

from keras_apoptosis.graph import Analysis
from keras_apoptosis.surgery.removal import Removal


def check(analysis: Analysis, removal: Removal) -> None:
    """Checks that a removal fits a model.

    Args:
        analysis: The model's units.
        removal: The removal.

    Raises:
        ValueError: If a group does not exist, is not prunable, has fewer
            units, would be left empty, or a replacement does not fit it.
    """
    if not isinstance(removal, Removal):
        raise ValueError(
            f"Expected a `ka.Removal`. Received: removal={removal} "
            f"(of type {type(removal)})"
        )
    groups = {group.name: group for group in analysis.groups}
    for name in removal:
        if name not in groups:
            raise ValueError(
                f"The model has no unit group '{name}'. Its groups: "
                f"{', '.join(groups)}. Received: removal={removal}"
            )
        group, removed = groups[name], removal[name]
        if not group.removable:
            raise ValueError(
                f"Units of group '{name}' cannot be removed: {group.reason}. "
                f"Received: removal={removal}"
            )
        if removed[-1] >= group.size:
            raise ValueError(
                f"Group '{name}' has {group.size} units. Received: an index "
                f"of {removed[-1]}"
            )
        if removed.size == group.size:
            raise ValueError(
                f"Group '{name}' would be left without units. Keep at least "
                f"one. Received: {removed.size} removed of {group.size}"
            )
        points = {each.name: each for each in group.observations}
        for point in removal.points(name):
            if point not in points:
                raise ValueError(
                    f"Group '{name}' is not observed at '{point}' but at: "
                    f"{', '.join(sorted(points))}. Received: '{point}'"
                )
        kept = group.size - removed.size
        for point, observation in points.items():
            given = removal.replacement(name, point).arrays()
            for key, taken in (
                ("mixing", observation.combines),
                ("constant", observation.shifts),
            ):
                if not taken and key in given and given[key].any():
                    raise ValueError(
                        f"The consumers of group '{name}' at '{point}' cannot "
                        f"use `{key}` as a replacement of removed units. "
                        f"Received: {key}={given[key]}"
                    )
            for key, shape in (
                ("mixing", (removed.size, kept)),
                ("incoming", (kept, group.size)),
            ):
                if key in given and given[key].shape != shape:
                    raise ValueError(
                        f"Expected `{key}` of group '{name}' to have shape "
                        f"{shape}. Received: shape {given[key].shape}"
                    )

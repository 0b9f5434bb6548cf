"""Finds prunable unit groups by names of groups and layers."""

from __future__ import annotations

import functools
from typing import Any

from keras_apoptosis.graph.groups import Analysis, UnitGroup
from keras_apoptosis.utils.names import check_names, select


def named_groups(
    analysis: Analysis, layers: Any = None, exclude: Any = None
) -> list[tuple[int, UnitGroup]]:
    """Finds prunable unit groups by their names or by their layers.

    Args:
        analysis: The model's units.
        layers: Names of groups or of layers that produce them, layers,
            patterns such as `"conv*"`, or a list of those. `None` for all.
        exclude: Likewise, what to leave out.

    Returns:
        The prunable groups, with their indices.

    Raises:
        ValueError: If a name is unknown, or if no group that an entry of
            `layers` names is prunable.
    """
    included = check_names("layers", layers)
    excluded = check_names("exclude", exclude)

    choose = functools.partial(
        select,
        list(enumerate(analysis.groups)),
        lambda item: names_of(item[1]),
        layers_of=lambda item: item[1].producers,
    )
    for entry in included or ():
        groups = [group for _, group in choose((entry,))]
        if not any(group.removable for group in groups):
            reasons = "; ".join(f"'{g.name}': {g.reason}" for g in groups)
            raise ValueError(
                "Expected names of prunable unit groups. Received: "
                f"{getattr(entry, 'name', entry)!r}, which is not prunable "
                f"({reasons})"
            )
    return [
        (number, group)
        for number, group in choose(included, excluded)
        if group.removable
    ]


def names_of(group: UnitGroup) -> set[str]:
    """Returns the names of a group: its own, and those of its producers."""
    return {group.name, *(layer.name for layer in group.producers)}

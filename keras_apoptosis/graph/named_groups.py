"""Finds prunable unit groups by names of groups and layers."""

from __future__ import annotations

import functools
from typing import Any

import keras

from keras_apoptosis.backend import layers_inside, models_of
from keras_apoptosis.graph.groups import Analysis, UnitGroup
from keras_apoptosis.utils.names import check_names, select


def named_groups(
    analysis: Analysis, layers: Any = None, exclude: Any = None
) -> list[tuple[int, UnitGroup]]:
    """Finds prunable unit groups by their names or by their layers.

    Args:
        analysis: The model's units.
        layers: Names of groups or of layers that produce them, or of models
            or layers around those, such as a backbone; layers and models;
            patterns such as `"conv*"`; or a list of those. `None` for all.
        exclude: Likewise, what to leave out.

    Returns:
        The prunable groups, with their indices.

    Raises:
        ValueError: If a name is unknown, or if no group that an entry of
            `layers` names is prunable.
    """
    included = check_names("layers", layers)
    excluded = check_names("exclude", exclude)

    nested = [each for each in models_of(analysis.graph.model) if each.layers][
        1:
    ]
    members = [{id(i) for i in layers_inside(each)} for each in nested]

    def around(producers: list[keras.Layer]) -> list[keras.Layer]:
        """Returns layers and the nested models that they belong to."""
        inside = {id(layer) for layer in producers}
        models = zip(nested, members, strict=True)
        return [*producers, *(m for m, ids in models if ids & inside)]

    choose = functools.partial(
        select,
        list(enumerate(analysis.groups)),
        lambda item: _names(analysis, item[0]),
        layers_of=lambda item: around(item[1].producers),
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


def _names(analysis: Analysis, number: int) -> set[str]:
    """Returns the names of a group, of its producers and of what holds them."""
    group = analysis.groups[number]
    names = {group.name, *(layer.name for layer in group.producers)}
    for block in analysis.blocks_of[number]:
        parts = block.path.split("/")[:-1]
        names.update("/".join(parts[: n + 1]) for n in range(len(parts)))
    return names

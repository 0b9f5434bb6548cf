"""Composes the replacements of removed units by constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from keras_apoptosis.graph import UnitGroup
from keras_apoptosis.surgery import Replacement


def constant_replacements(
    groups: Iterable[UnitGroup],
    removed: Mapping[str, np.ndarray],
    constants: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, Replacement]]:
    """Replaces removed units by constants, wherever consumers can take them.

    Args:
        groups: The unit groups of the model.
        removed: For groups, by name, indices of the units to remove.
        constants: For groups, by name, and each of their observations, by
            name, a constant for every unit: shape `(units,)`.

    Returns:
        For each group and observation with constants the `Replacement`.
    """
    return {
        group.name: {
            point.name: Replacement(
                constant=constants[group.name][point.name][removed[group.name]]
            )
            for point in group.observations
            if point.shifts and point.name in constants.get(group.name, {})
        }
        for group in groups
        if group.name in removed
    }

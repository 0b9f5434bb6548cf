"""What a criterion proposes for one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_apoptosis.backend import effective_value
from keras_apoptosis.graph import Observation, UnitGroup
from keras_apoptosis.surgery import Replacement


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """Units of a group that may go, with what replaces them.

    Args:
        removed: Indices, ascending.
        replacements: For each observation point, by name.
        reason: Why no more may go, in words, where that is of use.
    """

    removed: np.ndarray
    replacements: Mapping[str, Replacement]
    reason: str = ""


def nothing(reason: str) -> Proposal:
    """A proposal that removes nothing."""
    return Proposal(np.zeros(0, int), {}, reason)


def irreplaceable(group: UnitGroup, measured: bool = False) -> str:
    """Why kept units of a group cannot stand in for removed ones.

    Args:
        group: The group.
        measured: Whether their activations have to be measured.

    Returns:
        The reason; `""` where they can.
    """
    if not group.observations:
        return "no layer reads them by weights"
    for point in group.observations:
        if not (point.combines and point.shifts):
            return (
                f"what reads them at '{point.name}' takes none in their place"
            )
        if measured and not point.measurable:
            return f"they are read inside '{point.name}', out of sight"
    return ""


def kept_count(wanted: int, size: int, min_units: int, round_to: int) -> int:
    """How many units to keep, at least `wanted`, as a multiple.

    Args:
        wanted: How many should be kept.
        size: How many there are.
        min_units: How many must be kept.
        round_to: Of what the number should be a multiple; rounded up.

    Example:

    >>> kept_count(13, 64, min_units=1, round_to=8)
    16
    """
    least = max(wanted, min_units, 1)
    return min(size, -(-least // round_to) * round_to)


def outgoing(observation: Observation, size: int) -> np.ndarray:
    """Weights by which all consumers read a group at an observation point.

    Args:
        observation: The point.
        size: Number of units of the group.

    Returns:
        Shape `(units, outputs)`: every consumer's kernel, opened to one row
        a unit, side by side.
    """
    parts = []
    for value, axis, places in _kernels(observation):
        rows = np.moveaxis(value, axis, 0)
        rows = rows.reshape(rows.shape[0], -1)
        parts.extend(rows[place] for place in places)
    return np.concatenate(parts, 1) if parts else np.zeros((size, 0))


def _kernels(observation: Observation):
    """Each weight once, though several calls of its layer may read by it."""
    seen: set[tuple] = set()
    for consumer, places in observation.consumers:
        key = (id(consumer.kernel), consumer.axis)
        if key not in seen:
            seen.add(key)
            value = effective_value(consumer.layer, consumer.kernel)
            yield value, consumer.axis, places

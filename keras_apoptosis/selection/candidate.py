"""Units of a group that may be removed, with what replaces them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from keras_apoptosis.backend import effective_value
from keras_apoptosis.graph import Analysis, Observation
from keras_apoptosis.surgery import Removal, Replacement


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Units of a group that may be removed, with what replaces them.

    Args:
        removed: Indices of the units, ascending.
        replacements: For each observation, by name, the `Replacement`.
        reason: Why no unit may be removed; `""` where some may.
    """

    removed: np.ndarray
    replacements: Mapping[str, Replacement]
    reason: str = ""


def removal_of(
    analysis: Analysis, candidates: Mapping[int, Candidate]
) -> Removal:
    """Composes a removal of candidates.

    Args:
        analysis: The model's units.
        candidates: Candidates by the index of their group.
    """
    names = {n: analysis.groups[n].name for n in candidates}
    return Removal(
        {names[n]: each.removed for n, each in candidates.items()},
        {names[n]: each.replacements for n, each in candidates.items()},
    )


def no_candidate(reason: str) -> Candidate:
    """Returns a candidate without any units to remove.

    Args:
        reason: Why no unit may be removed.
    """
    return Candidate(np.zeros(0, int), {}, reason)


def outgoing(observation: Observation, size: int) -> np.ndarray:
    """Returns the weights of all consumers of a group at an observation.

    Args:
        observation: The observation.
        size: Number of units of the group.

    Returns:
        Shape `(units, outputs)`: the kernels of all consumers side by side,
        with one row for each unit.
    """
    parts: list[np.ndarray] = []
    for value, axis, places in _kernels(observation):
        rows = np.moveaxis(value, axis, 0)
        rows = rows.reshape(rows.shape[0], -1)
        parts.extend(rows[place] for place in places)
    return np.concatenate(parts, 1) if parts else np.zeros((size, 0))


def _kernels(
    observation: Observation,
) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    """Yields each kernel once, though several calls may use it."""
    seen: set[tuple] = set()
    for consumer, places in observation.consumers:
        key = (id(consumer.kernel), consumer.axis)
        if key not in seen:
            seen.add(key)
            value = effective_value(consumer.layer, consumer.kernel)
            yield value, consumer.axis, places

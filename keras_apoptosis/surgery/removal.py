"""Removals: which units are removed, and what replaces them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Replacement:
    """Replaces removed units at one observation point.

    A removed unit's activation is replaced by `constant + mixing @ kept`,
    where `kept` are the activations of the units that stay; the consumers
    absorb it.

    Args:
        constant: Shape `(removed,)`. Defaults to zeros.
        mixing: Shape `(removed, kept)`. Defaults to zeros.
        residual: Shape `(removed,)`. Root mean square of what the
            replacement leaves unexplained of each activation, if measured.
            Only reported.
        incoming: Shape `(kept, size of the group)`. Where given, the
            incoming weights and biases of the kept units become this
            combination of those of all units. It is what merging by similar
            *outgoing* weights needs (Neuron apoptosis, proposition 1.2).
    """

    constant: np.ndarray | None = None
    mixing: np.ndarray | None = None
    residual: np.ndarray | None = None
    incoming: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the given arrays, in double precision, by name."""
        return {
            field.name: np.asarray(value, "float64")
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }

    def rows(self, order: np.ndarray) -> Replacement:
        """Returns the same with the removed units in another order."""
        given = self.arrays()
        return Replacement(
            **{
                name: value if name == "incoming" else value[order]
                for name, value in given.items()
            }
        )


class Removal(Mapping[str, np.ndarray]):
    """Units that leave a model, and what replaces them.

    Args:
        removed: For each group, by name, the indices of the units that go.
            Indices count the units before the removal.
        replacements: For some of the groups a `Replacement`, or a dictionary
            with one for each of the group's observation points, by name.
            Rows follow the order of the indices. A group without one has its
            units replaced by zero.

    Raises:
        ValueError: If indices are no integers, negative or not unique, or a
            replacement belongs to a group that loses nothing.

    Example:

    >>> removal = ka.Removal({"hidden": [5, 3]})
    >>> removal
    Removal(hidden: 2 units)
    >>> removal["hidden"]
    array([3, 5])
    """

    def __init__(
        self,
        removed: Mapping[str, Sequence[int] | np.ndarray],
        replacements: Mapping[str, Any] | None = None,
    ):
        if not isinstance(removed, Mapping):
            raise ValueError(
                "Expected `removed` to be a dictionary from group names to "
                f"indices. Received: removed={removed} "
                f"(of type {type(removed)})"
            )
        self._removed: dict[str, np.ndarray] = {}
        self._replacements: dict[str, dict[str | None, Replacement]] = {}
        order = {}
        for name, indices in removed.items():
            array = _indices(name, indices)
            order[name] = np.argsort(array)
            if array.size:
                self._removed[name] = array[order[name]]
        if not isinstance(replacements, Mapping | None):
            raise ValueError(
                "Expected `replacements` to be a dictionary from group names "
                f"to `ka.Replacement`. Received: replacements={replacements} "
                f"(of type {type(replacements)})"
            )
        for name, given in (replacements or {}).items():
            if name not in self._removed:
                raise ValueError(
                    f"A replacement is given for group '{name}', from which "
                    f"nothing is removed. Received: removed={removed}"
                )
            per_point = given if isinstance(given, Mapping) else {None: given}
            for point, each in per_point.items():
                _check_replacement(name, each, self._removed[name].size)
                self._replacements.setdefault(name, {})[point] = each.rows(
                    order[name]
                )

    def __iter__(self) -> Iterator[str]:
        return iter(self._removed)

    def __len__(self) -> int:
        return len(self._removed)

    def __getitem__(self, group: str) -> np.ndarray:
        return self._removed[group]

    def replacement(self, group: str, observation: str) -> Replacement:
        """Returns the replacement of a group at an observation point."""
        given = self._replacements.get(group, {})
        return given.get(observation, given.get(None, Replacement()))

    def points(self, group: str) -> list[str]:
        """Returns the observation points with a replacement of their own."""
        return [p for p in self._replacements.get(group, {}) if p is not None]

    def parts(self) -> list[Removal]:
        """Returns one removal for each group."""
        return [
            Removal(
                {name: removed},
                {name: given}
                if (given := self._replacements.get(name))
                else None,
            )
            for name, removed in self._removed.items()
        ]

    def digest(self) -> str:
        """Returns a hash of all its numbers, to compare it between workers."""
        state = hashlib.sha256()
        for name in sorted(self._removed):
            state.update(repr(name).encode())
            state.update(self._removed[name].astype("<i8").tobytes())
            points = self._replacements.get(name, {})
            for point in sorted(points, key=str):
                state.update(repr(point).encode())
                for key, value in points[point].arrays().items():
                    state.update(f"{key}{value.shape}".encode())
                    state.update(value.astype("<f8").tobytes())
        return state.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Removal) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __repr__(self) -> str:
        parts = (f"{n}: {i.size} units" for n, i in self._removed.items())
        return f"Removal({', '.join(parts) or 'nothing'})"


def _indices(name: str, indices: Any) -> np.ndarray:
    array = np.asarray(indices)
    if array.size == 0:
        array = array.astype(int)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"Expected the removed units of group '{name}' as a list of "
            f"integers. Received: {indices}"
        )
    if array.size and array.min() < 0:
        raise ValueError(
            f"Expected indices of group '{name}' to count from 0. "
            f"Received: {indices}"
        )
    if np.unique(array).size != array.size:
        raise ValueError(
            f"Expected every removed unit of group '{name}' once. "
            f"Received: {indices}"
        )
    return array


def _check_replacement(name: str, given: Any, removed: int) -> None:
    if not isinstance(given, Replacement):
        raise ValueError(
            f"Expected a `ka.Replacement` for group '{name}'. "
            f"Received: {given} (of type {type(given)})"
        )
    for field in dataclasses.fields(given):
        _check_real(name, field.name, getattr(given, field.name))
    ranks = {"constant": 1, "mixing": 2, "residual": 1, "incoming": 2}
    for key, value in given.arrays().items():
        rows_fit = key == "incoming" or value.shape[:1] == (removed,)
        if value.ndim != ranks[key] or not rows_fit:
            raise ValueError(
                f"Expected `{key}` of group '{name}' to have {ranks[key]} "
                f"dimensions and {removed} rows, one for each removed unit. "
                f"Received: {key} of shape {value.shape}"
            )
        if not np.isfinite(value).all():
            raise ValueError(
                f"Expected `{key}` of group '{name}' to be finite. "
                f"Received: {key}={value}"
            )


def _check_real(name: str, key: str, value: Any) -> None:
    real = not np.iscomplexobj(value)
    with contextlib.suppress(TypeError, ValueError):
        if real and (value is None or np.asarray(value, "float64").ndim):
            return
    raise ValueError(
        f"Expected `{key}` of group '{name}' to be an array of real numbers. "
        f"Received: {key}={value!r}"
    )

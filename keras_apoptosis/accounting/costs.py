"""Costs of a model as functions of how many units its groups keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.accounting.capacity import pruning_state
from keras_apoptosis.graph import Analysis
from keras_apoptosis.graph.units import FIXED

# The axes of one product: labels of the units along it, or a fixed size.
Axes = Sequence[np.ndarray | int]


class Cost:
    """Counts what a model costs at any widths of its groups, exactly.

    Everything that is counted here (weights, multiplications) is a sum of
    products of the sizes of axes, and those are sums over groups: what two
    groups share, as the kernel between them, is counted for both widths.

    Args:
        analysis: The model's units.
        terms: For each product a constant factor, and its axes.

    Example:

    >>> from keras_apoptosis.accounting.costs import Cost
    >>> from keras_apoptosis.graph import analyse
    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> analysis = analyse(model)
    >>> work = [(each.factor, each.axes) for each in analysis.work()]
    >>> cost = Cost(analysis, work)
    >>> float(cost(np.array([8, 2]))), float(cost(np.array([5, 2])))
    (48.0, 30.0)
    """

    def __init__(self, analysis: Analysis, terms: Iterable[tuple[float, Axes]]):
        groups = np.array([group.size for group in analysis.groups], int)
        rows: dict[bytes, int] = {}
        sizes: list[np.ndarray] = []
        products: dict[int, tuple[list[float], list[list[int]]]] = {}
        for factor, axes in terms:
            fixed, places = factor, []
            for axis in axes:
                if isinstance(axis, (int, np.integer)):
                    fixed = fixed * int(axis)
                    continue
                row = _row(analysis, axis, groups)
                key = row.tobytes()
                if key not in rows:
                    rows[key] = len(sizes)
                    sizes.append(row)
                places.append(rows[key])
            factors, found = products.setdefault(len(places), ([], []))
            factors.append(fixed)
            found.append(places)
        self._sizes = np.array(sizes).reshape(-1, groups.size + 1)
        self._products = [
            (
                np.array(factors),
                np.array(places, int).reshape(len(factors), rank),
            )
            for rank, (factors, places) in products.items()
        ]

    def __call__(self, widths: np.ndarray) -> Any:
        """Returns the cost at some widths.

        Args:
            widths: Shape `(..., groups)`. How many units each group keeps, in
                the order of the analysis.

        Returns:
            Shape `(...)`.
        """
        widths = np.asarray(widths, "float64")
        sizes = widths @ self._sizes[:, :-1].T + self._sizes[:, -1]
        total = np.zeros(widths.shape[:-1])
        for factors, places in self._products:
            total = total + sizes[..., places].prod(-1) @ factors
        return total

    def savings(self, widths: np.ndarray) -> np.ndarray:
        """Returns what the cost falls by where a group keeps one unit less.

        Args:
            widths: Shape `(groups,)`. How many units each group keeps.

        Returns:
            Shape `(groups,)`: for each group what that alone saves.
        """
        counts = self._sizes[:, :-1]
        sizes = counts @ np.asarray(widths, "float64") + self._sizes[:, -1]
        groups_of = [np.flatnonzero(row) for row in counts]
        saved = np.zeros(len(widths))
        for factors, places in self._products:
            for factor, rows in zip(factors, places, strict=True):
                # Only groups with units on one of its axes change a product.
                for group in {g for row in rows for g in groups_of[row]}:
                    less = (sizes[rows] - counts[rows, group]).prod()
                    saved[group] += factor * (sizes[rows].prod() - less)
        return saved


def widths_of(analysis: Analysis) -> np.ndarray:
    """Returns how many units each group has, in the analysis' order."""
    return np.array([group.size for group in analysis.groups], int)


def parameter_cost(analysis: Analysis) -> Cost:
    """Counts parameters, as `ka.accounting.parameters` does."""
    _, added = pruning_state(analysis.graph.model)
    return Cost(
        analysis,
        (
            (1, _axes_of(analysis, weight))
            for weight in analysis.graph.model.weights
            if id(weight) not in added
        ),
    )


def flop_cost(analysis: Analysis, input_shape: Any = None) -> Cost:
    """Counts the operations of one sample's forward pass, as `ka.flops`.

    Args:
        analysis: The model's units.
        input_shape: Shapes of the inputs, where the model leaves lengths
            open; see `ka.flops`.

    Raises:
        ValueError: If they cannot be counted.
    """
    work = analysis.work(input_shape)
    unknown = [each.path for each in work if math.isnan(each.factor)]
    if unknown:
        names = ", ".join(f"'{path}'" for path in dict.fromkeys(unknown))
        raise ValueError(
            f"Cannot count the FLOPs of {names}: the shape they work on is not "
            "known. Give `input_shape`, or build the model with `keras.Input` "
            f"of a full shape. Received: model '{analysis.graph.model.name}' "
            f"with inputs {[tuple(e.shape) for e in analysis.inputs]}"
        )
    return known_flop_cost(analysis, input_shape)


def known_flop_cost(analysis: Analysis, input_shape: Any = None) -> Cost:
    """Counts as `flop_cost` does; what cannot be counted is `nan`."""
    work = analysis.work(input_shape)
    return Cost(analysis, ((2 * each.factor, each.axes) for each in work))


def unit_cost(analysis: Analysis) -> Cost:
    """Counts the units of the groups that can be pruned."""
    ones = np.arange(analysis.trace.label_count)
    terms = []
    for number, group in enumerate(analysis.groups):
        if group.removable:
            labels = ones[analysis.member(ones, number)]
            _, first = np.unique(analysis.index_of[labels], return_index=True)
            terms.append((1, [labels[first]]))
    return Cost(analysis, terms)


def byte_cost(analysis: Analysis, training: bool = False) -> Cost:
    """Counts the bytes of all weights, masks and statistics included.

    Args:
        analysis: The model's units.
        training: Whether to count the optimizer's variables as well.
    """
    model = analysis.graph.model
    terms: list[tuple[float, Axes]] = [
        (backend.itemsize(weight.dtype), _axes_of(analysis, weight))
        for weight in model.weights
    ]
    if training:
        terms += _slot_terms(analysis, model)
    return Cost(analysis, terms)


def _slot_terms(
    analysis: Analysis, model: keras.Model
) -> Iterator[tuple[float, Axes]]:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            "Expected a compiled model, for the optimizer's variables count, "
            f"too. Received: model '{model.name}', not compiled"
        )
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    weights = backend.weights_of(optimizer)
    follows = {
        id(slot): axes for slot, axes in backend.slots_of(optimizer, weights)
    }
    with backend.only_saved(optimizer):
        variables = list(optimizer.variables)
    for slot in variables:
        origins = follows.get(id(slot), [None] * len(slot.shape))
        axes: list[np.ndarray | int] = []
        for size, origin in zip(slot.shape, origins, strict=True):
            owned = None
            if origin is not None:
                key = id(weights[origin[0]])
                owned = analysis.trace.axes.get(key, {}).get(origin[1])
            axes.append(size if owned is None else owned)
        yield backend.itemsize(slot.dtype), axes


def _axes_of(analysis: Analysis, weight: keras.Variable) -> Axes:
    owned = analysis.trace.axes.get(id(weight), {})
    return [owned.get(axis, size) for axis, size in enumerate(weight.shape)]


def _row(
    analysis: Analysis, labels: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Counts how often units of each group are on an axis, others last."""
    row = np.zeros(groups.size + 1)
    units = labels[labels != FIXED]
    if units.size:
        counts = np.bincount(analysis.group_of[units], minlength=groups.size)
        row[:-1] = counts / groups
    row[-1] = labels.size - units.size
    return row

"""Finds units that have lost most of their weights, as a removal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.selection.limits import lowest_within_limits
from keras_apoptosis.selection.mean_replacement import mean_replacements
from keras_apoptosis.statistics.replaced_units import UnitScores
from keras_apoptosis.statistics.unit_weights import (
    incoming_kernels,
    outgoing_kernels,
    per_unit,
)
from keras_apoptosis.surgery import Removal
from keras_apoptosis.utils.checks import check_share


def sparse_units(
    model: keras.Model,
    data: Any = None,
    *,
    share: float = 0.0,
    batch_size: int = 512,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> Removal:
    """Finds units with few non-zero incoming or outgoing weights.

    For models whose weights were pruned, so that the small model needs no
    sparse format (Evci, 2018, section 2.2 and figure 2.11). A unit without
    incoming weights is a constant, and one without outgoing weights has no
    effect: with `share=0` the outputs do not change, provided that there is
    `data` to measure the constants on.

    Args:
        model: A built model, Sequential or Functional, usually of Prunable
            layers with masks.
        data: A sample on which to measure the means that replace the units
            (bias propagation); labels are not needed. `None` to replace them
            by zero, as the thesis did.
        share: Number from 0 to below 1. A unit is removed if at most this
            share of its incoming, or of its outgoing, weights is not zero.
        batch_size: Integer > 0. How many samples of an array to run at once.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`; say so to
            `ka.shrink` as well.
        prune_normalized: Likewise for units over which a LayerNormalization
            or GroupNormalization normalizes; see `ka.shrink`.

    Returns:
        The removal, for `ka.shrink` or `ka.rebuild`. At least one unit of
        each group is kept: the one with the most weights.

    Raises:
        ValueError: If the share is out of range, or the model cannot be used.

    Example: no weight leads to unit 0.

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     ka.layers.PrunableDense(3, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.layers[0].set_mask([[0, 1, 1], [0, 0, 1]])
    >>> ka.selection.sparse_units(model)["hidden"].tolist()
    [0]
    """
    check_share("share", share)
    analysis = analyse(model, Allowed(prune_non_trainable, prune_normalized))
    incoming = _shares(analysis, incoming_kernels(analysis))
    outgoing = _shares(analysis, outgoing_kernels(analysis))
    removed = {}
    for group in analysis.groups:
        if not group.removable:
            continue
        left = np.minimum(incoming[group.name], outgoing[group.name])
        sparse = np.flatnonzero(left <= share)
        order = lowest_within_limits(left[sparse], group.size)
        if order.size:
            removed[group.name] = np.sort(sparse[order])
    if data is None or not removed:
        return Removal(removed)
    return Removal(
        removed,
        mean_replacements(
            model,
            data,
            removed,
            batch_size=batch_size,
            prune_non_trainable=prune_non_trainable,
            prune_normalized=prune_normalized,
        ),
    )


def _shares(
    analysis: Analysis, kernels: Iterable[tuple[np.ndarray, np.ndarray]]
) -> UnitScores:
    """Returns the share of non-zero weights of each unit; 1 without any."""
    kernels = list(kernels)
    every = per_unit(analysis, kernels, np.ones_like)
    there = per_unit(analysis, kernels, lambda kernel: kernel != 0)
    return {
        name: np.where(count, there[name] / np.maximum(count, 1), 1.0)
        for name, count in every.items()
    }

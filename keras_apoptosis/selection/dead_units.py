"""Finds units that do nothing, as a removal."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend import kernel_mask_of, peek
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.graph.rule_table import rule_of
from keras_apoptosis.graph.rules import Contraction
from keras_apoptosis.selection.limits import lowest_within_limits
from keras_apoptosis.selection.replacements import constant_replacements
from keras_apoptosis.statistics.probe import collect, post_points
from keras_apoptosis.statistics.rectified_layers import (
    AFTER_RELU,
    rectified_layers,
)
from keras_apoptosis.surgery import Removal
from keras_apoptosis.utils.checks import check_size


def dead_units(
    model: keras.Model,
    data: Any,
    threshold: float = 0.0,
    batch_size: int = 512,
    *,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> Removal:
    """Finds the units that do nothing on data, as a removal.

    A unit does nothing if its ReLU is dead on the data (Synaptic stripping,
    section III-B), or if all its incoming weights are masked, so that it is a
    constant. It is replaced by its mean at the inputs of its consumers: zero
    for dead units without a normalization after the ReLU. Outputs on the data
    do not change.

    Args:
        model: A built Sequential or Functional model, or a nesting of those,
            of plain or Prunable layers.
        data: The data on which units are judged: arrays, a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, a `DataLoader` or a generator of
            batches. Do not use the test data.
        threshold: Number, at least 0. A unit is dead if the sum of its
            activations is at most this.
        batch_size: How many samples of an array to run at once.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`; say so to
            `ka.shrink` as well.
        prune_normalized: Likewise for units over which a LayerNormalization
            or GroupNormalization normalizes; see `ka.shrink`.

    Returns:
        The removal, for `ka.shrink` or `ka.rebuild`. At least one unit of
        each group is kept: the first one.

    Raises:
        ValueError: If the threshold is out of range, or the model or the data
            cannot be used.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)),
    ...     keras.layers.Dense(3, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].bias.assign([1.0, -9.0, 1.0])
    >>> data = np.random.default_rng(0).uniform(size=(20, 2))
    >>> removal = ka.selection.dead_units(model, data)
    >>> removal["hidden"].tolist()
    [1]
    >>> report = ka.shrink(model, removal)
    """
    check_size("threshold", threshold)
    analysis = analyse(model, Allowed(prune_non_trainable, prune_normalized))
    rectified = rectified_layers(analysis.graph, convolutions=True)
    points = [each.point(analysis.graph) for each in rectified]
    for number, group in enumerate(analysis.groups):
        if group.removable:
            points += post_points(analysis, number)
    if not points:
        return Removal({})
    found = collect(analysis, points, data, gram=False, batch_size=batch_size)
    useless = _emptied(analysis)
    for path, moments in found.get(AFTER_RELU, {}).items():
        useless[path] |= moments.total <= threshold
    removed = {}
    for number, group in enumerate(analysis.groups):
        if group.removable:
            dead = _dead(analysis, number, useless)
            if dead.size:
                removed[group.name] = dead
    means = {
        name: {point: moments.mean for point, moments in points.items()}
        for name, points in found.items()
        if name in removed
    }
    return Removal(
        removed, constant_replacements(analysis.groups, removed, means)
    )


def _emptied(analysis: Analysis) -> dict[str, np.ndarray]:
    """Finds the units that lost all weights, by the path of their layer."""
    found: dict[str, np.ndarray] = {}
    for block in analysis.trace.blocks:
        found[block.path] = np.zeros(block.stop - block.start, bool)
        variable, rule = kernel_mask_of(block.layer), rule_of(block.layer)
        if variable is not None and isinstance(rule, Contraction):
            mask = np.moveaxis(peek(variable), rule.unit_axis, 0)
            kept = mask.reshape(mask.shape[0], -1).any(axis=1)
            found[block.path] = np.logical_not(kept)
    return found


def _dead(
    analysis: Analysis, number: int, useless: dict[str, np.ndarray]
) -> np.ndarray:
    """Returns the units of a group whose every part is useless; never all."""
    counts = np.zeros(analysis.groups[number].size, int)
    for block in analysis.trace.blocks:
        labels = slice(block.start, block.stop)
        mine = analysis.group_of[labels] == number
        units = analysis.index_of[labels][mine]
        np.add.at(counts, units, ~useless[block.path][mine])
    dead = np.flatnonzero(counts == 0)
    return np.sort(dead[lowest_within_limits(-dead, counts.size)])

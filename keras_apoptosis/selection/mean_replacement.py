"""Replaces units by constants, their means say: bias propagation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.selection.replacements import constant_replacements
from keras_apoptosis.statistics.probe import post_points
from keras_apoptosis.statistics.replaced_units import ReplacedUnits
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.surgery import Replacement


def mean_replacements(
    model: keras.Model,
    data: Any,
    removed: Mapping[str, np.ndarray],
    *,
    at: str = "post",
    replacement: str = "mean",
    batch_size: int = 512,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> dict[str, dict[str, Replacement]]:
    """Replaces units by their means: bias propagation.

    The mean activation, times the outgoing weights, is added to the biases of
    the next layers (equations 1.5 and 1.6).

    Args:
        model: A built model, Sequential or Functional.
        data: The sample on which to measure means; labels are not needed.
        removed: For groups, by name, the indices of the units to remove.
        at: `"post"` for the mean after the activation, at the inputs of the
            next layers; `"pre"` for the activation of the mean before it.
        replacement: Instead of the `"mean"`: `"median"`, `"minimum"` or
            `"maximum"`, which the thesis mentions (section 3.1).
        batch_size: How many samples of an array to run at once.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`; say so to
            `ka.shrink` as well.
        prune_normalized: Likewise for units over which a LayerNormalization
            or GroupNormalization normalizes; see `ka.shrink`.

    Returns:
        Replacements for a `ka.Removal` of these units.
    """
    analysis = analyse(model, Allowed(prune_non_trainable, prune_normalized))
    return constant_for(analysis, data, removed, at, replacement, batch_size)


def constant_for(
    analysis: Analysis,
    data: Any,
    removed: Mapping[str, np.ndarray],
    at: str = "post",
    replacement: str = "mean",
    batch_size: int = 512,
    passes: SamplePasses | None = None,
) -> dict[str, dict[str, Replacement]]:
    """Replaces units of an analyzed model; see `mean_replacements`.

    Args:
        analysis: The model's units.
        data: The sample.
        removed: The units; of one group if there are `passes`.
        at: See `mean_replacements`.
        replacement: See `mean_replacements`.
        batch_size: See `mean_replacements`.
        passes: See `collect`.
    """
    numbers = [
        number
        for number, group in enumerate(analysis.groups)
        if group.name in removed
    ]
    points = [p for n in numbers for p in post_points(analysis, n)]
    if not points:
        return {}
    # Nothing is differentiated here, so that any loss will do.
    units = ReplacedUnits(analysis, at, _no_loss, removed)
    constants = units.constants(data, replacement, batch_size, passes)
    if at == "pre":
        constants = units.constants_after(data, constants, points, batch_size)
    return constant_replacements(analysis.groups, removed, constants)


def _no_loss(labels: Any, predictions: Any) -> Any:
    return ops.mean(predictions, axis=-1)

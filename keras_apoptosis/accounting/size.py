"""Measures how much of a model was removed, as the papers' tables count it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras

from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.saturation import gates_of
from keras_apoptosis.surgery import Removal
from keras_apoptosis.surgery.plan import parameters_after, work_after

KINDS = ("weights", "neurons", "flops")


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a model.

    Args:
        neurons: Units of prunable groups, once for each activation that they
            pass on their way to their consumers: 3,904 in a ResNet-18 (Demon
            pruning, section 2.1).
        weights: Parameters, trained or not.
        flops: Floating-point operations of one sample's forward pass; for
            each position of the input where its lengths are neither known nor
            given (see `ka.flops`); `nan` where they cannot be counted.
    """

    neurons: int
    weights: int
    flops: float

    def sparsity(self, whole: Size) -> dict[str, float]:
        """Returns the removed shares of a whole model, from 0 to 1, by kind."""
        return {
            kind: 1 - getattr(self, kind) / max(1, getattr(whole, kind))
            for kind in KINDS
        }


def size_of(model: keras.Model, input_shape: Any = None) -> Size:
    """Measures a model.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        input_shape: See `ka.flops`.

    Returns:
        Its size.

    Raises:
        ValueError: If the model's graph cannot be read.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> whole = ka.accounting.size_of(model)
    >>> whole
    Size(neurons=8, weights=58, flops=96.0)
    >>> report = ka.shrink(model, ka.Removal({"hidden": range(6)}))
    >>> ka.accounting.size_of(model).sparsity(whole)["neurons"]
    0.75
    """
    return size_after(analyse(model), input_shape=input_shape)


def size_after(
    analysis: Analysis,
    removal: Removal | None = None,
    input_shape: Any = None,
) -> Size:
    """Returns the size that a model has, or would have after a removal."""
    removal = removal or Removal({})
    neurons = 0
    for number, group in enumerate(analysis.groups):
        if group.removable:
            removed = removal[group.name].size if group.name in removal else 0
            passed = sum(len(g.places) for g in gates_of(analysis, number))
            neurons += passed * (group.size - removed)
    work = work_after(analysis, removal, input_shape)
    return Size(
        neurons,
        parameters_after(analysis, removal),
        math.nan if math.isnan(work) else 2.0 * work,
    )

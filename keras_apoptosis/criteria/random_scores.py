"""Scores by chance: what every criterion has to be better than."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from keras_apoptosis.criteria.registry import GRANULARITIES, register
from keras_apoptosis.graph import analyse
from keras_apoptosis.utils.checks import check_choice


def random(
    model: keras.Model,
    data: Any = None,
    *,
    granularity: str = "weights",
    seed: int = 0,
) -> Any:
    """Draws scores from 0 to 1, the same for the same seed and sizes.

    Args:
        model: A built model.
        data: Not used.
        granularity: `"weights"` or `"units"`: what is scored.
        seed: Integer.

    Returns:
        For `"weights"` a list with an array for each of
        `model.trainable_variables`; for `"units"` a dictionary with one for
        each prunable group, by name.

    Raises:
        ValueError: If `granularity` is neither.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> [scores.shape for scores in ka.criteria.random(model)]
    [(4, 2), (2,)]
    """
    check_choice("granularity", granularity, GRANULARITIES)
    rng = np.random.default_rng(seed)
    if granularity == "weights":
        shapes = [each.shape for each in model.trainable_variables]
        return [rng.uniform(size=shape) for shape in shapes]
    groups = [each for each in analyse(model).groups if each.removable]
    return {each.name: rng.uniform(size=each.size) for each in groups}


for _granularity in GRANULARITIES:
    register("random", granularity=_granularity)(
        functools.partial(random, granularity=_granularity)
    )

"""Checks what a criterion returns: the one place that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.replaced_units import UnitScores

# One array for each of `model.trainable_variables`.
WeightScores = list[np.ndarray]
Scores = Any  # One of the two, by the granularity of the criterion.


def checked_unit_scores(
    name: str, model: keras.Model, found: Any
) -> UnitScores:
    """Checks and converts the scores of units.

    Args:
        name: Name of the criterion, for the error.
        model: The model that was scored.
        found: What the criterion returned.

    Returns:
        For each prunable group that was scored, by name, shape `(units,)`.

    Raises:
        ValueError: If the scores are not a dictionary of groups of the model,
            of one number for each unit, or contain NaN.
    """
    if not isinstance(found, Mapping):
        raise ValueError(
            f"Expected criterion '{name}' to return a dictionary: for each "
            "prunable unit group, by name, one score for each unit. Received: "
            f"{_described(found)}"
        )
    groups = {group.name: group for group in analyse(model).groups}
    scores = {}
    for key, each in found.items():
        if key not in groups:
            raise ValueError(
                f"Expected criterion '{name}' to score unit groups of the "
                f"model: {', '.join(groups) or '(none)'}. Received: {key!r}"
            )
        size = groups[key].size
        where = f"group '{key}'"
        array = _numbers(name, where, each)
        if array.shape != (size,):
            raise ValueError(
                f"Expected criterion '{name}' to score the {size} units of "
                f"{where}. Received: shape {array.shape}"
            )
        _check_no_nan(name, where, array)
        if groups[key].removable:
            scores[key] = array
    return scores


def checked_weight_scores(
    name: str, model: keras.Model, found: Any
) -> WeightScores:
    """Checks and converts the scores of weights.

    Args:
        name: Name of the criterion, for the error.
        model: The model that was scored.
        found: What the criterion returned.

    Returns:
        For each of `model.trainable_variables` an array of its shape.

    Raises:
        ValueError: If the scores are not such a list, or contain NaN.
    """
    weights = model.trainable_variables
    expected = (
        f"Expected criterion '{name}' to return a list with an array for each "
        f"of the {len(weights)} `model.trainable_variables`, of its shape."
    )
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"{expected} Received: {_described(found)}")
    if len(found) != len(weights):
        raise ValueError(f"{expected} Received: {len(found)} arrays")
    scores = []
    for weight, each in zip(weights, found, strict=True):
        where = f"weight '{weight.path}'"
        array = _numbers(name, where, each)
        if array.shape != tuple(weight.shape):
            raise ValueError(
                f"{expected} Received: shape {array.shape} for {where} of "
                f"shape {tuple(weight.shape)}"
            )
        _check_no_nan(name, where, array)
        scores.append(array)
    return scores


def _numbers(name: str, where: str, value: Any) -> np.ndarray:
    try:
        if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
            value = keras.ops.convert_to_numpy(value)
        array = np.asarray(value)
        if array.dtype.kind in "cOSU":
            raise TypeError
        return array.astype("float64")
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected criterion '{name}' to score {where} by an array of "
            f"real numbers. Received: {_described(value)}"
        ) from None


def _check_no_nan(name: str, where: str, array: np.ndarray) -> None:
    wrong = int(np.isnan(array).sum())
    if wrong:
        raise ValueError(
            f"Expected criterion '{name}' to score {where} by numbers. "
            f"Received: NaN for {wrong} of {array.size} entries"
        )


def _described(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{text} (of type {type(value).__name__})"

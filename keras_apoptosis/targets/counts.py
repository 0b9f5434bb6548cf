"""Targets that are counted: parameters, FLOPs, units and bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_apoptosis.accounting.costs import (
    Cost,
    byte_cost,
    flop_cost,
    parameter_cost,
    unit_cost,
)
from keras_apoptosis.graph import Analysis
from keras_apoptosis.targets.target import Target
from keras_apoptosis.utils.checks import check_choice


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Parameters(Target):
    """Limits the number of parameters, trained or not.

    Counted are those of `ka.accounting.parameters`: masks and statistics of
    Prunable layers are none.

    Args:
        at_most: A share of what the model has before it is pruned, above 0
            and below 1; or an absolute number above 1; or a schedule of one
            of these.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> target = ka.targets.Parameters(at_most=0.5)
    >>> whole = target.measure(model)
    >>> whole, target.limit(whole)
    (58.0, 29.0)
    """

    def cost(self, analysis: Analysis) -> Cost:
        return parameter_cost(analysis)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Flops(Target):
    """Limits the floating-point operations of one sample's forward pass.

    They are counted as `ka.flops` does.

    Args:
        at_most: See `Parameters`. An absolute number needs `input_shape`
            where the model's inputs leave lengths open; a share does not, and
            is one of the operations for each position of the input.
        input_shape: Shapes of the inputs; see `ka.flops`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.targets.Flops(at_most=1_000_000).measure(model)
    96.0
    """

    input_shape: Any = dataclasses.field(default=None, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "input_shape", _tuples(self.input_shape))

    def cost(self, analysis: Analysis) -> Cost:
        if analysis.has_open_lengths and self.input_shape is None:
            limit = self.limit(math.nan)
            if not math.isnan(limit):  # The same whatever the model costs.
                raise ValueError(
                    "Expected `input_shape`, for the model's inputs leave "
                    "lengths open and `at_most` is an absolute number. "
                    f"Received: at_most={self.at_most}, inputs "
                    f"{[tuple(each.shape) for each in analysis.inputs]}"
                )
        return flop_cost(analysis, self.input_shape)


def _tuples(shapes: Any) -> Any:
    """Returns shapes as tuples: JSON makes lists of them."""
    if isinstance(shapes, Mapping):
        return {name: _tuples(shape) for name, shape in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return tuple(_tuples(each) for each in shapes)
    return shapes


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Units(Target):
    """Limits the number of units in the groups that can be pruned.

    Args:
        at_most: See `Parameters`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.targets.Units(at_most=0.5).measure(model)
    8.0
    """

    def cost(self, analysis: Analysis) -> Cost:
        return unit_cost(analysis)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Bytes(Target):
    """Limits the memory that a model's weights take.

    Args:
        at_most: See `Parameters`.
        of: `"weights"` for those of the model, masks and statistics of
            Prunable layers included; `"training"` for the optimizer's
            variables as well.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)
    ... ])
    >>> ka.targets.Bytes(at_most=0.5).measure(model)
    232.0
    """

    of: str = "weights"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("of", self.of, ("weights", "training"))

    def cost(self, analysis: Analysis) -> Cost:
        return byte_cost(analysis, training=self.of == "training")

"""Units along the axes of tensors, and where their values come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FIXED = -1  # The label of a position that belongs to no unit.


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """Units along one axis of a tensor.

    A tensor may have units along several axes: the heads and the widths of
    an attention, say.

    Args:
        axis: The axis, counted from 0 with the batch as 0.
        labels: Shape `(size of the axis,)`. The unit at each position, or
            `FIXED`. A unit may stand at many positions, as after `Flatten`.
        sources: Shape `(size of the axis,)`. Index of the `Source` whose
            values each position holds, unchanged.
        padded: Whether zeros stand beside those values, along other axes.
    """

    axis: int
    labels: np.ndarray
    sources: np.ndarray
    padded: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Tensor in which units take new values.

    What only moves values about (`Flatten`, `Concatenate`, `Dropout`) makes
    no source: a unit that arrives at a consumer is observed, and replaced, at
    the source it came from.

    Args:
        path: Path of the step that computes it.
        tensor: Key of the tensor; `None` for values inside a layer, which are
            no tensor of the graph.
        units: The units in it.
        transfer: How the values follow from those of `inputs`.
        inputs: What it is computed from, position by position.
        within: Where values inside a layer can be computed from `tensor`,
            the function that does so.
    """

    path: str
    tensor: int | None
    units: Units
    transfer: Transfer
    inputs: tuple[Units, ...] = ()
    within: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Produced:
    """Computes values by a layer's kernel and bias from its input."""

    layer: Any
    kernel: str
    unit_axis: int
    bias: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """Computes values as `scale * input + shift`, unit by unit.

    `coefficients()` returns the present scale and shift, each with one entry
    a position.
    """

    coefficients: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """Computes values by one function of the input, the same for every unit.

    Args:
        homogeneous: Whether `f(αx) = α f(x)` for every `α > 0`.
    """

    homogeneous: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """Computes a weighted sum of the inputs, the same for every unit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Unknown:
    """Computes values from the inputs in a way that is not known."""


Axes = Mapping[int, Units]  # The units of a tensor, by axis.
Transfer = Produced | Affine | Function | Sum | Unknown

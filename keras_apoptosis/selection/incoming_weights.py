"""Reads the incoming weights of units, up to where they are observed."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

from keras_apoptosis.backend import effective_value
from keras_apoptosis.graph import Analysis
from keras_apoptosis.graph.units import (
    Affine,
    Produced,
    Source,
    Sum,
    Unknown,
)


class NotComparable(Exception):
    """Units of a group cannot be compared by their incoming weights."""


@dataclasses.dataclass(frozen=True, eq=False)
class Incoming:
    """The function that units compute: `scale * f(vector · input) + shift`.

    Args:
        vectors: Shape `(units, inputs)`. Incoming weights, the bias last;
            those of all producers side by side. A normalization before the
            activation is folded in.
        homogeneous: Whether `f(αx) = α f(x)` for every `α > 0`.
        scale: Shape `(units,)`. Scale of a normalization after `f`.
        shift: Shape `(units,)`. Its shift.
        bent: Whether there is an activation `f`.
    """

    vectors: np.ndarray
    homogeneous: bool
    scale: np.ndarray
    shift: np.ndarray
    bent: bool

    @property
    def plain(self) -> bool:
        """`True` if no normalization follows `f`."""
        return bool((self.scale == 1).all() and (self.shift == 0).all())


def incoming(analysis: Analysis, number: int, source: int) -> Incoming:
    """Follows a group back from a source to its producers.

    Args:
        analysis: The model's units.
        number: Index of the group.
        source: Index of the source at which the group is observed.

    Returns:
        The group's incoming weights, and what lies between them and the
        source.

    Raises:
        NotComparable: If units with parallel weights need not be parallel
            at the source.
    """
    here: Source = analysis.trace.sources[source]
    places, *more = analysis.positions(here.units.labels, number)
    if more:
        raise NotComparable(f"'{here.path}' has units at several positions")
    if isinstance(here.transfer, Produced):
        return _produced(here.transfer, places)
    if isinstance(here.transfer, Unknown) or not here.inputs:
        raise NotComparable(f"'{here.path}' treats each unit differently")
    before = [
        incoming(analysis, number, _parent(each.sources[places], here))
        for each in here.inputs
    ]
    if isinstance(here.transfer, Sum):
        return _sum(before, here.path)
    (one,) = before
    if isinstance(here.transfer, Affine):
        scale, shift = (c[places] for c in here.transfer.coefficients())
        if one.bent:
            return dataclasses.replace(
                one, scale=one.scale * scale, shift=one.shift * scale + shift
            )
        vectors = one.vectors * scale[:, None]
        vectors[:, -1] += shift
        return dataclasses.replace(one, vectors=vectors)
    if not one.plain:
        raise NotComparable(
            f"'{here.path}' follows a normalization of activations"
        )
    homogeneous = here.transfer.homogeneous and one.homogeneous
    return dataclasses.replace(one, homogeneous=homogeneous, bent=True)


def _parent(sources: np.ndarray, here: Source) -> int:
    if (sources != sources[0]).any():
        raise NotComparable(f"'{here.path}' gathers units of several layers")
    return int(sources[0])


def _produced(made: Produced, places: np.ndarray) -> Incoming:
    kernel = effective_value(made.layer, getattr(made.layer, made.kernel))
    rows = np.moveaxis(kernel, made.unit_axis, 0)[places]
    vectors = np.zeros((places.size, rows[0].size + 1))
    vectors[:, :-1] = rows.reshape(places.size, -1)
    bias = getattr(made.layer, made.bias, None) if made.bias else None
    if bias is not None:
        vectors[:, -1] = ops.convert_to_numpy(bias.value)[places]
    if not np.isfinite(vectors).all():
        raise ValueError(
            f"Weights of layer '{made.layer.name}' are not finite, so its "
            "units cannot be compared. Received: NaN or infinite weights"
        )
    return Incoming(
        vectors,
        homogeneous=True,
        scale=np.ones(places.size),
        shift=np.zeros(places.size),
        bent=False,
    )


def _sum(parts: list[Incoming], path: str) -> Incoming:
    if len(parts) == 1:  # Average pooling.
        return parts[0]
    if not all(part.plain for part in parts):
        raise NotComparable(f"'{path}' adds normalized activations")
    return Incoming(
        np.concatenate([part.vectors for part in parts], 1),
        homogeneous=all(part.homogeneous for part in parts),
        scale=parts[0].scale,
        shift=parts[0].shift,
        bent=any(part.bent for part in parts),
    )

"""Reads the layers inside attention layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras


class Projections(NamedTuple):
    """The `EinsumDense` layers inside an attention layer.

    Args:
        query: Makes the queries.
        key: Makes the keys.
        value: Makes the values.
        output: Combines the heads.
        gate: Makes the gates; `None` in a layer without.
    """

    query: Any
    key: Any
    value: Any
    output: Any
    gate: Any


def projections_of(layer: keras.Layer) -> Projections:
    """Returns the layers inside an attention layer.

    Args:
        layer: A built `MultiHeadAttention` or `GroupQueryAttention`.
    """
    return Projections(
        layer._query_dense,
        layer._key_dense,
        layer._value_dense,
        layer._output_dense,
        getattr(layer, "_gate_dense", None),
    )


def has_output_shape(layer: keras.Layer) -> bool:
    """Returns whether `output_shape` was given to a `MultiHeadAttention`."""
    return layer._output_shape is not None

"""The rule of attention with heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import config

from keras_apoptosis.backend.attention import has_output_shape, projections_of
from keras_apoptosis.backend.kernels import KERNEL
from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.contraction import EinsumContraction
from keras_apoptosis.graph.rules.rule import Rule, surfaced
from keras_apoptosis.graph.units import Axes, Units, Unknown


class MultiHead(Rule):
    """Attends by heads: `MultiHeadAttention` and `GroupQueryAttention`.

    Inside are three kinds of units: heads; the entries by which queries and
    keys are compared (`key_dim`); the entries of the values (`value_dim`).
    Scores are divided by the root of `key_dim`: when it shrinks, the queries'
    weights make up for it.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        first = call.trace.label_count
        made = self._attend(call)
        call.hold_adapted(first)
        return made

    def _attend(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        inside = projections_of(layer)
        if call.step is None or any(
            len(call.input_shapes[place]) != 3
            for name in ("query", "value", "key")
            for place in call.places_of(name)
        ):
            call.hold("is called with arguments that are not supported")
            call.works(None)
            return [NONE] * len(call.output_shapes)
        (one,), (two,) = (call.places_of(n) for n in ("query", "value"))
        three = (call.places_of("key") or [two])[0]
        places = (one, two, three)
        query, value, key = (call.inputs[place] for place in places)
        shapes = [call.input_shapes[place] for place in places]
        for axes in (query, value, key):
            steps = [units for axis, units in axes.items() if axis == 1]
            call.hold("attends over the units", steps)
        grouped = hasattr(layer, "num_key_value_heads")
        q = self._project(call, inside.query, query, shapes[0])
        k = self._project(call, inside.key, key, shapes[2])
        v = self._project(call, inside.value, value, shapes[1])
        if grouped:
            # Each head of the keys serves several heads of the queries.
            repeats = layer.num_repeats
            rows = q[2].labels.reshape(-1, repeats).T
            for row in rows:
                call.tie(k[2].labels, row)
            call.tie(k[2].labels, v[2].labels)
            call.resize("num_key_value_heads", k[2].labels)
            call.resize("num_query_heads", q[2].labels)
            call.resize("head_dim", q[3].labels)
            call.tie(q[3].labels, v[3].labels)
        else:
            call.tie(q[2].labels, k[2].labels)
            call.tie(q[2].labels, v[2].labels)
            call.resize("num_heads", q[2].labels)
            call.resize("key_dim", q[3].labels)
            call.resize("value_dim", v[3].labels)
            fused = config.backend() == "jax" and not layer.dropout
            if fused and layer.key_dim == layer.value_dim:
                # JAX's fused attention wants values as wide as keys.
                call.tie(q[3].labels, v[3].labels)
        call.tie(q[3].labels, k[3].labels)
        for variable in (getattr(inside.query, KERNEL), inside.query.bias):
            call.rescale(variable, q[3].labels, 0.5)
        call.read(Units(3, q[3].labels, q[3].sources))
        if inside.gate is not None:
            gate = self._project(call, inside.gate, query, shapes[0])
            call.tie(gate[2].labels, q[2].labels)
            call.tie(gate[3].labels, v[3].labels)
        self._hold_masked_heads(call, q[2].labels)
        labels = {2: q[2].labels, 3: v[3].labels}
        mixed = {
            axis: call.emit(axis, each, Unknown(), (), output=None)
            for axis, each in labels.items()
        }
        into = (*shapes[0][:2], *(each.size for each in labels.values()))
        widths = getattr(inside.output, KERNEL).shape[2:]
        inner = call.inside(
            inside.output, [mixed], [into], [(*into[:2], *widths)]
        )
        (made,) = EinsumContraction().trace(inner)
        lengths = shapes[0][1], shapes[1][1]
        heads = q[2].labels
        call.works(*lengths, heads, q[3].labels)
        call.works(*lengths, heads, v[3].labels)
        if grouped:
            self._as_wide_as(call, query, made[2].labels)
        elif not has_output_shape(layer):
            call.resize("output_shape", made[2].labels, _one_axis)
        else:
            for axis, units in made.items():
                call.resize(("output_shape", axis - 2), units.labels)
        if call.is_used(1):
            call.hold_labels(
                "returns attention scores, which show each head", heads
            )
        return [surfaced(call, made), *[NONE] * (len(call.output_shapes) - 1)]

    def _hold_masked_heads(self, call: Call, heads: np.ndarray) -> None:
        """Keeps heads that have masks of their own."""
        for shape in call.mask_shapes("attention_mask"):
            if len(shape) == 4 and shape[1] != 1:
                call.hold_labels(
                    "is given an attention mask for each head", heads
                )

    def _as_wide_as(self, call: Call, query: Axes, made: np.ndarray) -> None:
        """Ties the output's units to the query's, which are as many."""
        if 2 in query:
            call.tie(query[2].labels, made)
        else:
            call.hold_labels("returns as many features as its query has", made)

    def _project(
        self, call: Call, layer: Any, axes: Axes, shape: tuple
    ) -> dict[int, Units]:
        widths = getattr(layer, KERNEL).shape[-2:]
        inner = call.inside(layer, [axes], [shape], [(*shape[:2], *widths)])
        names = {2: f"{layer.name}_heads", 3: f"{layer.name}_dim"}
        (made,) = EinsumContraction(names).trace(inner)
        return dict(made)


def _one_axis(kept: np.ndarray) -> tuple[int]:
    return (len(kept),)

"""Rules of normalizations whose statistics run over the units."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from keras import config

from keras_apoptosis.graph.call import Call
from keras_apoptosis.graph.rules.contraction import tie_groups
from keras_apoptosis.graph.rules.rule import Rule, each_by_itself
from keras_apoptosis.graph.units import Axes, Unknown


@dataclasses.dataclass(frozen=True)
class NormalizationOverUnits(Rule):
    """Normalizes by statistics over the units.

    With n of N units left, sums of squares run over n entries. What the layer
    makes of the kept units is unchanged if its scale becomes √(N/n) times and
    its epsilon N/n times what it was, *provided* that the removed units add
    nothing to those sums: if they were zero, where squares are taken around
    zero (`RMSNormalization`, `UnitNormalization`), or the mean of the kept
    units, where squares are taken around the mean (`LayerNormalization`,
    `GroupNormalization`).

    The first is what a removal means by itself. The second replaces a unit by
    a mean, which even a dead unit would not survive unnoticed; so it has to be
    asked for, by `prune_normalized=True` (of `ka.shrink`, and others).

    Args:
        centred: Whether squares are taken around the mean.
        scale: Attribute name of the scale; `None` where the layer has none
            and divides by a sum instead of a mean.
    """

    centred: bool = True
    scale: str | None = "gamma"

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        rank = len(call.input_shapes[0])
        whole = (
            layer.axis
            if isinstance(layer.axis, (list, tuple))
            else [layer.axis]
        )
        over = [axis % rank for axis in whole]
        for axis, units in axes.items():
            if axis in over:
                self._over(call, units.labels, self.centred)
                place = over.index(axis)
                owned = (self.scale, "beta") if self.scale else ()
                call.own(units.labels, dict.fromkeys(owned, place))
                call.read(units, mean=self.centred)
        return [each_by_itself(call, axes, Unknown())]

    def _over(self, call: Call, labels: np.ndarray, centred: bool) -> None:
        layer = call.layer
        if centred and not call.trace.prune_normalized:
            call.hold_labels(
                "normalizes over the units: a removed one would have to be "
                "replaced by the mean of the others, which "
                "`prune_normalized=True` accepts",
                labels,
            )
        if self.scale is None:
            return
        scale = getattr(layer, self.scale, None)
        if scale is None:
            call.hold_labels(
                "normalizes over the units without a scale", labels
            )
            return
        call.rescale(scale, labels, -0.5)
        epsilon = layer.epsilon
        if epsilon is None:
            epsilon = config.epsilon()
        call.resize(
            "epsilon", labels, functools.partial(_shared, epsilon, labels.size)
        )


class GroupNorm(NormalizationOverUnits):
    """Normalizes by statistics over each group of units.

    With one unit a group the statistics are each unit's own.
    """

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,) = call.layer, call.inputs
        rank = len(call.input_shapes[0])
        own = layer.axis % rank
        if own in axes:
            units = axes[own]
            call.own(units.labels, {"gamma": 0, "beta": 0})
            if layer.groups == call.input_shapes[0][own]:
                call.resize("groups", units.labels)
            else:
                tie_groups(call, units.labels, layer.groups)
                self._over(call, units.labels, self.centred)
                call.read(units, mean=self.centred)
        others = [u for axis, u in axes.items() if axis != own]
        call.hold("normalizes over the units", others)
        axes = {own: axes[own]} if own in axes else {}
        return [each_by_itself(call, axes, Unknown())]


def _shared(epsilon: float, size: int, kept: np.ndarray) -> float:
    return epsilon * size / len(kept)

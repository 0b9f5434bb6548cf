"""Rules of layers that hold other layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.merging import merged
from keras_apoptosis.graph.rules.rule import Rule, surfaced
from keras_apoptosis.graph.units import Axes, Units, Unknown


class TimeDistributed(Rule):
    """Applies a layer to every step: `TimeDistributed`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, (axes,), (shape,) = call.layer, call.inputs, call.input_shapes
        rule = call.rule_of(layer.layer)
        if rule is None or 1 in axes:
            call.hold(
                "wraps a layer without a rule, or has units along the time axis"
            )
            return [NONE]
        inner = call.inside(
            layer.layer,
            [{axis - 1: _at(units, axis - 1) for axis, units in axes.items()}],
            [(shape[0], *shape[2:])],
            config=("layer", "config"),
            times=(shape[1],),
        )
        (made,) = rule.trace(inner) or [NONE]
        outside = {a + 1: _at(units, a + 1) for a, units in made.items()}
        return [surfaced(call, outside)]


class SpectralNorm(Rule):
    """Keeps the kernel of a layer normalized: `SpectralNormalization`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        rule = call.rule_of(layer.layer)
        if rule is None:
            call.hold("wraps a layer without a rule")
            return [NONE]
        inner = call.inside(
            layer.layer,
            call.inputs,
            call.input_shapes,
            call.output_shapes,
            ("layer", "config"),
        )
        (made,) = rule.trace(inner) or [NONE]
        labels = call.trace.owned(layer.kernel, -1)
        if labels is not None:
            call.own(labels, {"vector_u": -1})
        return [surfaced(call, made)]


@dataclasses.dataclass(frozen=True)
class FeedForward(Rule):
    """Holds a feed-forward pair, whose inner units can be removed.

    Many layers pack `Dense`, activation and `Dense` into one. Who knows such
    a class declares which of its inner layers make the units, which read
    them, and which config entry holds their number; what enters and leaves
    the layer as a whole stays as it is.

    Args:
        producers: Attribute names of the inner layers that make the units.
            Of several (a gate beside what it gates) unit i of each are one.
            Dots lead further inside: `"mlp.up"`.
        consumers: Attribute names of the inner layers that read them.
        size: Config entry that holds their number.
        between: Attribute names of inner layers that the units pass through,
            in order: a normalization, say. Only what holds weights or mixes
            units has to be named.
        halves: Whether a producer makes the gate and the gated units side by
            side (the first and the second half of its outputs).

    Example:

    >>> class Block(keras.layers.Layer):
    ...     def __init__(self, hidden, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.hidden = hidden
    ...         self.up = keras.layers.Dense(hidden, activation="gelu")
    ...     def build(self, shape):
    ...         self.down = keras.layers.Dense(shape[-1])
    ...         self.up.build(shape)
    ...         self.down.build((*shape[:-1], self.hidden))
    ...     def call(self, inputs):
    ...         return inputs + self.down(self.up(inputs))
    ...     def get_config(self):
    ...         return {**super().get_config(), "hidden": self.hidden}
    >>> rule = ka.rules.FeedForward("up", "down", size="hidden")
    >>> ka.register_rule(Block, rule)
    >>> model = keras.Sequential([keras.Input((4,)), Block(8, name="block")])
    >>> print(ka.unit_groups(model)[0])
    Group 'block/dense...': 8 units
      ...
    """

    producers: str | tuple[str, ...]
    consumers: str | tuple[str, ...]
    size: str
    between: tuple[str, ...] = ()
    halves: bool = False

    def trace(self, call: Call) -> Sequence[Axes] | None:
        first = call.trace.label_count
        call.hold("mixes the units inside the layer")
        self._pass(call)
        call.hold_adapted(first)
        return None

    def _pass(self, call: Call) -> None:
        shape = call.input_shapes[0]
        made = []
        for name in _several(self.producers):
            units = self._made(call, self._inner(call, name), shape)
            if units is None:
                return
            made.append(units)
        width = (*shape[:-1], made[0][len(shape) - 1].labels.size)
        shapes = [width] * len(made)
        units = merged(call, made, shapes, Unknown(), output=None)
        for name in self.between:
            units = self._follow(call, name, units, width)
        for name in _several(self.consumers):
            self._follow(call, name, units, width)

    def _follow(self, call: Call, name: str, units: Axes, shape: tuple) -> Axes:
        inner = self._inner(call, name)
        rule = call.rule_of(inner)
        if rule is None:
            why = f"holds '{name}', which has no rule (see `ka.register_rule`)"
            call.hold(why, units.values())
            return NONE
        (made,) = rule.trace(call.inside(inner, [units], [shape])) or [NONE]
        return made

    def _made(self, call: Call, inner: Any, shape: tuple) -> Axes | None:
        rule = call.rule_of(inner)
        if rule is None:
            return None
        into = (*shape[:-1], inner.kernel.shape[0])
        (made,) = rule.trace(call.inside(inner, [NONE], [into]))
        axis = len(shape) - 1
        units = made[axis]
        if self.halves:
            first, second = units.labels.reshape(2, -1)
            call.tie(first, second)
            units = Units(axis, first, units.sources[: first.size])
        call.resize(self.size, units.labels)
        return {axis: units}

    def _inner(self, call: Call, name: str) -> Any:
        inner = call.layer
        for part in name.split("."):
            inner = inner[int(part)] if part.isdigit() else getattr(inner, part)
        return inner


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _at(units: Units, axis: int) -> Units:
    return dataclasses.replace(units, axis=axis)

"""Rules of recurrent layers, whose units read themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_apoptosis.graph.call import NONE, Call
from keras_apoptosis.graph.rules.contraction import obstacle
from keras_apoptosis.graph.rules.merging import merged
from keras_apoptosis.graph.rules.rule import Rule, surfaced
from keras_apoptosis.graph.units import Axes, Sum, Units, Unknown

# How many gates lie side by side along the columns of a cell's weights.
GATES: Mapping[type, int] = {
    layers.SimpleRNNCell: 1,
    layers.LSTMCell: 4,
    layers.GRUCell: 3,
}


@dataclasses.dataclass(frozen=True)
class Recurrent(Rule):
    """Steps through time: `SimpleRNN`, `LSTM`, `GRU`, `ConvLSTM*`, `RNN`.

    A unit is observed at the layer's output, and replaced there and in what
    the layer reads of itself at the next step.

    Args:
        size: Config entry that holds the number of units; that of the cell
            where the layer holds cells.
        gates: How many gates there are; by default, by the cell's class.
    """

    size: str = "units"
    gates: int | None = None

    def trace(self, call: Call) -> Sequence[Axes]:
        layer, axes = call.layer, call.inputs[0]
        given = call.argument("initial_state") if call.step else []
        cells, places = self._cells(layer)
        rank = len(call.input_shapes[0])
        own = _channels(layer, rank, steps=True)
        call.hold(
            "has units along the time axis or a spatial axis",
            [units for axis, units in axes.items() if axis != own],
        )
        units = axes.get(own)
        gates = [self._gates(cell) for cell in cells]
        known = [count for count in gates if count is not None]
        if len(known) < len(cells):
            call.hold("has cells without a rule")
            return [NONE] * len(call.output_shapes)
        initial = iter(given)
        ends: list[Units] = []
        for number, (cell, count, place) in enumerate(
            zip(cells, known, places, strict=True)
        ):
            units = self._cell(call, cell, count, place, units, number)
            sizes = cell.state_size
            if sizes == -1:  # So ConvLSTM says that it has two.
                sizes = (-1, -1)
            states = len(sizes) if isinstance(sizes, (list, tuple)) else 1
            for _ in range(states):
                self._start(call, cell, units, next(initial, None))
            ends.extend([units] * states)
        if getattr(layer, "stateful", False):
            for variable, end in zip(layer.states, ends, strict=True):
                axis = _channels(layer, len(variable.shape))
                call.trace.own(variable, axis, end.labels)
        made: list[Axes] = [{ends[-1].axis: ends[-1]}]
        for end, shape in zip(ends, call.output_shapes[1:], strict=False):
            axis = _channels(layer, len(shape))
            made.append(surfaced(call, {axis: end}, len(made)))
        return made

    def _cell(
        self,
        call: Call,
        cell: Any,
        gates: int,
        place: tuple,
        units: Units | None,
        number: int,
    ) -> Units:
        """Records the units that one cell makes and reads."""
        within = call.inside(
            cell,
            [NONE],
            [call.input_shapes[0]],
            [call.output_shapes[0]],
            place,
        )
        several = len(place) > 2
        shape = call.output_shapes[0]
        count = cell.recurrent_kernel.shape[-2]
        owned = call.trace.owned(cell.recurrent_kernel, -2)
        made = (
            call.produce(count, {}, (), cell.name if several else None)
            if owned is None
            else owned
        )
        last = not several or number == len(call.layer.cell.cells) - 1
        output = call.emit(
            _channels(
                cell, len(shape), len(shape) == len(call.input_shapes[0])
            ),
            made,
            Unknown(),
            (),
            0 if last else None,
        )
        columns = np.tile(made, gates)
        within.own(columns, {"kernel": -1, "recurrent_kernel": -1, "bias": -1})
        within.resize(self.size, made)
        why = obstacle(cell)
        if why:
            call.hold_labels(why, made)
        spatial = len(cell.kernel.shape) > 2
        bias = cell.bias
        double = bias is not None and len(bias.shape) == 2
        if units is not None:
            within.consume(
                units,
                "kernel",
                -2,
                [-1],
                bias=None if bias is None else (bias, (0,) if double else ()),
                shifts=not spatial or cell.padding == "valid",
            )
        # A gate may stand between the state and the weights that read it.
        gated = isinstance(cell, layers.GRUCell) and not cell.reset_after
        within.consume(
            output,
            "recurrent_kernel",
            -2,
            [-1],
            bias=None if bias is None else (bias, (1,) if double else ()),
            combines=not gated,
            shifts=not gated and not spatial,
        )
        steps = call.input_shapes[0][1]
        area = [*shape]
        del area[output.axis]
        area = area[len(area) + 2 - len(cell.kernel.shape) :]
        call.works(steps, *area, of=cell.kernel)
        call.works(steps, *area, of=cell.recurrent_kernel)
        return output

    def _start(
        self, call: Call, cell: Any, units: Units, axes: Axes | None
    ) -> None:
        """Ties an initial state, which the cell reads as it reads its own."""
        if axes is None:
            return
        if not axes:
            call.hold_labels(
                "has an initial state that cannot be pruned", units.labels
            )
            return
        (start,) = axes.values()
        call.tie(units.labels, start.labels)
        call.carry(start)

    def _cells(self, layer: Any) -> tuple[list[Any], list[tuple]]:
        """Returns the cells, and where in the layer's config each stands."""
        if type(layer) is not layers.RNN:
            return [layer.cell], [()]
        cell = layer.cell
        if isinstance(cell, layers.StackedRNNCells):
            return list(cell.cells), [
                ("cell", "config", "cells", number, "config")
                for number in range(len(cell.cells))
            ]
        return [cell], [("cell", "config")]

    def _gates(self, cell: Any) -> int | None:
        return self.gates or GATES.get(type(cell))


def _channels(layer: Any, rank: int, steps: bool = False) -> int:
    """Returns the axis of channels, of what has steps or is one of them."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 + steps if first else rank - 1


class Bidirectional(Rule):
    """Steps through time in both directions: `Bidirectional`."""

    def trace(self, call: Call) -> Sequence[Axes]:
        layer = call.layer
        rule = call.rule_of(layer.forward_layer)
        first = getattr(layer.forward_layer, "data_format", None)
        if (
            rule is None
            or (call.step and call.argument("initial_state"))
            or first == "channels_first"
        ):
            call.hold(
                "wraps a layer without a rule or with channels first, or is "
                "given an initial state"
            )
            return [NONE] * len(call.output_shapes)
        both = []
        for key in ("layer", "backward_layer"):
            part = (
                layer.forward_layer if key == "layer" else layer.backward_layer
            )
            shape = part.compute_output_shape(call.input_shapes[0])
            shapes = shape if isinstance(shape[0], (list, tuple)) else [shape]
            inner = call.inside(
                part,
                call.inputs[:1],
                call.input_shapes[:1],
                shapes,
                (key, "config"),
            )
            both.append(rule.trace(inner))
        one, other = both
        axis = len(shapes[0]) - 1
        # Keras takes both halves to be as wide as the first.
        call.tie(one[0][axis].labels, other[0][axis].labels)
        states = [*one[1:], *other[1:]]
        if layer.merge_mode is None:
            states = [one[0], other[0], *states]
        count = len(call.output_shapes) - len(states)
        states = [
            surfaced(call, axes, count + number)
            for number, axes in enumerate(states)
        ]
        if layer.merge_mode is None:
            return states
        if layer.merge_mode == "concat":
            parts = [side[0][axis] for side in (one, other)]
            labels = np.concatenate([part.labels for part in parts])
            made = {axis: call.emit(axis, labels, Unknown(), ())}
            return [made, *states]
        linear = layer.merge_mode in ("sum", "ave")
        return [
            merged(
                call,
                [one[0], other[0]],
                [shapes[0], shapes[0]],
                Sum() if linear else Unknown(),
            ),
            *states,
        ]

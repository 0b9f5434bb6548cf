"""Weights on their way to what a removal makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import cut
from keras_apoptosis.graph import Analysis, Observation
from keras_apoptosis.graph.trace import Consumer
from keras_apoptosis.surgery.absorption import absorber_of, response_to
from keras_apoptosis.surgery.removal import Removal, Replacement


class Change(NamedTuple):
    """A variable and what it becomes.

    Args:
        key: `id` of the weight that the variable is, or is a copy of.
        variable: The variable.
        value: Its new value; of the type in which it was computed.
    """

    key: int
    variable: keras.Variable
    value: np.ndarray

    def typed(self) -> np.ndarray:
        """Returns the value in the type of the variable."""
        dtype = backend.peek(self.variable).dtype
        return self.value.astype(dtype, copy=False)


class Draft:
    """Computes what a removal makes of weights, or of copies of them.

    All of it is affine in the weights, so that what an optimizer keeps of
    them, such as moving averages, becomes what it would by the same removal.

    Args:
        analysis: The model's units.
        copies: Variables to take in the place of weights, by their `id`.
    """

    def __init__(
        self,
        analysis: Analysis,
        copies: Mapping[int, keras.Variable] | None = None,
    ):
        self.analysis = analysis
        self.copies = copies or {}
        self.notes: list[str] = []
        # What each consumer was shifted by, and could not take by itself.
        self.shifts: dict[str, np.ndarray] = {}
        self._changed: dict[int, np.ndarray] = {}
        self._variables: dict[int, keras.Variable] = {}

    def value(self, weight: keras.Variable) -> np.ndarray:
        """Returns the value of a weight so far, to read only."""
        if id(weight) in self._changed:
            return self._changed[id(weight)]
        return backend.peek(self._variable(weight))

    def change(self, weight: keras.Variable) -> np.ndarray:
        """Returns the value of a weight so far in double precision, to edit."""
        self._changed[id(weight)] = self.value(weight).astype("float64")
        self._variables[id(weight)] = self._variable(weight)
        return self._changed[id(weight)]

    def cut(
        self, weight: keras.Variable, positions: Mapping[int, np.ndarray]
    ) -> None:
        """Keeps only some positions along axes of a weight."""
        self._changed[id(weight)] = cut(self.value(weight), positions)
        self._variables[id(weight)] = self._variable(weight)

    def finished(self) -> list[Change]:
        """Returns the variables that change, with their new values."""
        return [
            Change(key, variable, self._changed[key])
            for key, variable in self._variables.items()
            if not self.copies or key in self.copies
        ]

    def _variable(self, weight: keras.Variable) -> keras.Variable:
        return self.copies.get(id(weight), weight)

    def replace(self, number: int, removal: Removal) -> None:
        """Lets consumers and producers absorb the replacement of a group."""
        group = self.analysis.groups[number]
        gone = removal[group.name]
        stay = np.setdiff1d(np.arange(group.size), gone)
        incoming = None
        for observation in group.observations:
            given = removal.replacement(group.name, observation.name)
            incoming = given.arrays().get("incoming", incoming)
            seen: set[tuple] = set()
            for consumer, places in observation.consumers:
                # Calls that share a weight share the replacement as well.
                key = (id(consumer.kernel), consumer.axis)
                if key not in seen:
                    seen.add(key)
                    self._absorb(
                        observation, consumer, places, given, gone, stay
                    )
        if incoming is not None:
            self._average_incoming(number, incoming, stay)

    def _absorb(
        self,
        observation: Observation,
        consumer: Consumer,
        places: np.ndarray,
        given: Replacement,
        gone: np.ndarray,
        stay: np.ndarray,
    ) -> None:
        arrays = given.arrays()
        constant = arrays.get("constant", np.zeros(gone.size))
        mixing = arrays.get("mixing")
        if constant.any():
            full = np.zeros(gone.size + stay.size)
            full[gone] = constant
            self._absorb_constant(observation, consumer, places, full)
        if mixing is not None and mixing.any():
            mask = backend.mask_over(consumer.layer, consumer.kernel)
            kernel = self.change(consumer.kernel)
            if mask is not None:
                kernel *= self.value(mask)
            parts = [(kernel, consumer.axis)]
            lora = backend.lora_of(consumer.layer)
            if lora is not None and lora.weight is consumer.kernel:
                variable, axis = lora.part(consumer.axis)
                parts.append((self.change(variable), axis))
            for value, axis in parts:
                rows = np.moveaxis(value, axis, 0)
                for place in places:  # One entry a position after `Flatten`.
                    gain = np.tensordot(mixing.T, rows[place[gone]], 1)
                    rows[place[stay]] += gain
            if mask is not None:
                # What a kept unit takes over would be lost behind the mask.
                change = self.change(mask)
                np.maximum(change, kernel != 0, out=change)

    def _absorb_constant(
        self,
        observation: Observation,
        consumer: Consumer,
        places: np.ndarray,
        constants: np.ndarray,
    ) -> None:
        weights = {
            id(variable): self.value(variable)
            for variable in consumer.layer.variables
        }
        kernel = weights[id(consumer.kernel)].astype("float64")
        mask = backend.mask_over(consumer.layer, consumer.kernel)
        if mask is not None:
            kernel = kernel * self.value(mask)
        lora = backend.lora_of(consumer.layer)
        if lora is not None and lora.weight is consumer.kernel:
            kernel = kernel + lora.scale * self.value(lora.a) @ self.value(
                lora.b
            )
            weights[id(lora.a)] = np.zeros(lora.a.shape)
        weights[id(consumer.kernel)] = kernel
        shift, uneven = response_to(
            constants, self.analysis, observation, consumer, places, weights
        )
        name = consumer.path
        if uneven:
            self.notes.append(
                f"'{name}' sees the replaced constant unevenly at its "
                f"borders: it is exact on average, off by {uneven:.3g} RMS"
            )
        absorber = absorber_of(self.analysis.graph, consumer)
        if absorber is None:
            self.notes.append(
                f"'{name}' has no bias that could take the constant part of "
                f"the replacement: dropped, {np.sqrt(np.mean(shift**2)):.3g} "
                "RMS of its output"
            )
        for variable, part, sign in absorber or ():
            value = self.change(variable)
            value[part] += sign * shift.reshape(value[part].shape)
            if id(variable) not in self.copies:
                self.shifts[name] = self.shifts.get(name, 0) + shift

    def _average_incoming(
        self, number: int, incoming: np.ndarray, stay: np.ndarray
    ) -> None:
        analysis = self.analysis
        for block in analysis.blocks_of[number]:
            weights = [*block.layer.trainable_weights]
            lora = backend.lora_of(block.layer)
            if lora is not None:
                weights.append(lora.weight)
            for variable in weights:
                for axis, labels in analysis.trace.axes.get(
                    id(variable), {}
                ).items():
                    if analysis.member(labels, number).any():
                        rows = np.moveaxis(self.change(variable), axis, 0)
                        place = analysis.positions(labels, number)[0]
                        rows[place[stay]] = np.tensordot(
                            incoming, rows[place], 1
                        )

"""Adds Gaussian noise to weights of living units, in the compiled step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend import kernel_of, layers_inside, lora_of
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import NOTHING, Allowed
from keras_apoptosis.graph.units import FIXED
from keras_apoptosis.schedules import ValueSchedule
from keras_apoptosis.training.live_hook import LiveHook

# From how many places of the table the numbers of a weight are read.
PLACES = 2**20


class UnitNoise(LiveHook):
    """Adds Gaussian noise to the weights of units after each update.

    The weights of a unit are its column of a kernel, its bias, and its scale
    and offset in a normalization that it passes. Its outgoing weights belong
    to other units. Masked weights stay zero.

    The numbers follow from `seed` and the optimizer's iteration: the same on
    each worker that starts from the same seed. They are not drawn in the
    step, where they would take as long as the rest of it, but read from a
    table, each weight's from a place and with a sign that are drawn (as in
    Salimans et al., *Evolution strategies as a scalable alternative to
    reinforcement learning*, 2017). Over the steps the numbers of two weights
    are uncorrelated, up to about 0.001.

    Args:
        model: The model.
        variance: A schedule of σ² over the training.
        groups: A function of an analysis of the model that returns the
            indices of the groups whose units get noise.
        every: Integer > 0. The number of steps between two additions, each
            with the variance of all these steps.
        seed: Integer.
        symmetric: Whether units without any gradient get noise as well. By
            default a unit whose gradients are all exactly zero in a step gets
            none in it: it is dead on that batch.
        allowed: What removals may do.
    """

    def __init__(
        self,
        model: keras.Model,
        variance: ValueSchedule,
        groups: Callable[[Analysis], Sequence[int]],
        every: int = 1,
        seed: int = 0,
        symmetric: bool = False,
        allowed: Allowed = NOTHING,
    ):
        super().__init__(factor=1.0)
        self.model = model
        self.variance = variance
        self.groups = groups
        self.every = every
        self.seed = seed
        self.symmetric = symmetric
        self.allowed = allowed
        self._active: Any = None  # In the present step.
        # By name of the group, which units are alive; all by default.
        self.alive: dict[str, np.ndarray] = {}
        self._owned: dict[int, dict[int, np.ndarray]] = {}
        self._masked: dict[int, keras.Layer] = {}
        self._analysis: Analysis  # As of the last `build`.

    def build(self, weights: Sequence[keras.Variable]) -> None:
        # Weights changed their shape, so units have other positions.
        self._analysis = analyse(self.model, self.allowed)
        self._owned = _owned_by_units(
            self._analysis, self.groups(self._analysis)
        )
        self._masked = {
            id(kernel_of(layer)): layer
            for layer in layers_inside(self.model)
            if hasattr(layer, "kernel_mask")
        }
        self._numbers["alive"] = self._label_states()
        super().build(weights)
        sizes = [math.prod(w.shape) for w in weights if id(w) in self._owned]
        table = np.random.default_rng(self.seed).standard_normal(
            PLACES + max(sizes, default=0), "float32"
        )
        self._table = self.add_variable(table, "float32")

    def set_alive(self, alive: Mapping[str, np.ndarray]) -> None:
        """Sets which units are alive, from the next `build` on.

        Args:
            alive: For each group, by name, a boolean for each unit.
        """
        self.alive = dict(alive)

    def renew_alive(self) -> None:
        """Applies what `set_alive` set to the following steps.

        Surround it as `change`.
        """
        self.change(alive=self._label_states())

    def before(
        self, gradients: list[Any], weights: list[keras.Variable]
    ) -> list[Any]:
        if self.symmetric:
            return gradients
        count = self._numbers["alive"].size
        active = ops.zeros((count,), "float32")
        for gradient, weight in zip(gradients, weights, strict=True):
            if gradient is None:
                continue
            for axis, labels in self._owned.get(id(weight), {}).items():
                others = [a for a in range(len(weight.shape)) if a != axis]
                moved = ops.not_equal(ops.convert_to_tensor(gradient), 0)
                moved = ops.cast(ops.any(moved, axis=others), "float32")
                found = ops.segment_max(
                    moved, _places(labels, count), num_segments=count
                )
                active = ops.maximum(active, found)
        self._active = active
        return gradients

    def after(self, weights: list[keras.Variable]) -> None:
        done = self.steps  # It counts the present step.
        chosen = [w for w in weights if id(w) in self._owned]
        if not chosen:
            return
        values = [ops.convert_to_tensor(weight) for weight in chosen]

        def noisy() -> list[Any]:
            variance = self.variance(self.progress(done - 1))
            variance = self.number("factor") * variance * self.every
            deviation = ops.sqrt(ops.cast(variance, "float32"))
            alive = self.number("alive")
            if not self.symmetric:
                alive = alive * self._active
            seed = _StepSeed(self.seed, done)
            draws = ops.unstack(
                keras.random.randint((len(chosen),), 0, 2 * PLACES, seed=seed)
            )
            return [
                value + ops.cast(self._noise(w, n, alive, deviation), w.dtype)
                for w, value, n in zip(chosen, values, draws, strict=True)
            ]

        if self.every > 1:
            due = ops.equal(done % self.every, 0)
            values = ops.cond(due, noisy, lambda: list(values))
        else:
            values = noisy()
        for weight, value in zip(chosen, values, strict=True):
            weight.assign(value)

    def _noise(
        self, weight: keras.Variable, draw: Any, alive: Any, deviation: Any
    ) -> Any:
        table = ops.convert_to_tensor(self._table)
        noise = ops.slice(table, [draw // 2], [math.prod(weight.shape)])
        noise = ops.reshape(noise, tuple(weight.shape))
        scale = deviation * (1 - 2 * ops.cast(draw % 2, "float32"))
        for axis, labels in self._owned[id(weight)].items():
            shape = [1] * len(weight.shape)
            shape[axis] = labels.size
            places = _places(labels, alive.shape[0])
            scale = scale * ops.reshape(ops.take(alive, places), shape)
        noise = noise * scale
        layer = self._masked.get(id(weight))
        if layer is not None and layer.kernel_mask is not None:
            # On JAX the mask itself is not visible here; its effect is.
            masked = ops.equal(ops.convert_to_tensor(weight), 0)
            noise = ops.where(masked, 0.0, noise)
        return noise

    def _label_states(self) -> np.ndarray:
        analysis = self._analysis
        states = np.zeros(analysis.group_of.size + 1, "float32")
        for number in self.groups(analysis):
            group = analysis.groups[number]
            alive = self.alive.get(group.name)
            if alive is None or alive.size != group.size:
                alive = np.ones(group.size, bool)
            mine = np.flatnonzero(analysis.group_of == number)
            states[mine] = alive[analysis.index_of[mine]]
        return states


def _places(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns where labels stand; the last place is that of `FIXED`."""
    return np.where(labels == FIXED, count - 1, labels).astype("int32")


class _StepSeed(keras.random.SeedGenerator):
    """A seed and the step, which is live on every backend."""

    def __init__(self, seed: int, step: Any):
        # Far apart: PyTorch's generators take the sum of a seed's two parts.
        self._first = seed * 0x2545F491 % 2**31
        self._second = step

    def next(self, ordered: bool = True) -> Any:
        dtype = _seed_dtype()
        return ops.stack(
            [
                ops.convert_to_tensor(self._first, dtype),
                ops.cast(self._second, dtype),
            ]
        )


def _seed_dtype() -> str:
    return "uint32" if keras.backend.backend() == "jax" else "int32"


def _owned_by_units(
    analysis: Analysis, groups: Sequence[int]
) -> dict[int, dict[int, np.ndarray]]:
    """Returns the weights that produce units of groups, with the units' axes.

    Of all the axes along which units own slices, those by which a consumer
    reads are left out.
    """
    trace = analysis.trace
    read = {
        (id(consumer.kernel), consumer.axis) for consumer in trace.consumers
    }
    for consumer in trace.consumers:
        lora = lora_of(consumer.layer)
        if lora is not None and lora.weight is consumer.kernel:
            variable, axis = lora.part(consumer.axis)
            read.add((id(variable), axis))
    wanted = np.isin(analysis.group_of, list(groups))
    found: dict[int, dict[int, np.ndarray]] = {}
    for key, axes in trace.axes.items():
        made = {
            axis: labels
            for axis, labels in axes.items()
            if (key, axis) not in read and wanted[labels[labels != FIXED]].any()
        }
        if made:
            found[key] = made
    return found

"""Attacks single units by a high learning rate, to see whether they die."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend import step_hooks
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.unit_weights import incoming_weights
from keras_apoptosis.utils.checks import check_count, check_size


class LearningRateAttack(keras.callbacks.Callback):
    """Multiplies the learning rate of single units at chosen steps.

    After Evci, "Detecting dead weights and units in neural networks", 2018,
    section 3.3: the incoming weights of a unit, not its bias, move
    `multiplier` times as far as the optimizer would move them, at step
    `start` and then every `interval` steps. It is an experiment on why units
    die, and no way to train.

    Args:
        group: Name of the unit group; see `ka.unit_groups`.
        units: Index or indices of the attacked units.
        multiplier: Number of at least 0.
        start: The first attacked step, counted from 0 over the whole
            training.
        repeats: How many steps are attacked.
        interval: Steps from one attack to the next.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
            if the model has no such group or units, or units leave while
            they are under attack.

    Example: one step of gradient descent, a hundred times as far.

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.Dense(2, name="hidden", kernel_initializer="ones"),
    ...     keras.layers.Dense(1, kernel_initializer="ones"),
    ... ])
    >>> model.compile(keras.optimizers.SGD(0.001), "mae")
    >>> attack = LearningRateAttack("hidden", 0, start=0)
    >>> _ = model.fit(
    ...     np.ones((1, 1)), np.zeros((1, 1)), verbose=0, callbacks=[attack]
    ... )
    >>> kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    >>> kernel.astype("float64").round(3).tolist()
    [[0.9, 0.999]]
    """

    def __init__(
        self,
        group: str,
        units: int | Iterable[int],
        *,
        multiplier: float = 100.0,
        start: int = 50,
        repeats: int = 10,
        interval: int = 10,
    ):
        super().__init__()
        check_size("multiplier", multiplier)
        check_count("start", start, least=0)
        check_count("repeats", repeats)
        check_count("interval", interval)
        self.group = group
        self.units = np.atleast_1d(np.asarray(units, int))
        self.multiplier = float(multiplier)
        self.start = start
        self.repeats = repeats
        self.interval = interval
        self._detach: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        groups = {each.name: each for each in analyse(self.model).groups}
        if self.group not in groups:
            raise ValueError(
                f"Expected the name of a unit group: {', '.join(groups)}. "
                f"Received: group='{self.group}'"
            )
        size = groups[self.group].size
        if not ((self.units >= 0) & (self.units < size)).all():
            raise ValueError(
                f"Group '{self.group}' has {size} units. "
                f"Received: units={self.units.tolist()}"
            )
        hook = _Attack(self, self.model, size)
        self._detach = step_hooks.attach(self.model, hook)

    def on_train_end(self, logs: Any = None) -> None:
        self._detach()


class _Attack(step_hooks.StepHook):
    """Moves weights on by more than the optimizer did."""

    def __init__(self, attack: LearningRateAttack, model: Any, size: int):
        self.attack = attack
        self.model = model
        self.size = size

    def build(self, weights: Sequence[keras.Variable]) -> None:
        analysis = analyse(self.model)
        names = [each.name for each in analysis.groups]
        number = names.index(self.attack.group)
        if analysis.groups[number].size != self.size:
            raise ValueError(
                f"Units left group '{self.attack.group}' while it was under "
                "attack, so its indices mean others. Received: "
                f"{analysis.groups[number].size} units of {self.size}"
            )
        self._gains: dict[int, np.ndarray] = {}
        for weight, axis, _ in incoming_weights(analysis):
            labels = analysis.trace.axes[id(weight)][axis]
            hit = analysis.member(labels, number)
            hit &= np.isin(analysis.index_of[labels], self.attack.units)
            if hit.any():
                shape = [1] * len(weight.shape)
                shape[axis] = -1
                gain = np.where(hit, self.attack.multiplier - 1, 0.0)
                self._gains[id(weight)] = gain.reshape(shape).astype("float32")

    def before(
        self, gradients: list[Any], weights: list[keras.Variable]
    ) -> list[Any]:
        attack = self.attack
        since = ops.cast(self.steps, "int32") - attack.start
        self._now = ops.logical_and(
            ops.logical_and(
                since >= 0, since < attack.repeats * attack.interval
            ),
            ops.equal(since % attack.interval, 0),
        )
        self._old = {  # A sum, as PyTorch updates in place.
            id(weight): ops.convert_to_tensor(weight) + 0
            for weight in weights
            if id(weight) in self._gains
        }
        return gradients

    def after(self, weights: list[keras.Variable]) -> None:
        for weight in weights:
            if id(weight) in self._gains:
                new = ops.convert_to_tensor(weight)
                gain = ops.cast(self._gains[id(weight)], new.dtype)
                gain = gain * ops.cast(self._now, new.dtype)
                weight.assign(new + gain * (new - self._old[id(weight)]))
        del self._old, self._now

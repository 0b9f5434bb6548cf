"""Drives units to die, by a penalty and noise in each training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import attach_for_fit
from keras_apoptosis.training.live_hook import LiveHook
from keras_apoptosis.training.noise import UnitNoise
from keras_apoptosis.training.penalty import Regularization


class Pressure:
    """A penalty and noise in the steps of a model, as long as they are wanted.

    Args:
        model: The compiled model.
        penalty: The penalty.
        noise: The noise, if any.
        alive: For groups, by name, which of their units are alive.
        factor: By what the strength of the penalty is multiplied.
    """

    def __init__(
        self,
        model: keras.Model,
        penalty: Regularization,
        noise: UnitNoise | None,
        alive: Mapping[str, np.ndarray],
        factor: float = 1.0,
    ):
        self.model = model
        self.noise = noise
        self._hooks: list[LiveHook] = [penalty]
        if noise is not None:
            self._hooks.append(noise)
        if noise is not None:
            noise.set_alive(alive)
        self._change(factor)
        self._detach: list[Callable[[], None]] = [
            attach_for_fit(model, hook) for hook in self._hooks
        ]

    def end(self) -> None:
        """Takes both out of the step, for good."""
        for detach in self._detach:
            detach()
        self._detach = []

    def tell_time(self, fraction: float, per_step: float) -> None:
        """Says how far the training has come; see `LiveHook`."""
        backend.sync_from_jax(self.model)
        for hook in self._hooks:
            hook.tell_time(fraction, per_step)
        backend.sync_to_jax(self.model)

    def set_alive(self, alive: Mapping[str, np.ndarray]) -> None:
        """Sets which units get noise, from the next step on."""
        if self.noise is not None:
            backend.sync_from_jax(self.model)
            self.noise.set_alive(alive)
            self.noise.renew_alive()
            backend.sync_to_jax(self.model)

    def steer(self, factor: float) -> None:
        """Multiplies the strength of the penalty, from the next step on.

        Noise is never more than asked for, and ends with the penalty.

        Args:
            factor: By what; 0 for neither.
        """
        backend.sync_from_jax(self.model)
        self._change(factor)
        backend.sync_to_jax(self.model)

    def _change(self, factor: float) -> None:
        for hook in self._hooks:
            hook.change(
                factor=min(1.0, factor) if hook is self.noise else factor
            )

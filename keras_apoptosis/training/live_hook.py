"""A hook whose numbers may change between steps, and that knows the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import StepHook


class LiveHook(StepHook):
    """A hook with numbers that callbacks may change between steps.

    It counts how far the training has come by the optimizer's steps,
    from a moment that `tell_time` names.

    Args:
        **numbers: Names and first values.
    """

    def __init__(self, **numbers: Any):
        # Iteration and fraction of the training at some moment, and the
        # fraction that one step adds.
        self._numbers = {"clock": np.zeros(3, "float32")}
        for name, value in numbers.items():
            self._numbers[name] = np.asarray(value, "float32")
        self._variables: dict[str, keras.Variable] = {}

    def build(self, weights: Sequence[keras.Variable]) -> None:
        self._variables = {
            name: self.add_variable(value, "float32")
            for name, value in self._numbers.items()
        }

    def number(self, name: str) -> Any:
        """Returns the present value, to read within the step."""
        return ops.convert_to_tensor(self._variables[name])

    def change(self, **numbers: Any) -> None:
        """Gives numbers other values.

        The caller surrounds it by `backend.sync_from_jax(model)` and
        `backend.sync_to_jax(model)`.
        """
        for name, value in numbers.items():
            self._numbers[name] = np.asarray(value, "float32")
            if name in self._variables:
                self._variables[name].assign(self._numbers[name])

    def tell_time(self, fraction: float, per_step: float) -> None:
        """Says how far the training has come.

        Args:
            fraction: The part that is done, from 0 to 1.
            per_step: The part that one step is; 0 while that is not known.
        """
        iteration = int(backend.peek(self.steps))
        self.change(clock=[iteration, fraction, per_step])

    def progress(self, iteration: Any) -> Any:
        """Returns the fraction of the training done, within the step."""
        start, fraction, per_step = ops.unstack(self.number("clock"), 3)
        steps = ops.cast(iteration, "float32") - start
        return ops.clip(fraction + steps * per_step, 0.0, 1.0)

"""Scales the learning rate for the larger batch of several workers."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.distributed import collectives


class LearningRateScaling(keras.callbacks.Callback):
    """Multiplies the learning rate by the number of workers, with a warmup.

    The batches of N workers make up one batch N times as large, so that an
    epoch has N times fewer steps. By the linear rule (Goyal et al., "Accurate,
    large minibatch SGD", 2017) the learning rate is then N times as large. It
    is raised in equal steps over the first epochs, since training could
    diverge otherwise. For adaptive optimizers the square root of N is often
    enough: pass it as `factor`.

    Compile the model with the rate for one process; on one process nothing
    changes. After the warmup the rate is left to other callbacks.

    Args:
        warmup_epochs: Number >= 0. Length of the warmup; 0 for none.
        factor: Float > 0, to use instead of the number of workers.

    Raises:
        ValueError: If an argument is out of range; or, when training begins,
            if the learning rate is a Keras schedule, which cannot be scaled
            from outside. Multiply its arguments by `ka.distributed.size()`.

    Example:

    >>> scaling = ka.distributed.LearningRateScaling(warmup_epochs=5)
    """

    def __init__(self, warmup_epochs: int = 5, factor: float | None = None):
        super().__init__()
        if isinstance(warmup_epochs, bool) or not warmup_epochs >= 0:
            raise ValueError(
                "Expected `warmup_epochs` to be a number of at least 0. "
                f"Received: warmup_epochs={warmup_epochs}"
            )
        if factor is not None and not factor > 0:
            raise ValueError(
                "Expected `factor` to be a number above 0. "
                f"Received: factor={factor}"
            )
        self.warmup_epochs = warmup_epochs
        self.factor = factor
        self._base: float | None = None
        self._epoch = 0
        self._done = False

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return {"base": self._base, "done": self._done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self._base, self._done = state["base"], state["done"]

    def on_train_begin(self, logs: Any = None) -> None:
        if self._scale() == 1:
            return
        optimizer = self.model.optimizer
        rate = optimizer.get_config().get("learning_rate")
        if isinstance(rate, dict):
            raise ValueError(
                "Expected a learning rate that is a number; a schedule cannot "
                "be scaled from outside. Multiply its arguments by "
                "`ka.distributed.size()` instead. "
                f"Received: {rate.get('class_name')}"
            )
        if self._base is None:
            self._base = float(optimizer.learning_rate)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._set(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        steps = self.params.get("steps")
        if steps:
            self._set(self._epoch + batch / steps)

    def _scale(self) -> float:
        size = collectives.size()
        if size == 1:
            return 1.0
        return size if self.factor is None else self.factor

    def _set(self, epochs: float) -> None:
        if self._done or self._base is None:
            return
        part = 1.0
        if epochs < self.warmup_epochs:
            part = epochs / self.warmup_epochs
        scale = 1 + (self._scale() - 1) * part
        self.model.optimizer.learning_rate = self._base * scale
        self._done = part == 1

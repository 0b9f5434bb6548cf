"""Counts the cost of a training step by step, at the widths of each step."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras

from keras_apoptosis.accounting.flops import TRAINING, parameters
from keras_apoptosis.accounting.size import Size, size_of
from keras_apoptosis.utils.checks import check_count


class TrainingCost(keras.callbacks.Callback):
    """Counts the cost of a training while any method removes units.

    Args:
        batch_size: Integer > 0. Number of samples in a step.
        input_shape: Shapes of the inputs; see `ka.flops`. Where the model
            leaves lengths open and none are given, the FLOPs are those for
            one position of each sample.

    Attributes:
        whole: The `Size` of the model at the beginning of the training.
        flops: Floating-point operations of all steps so far: three forward
            passes each, at the size of the model in that step.
        whole_flops: The same without any removal.
        seconds: Duration of the training, evaluation included.

    `fit`'s logs get `training_flops` (a share of `whole_flops`),
    `neuron_sparsity`, `weight_sparsity` and `flop_sparsity`.

    Example:

    >>> x = np.zeros((64, 4), "float32")
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> model.compile("sgd", "mse")
    >>> cost = ka.callbacks.TrainingCost(batch_size=32)
    >>> _ = model.fit(x, x[:, :2], callbacks=[cost], verbose=0)
    >>> cost.flops  # 64 samples, three passes of 96 operations.
    18432.0
    """

    def __init__(self, batch_size: int, input_shape: Any = None):
        super().__init__()
        check_count("batch_size", batch_size)
        self.batch_size = batch_size
        self.input_shape = input_shape
        self.whole: Size | None = None
        self.flops = 0.0
        self.whole_flops = 0.0
        self.seconds = 0.0
        self._now = Size(0, 0, 0.0)
        self._steps = 0
        self._start = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._now = size_of(self.model, self.input_shape)
        self.whole = self.whole or self._now
        self._start = time.perf_counter() - self.seconds

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._steps = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Units may have been removed since the step before.
        if parameters(self.model) != self._now.weights:
            self._now = size_of(self.model, self.input_shape)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With several steps per execution only the last one is announced.
        samples = (batch + 1 - self._steps) * self.batch_size
        self._steps = batch + 1
        self.flops += TRAINING * samples * self._now.flops
        if self.whole is not None:
            self.whole_flops += TRAINING * samples * self.whole.flops

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self._start
        if logs is not None and self.whole is not None:
            share = size_of(self.model, self.input_shape).sparsity(self.whole)
            logs["training_flops"] = self.flops / max(1.0, self.whole_flops)
            logs["neuron_sparsity"] = share["neurons"]
            logs["weight_sparsity"] = share["weights"]
            logs["flop_sparsity"] = share["flops"]

    def get_state(self) -> dict[str, Any]:
        """Returns what `ka.callbacks.Checkpoint` keeps."""
        return {
            "whole": self.whole and dataclasses.astuple(self.whole),
            "flops": self.flops,
            "whole_flops": self.whole_flops,
            "seconds": self.seconds,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self.whole = state["whole"] and Size(*state["whole"])
        self.flops = state["flops"]
        self.whole_flops = state["whole_flops"]
        self.seconds = state["seconds"]

"""Averages gradients over the workers, inside the compiled step."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import StepHook, hooks_of, place
from keras_apoptosis.distributed import collectives
from keras_apoptosis.utils.checks import check_choice, check_count

COMPRESSIONS = ("none", "fp16")


def DistributedOptimizer(
    optimizer: keras.Optimizer,
    *,
    compression: str = "none",
    backward_passes_per_step: int = 1,
) -> keras.Optimizer:
    """Makes an optimizer average gradients over all workers.

    In each step gradients are averaged first, by one grouped all-reduce inside
    the training step. Everything that follows (loss scaling, clipping, weight
    decay, the hooks of pruning methods) sees the same values on every worker.

    The optimizer stays the same object of the same class and is saved as
    usual, so that saved models load anywhere. On one process it does
    nothing, and on JAX next to nothing: there the step is one program for the
    batches of all workers. `BroadcastInitialState` must be one of the
    callbacks of `fit`; without it the first step raises an error.

    XLA and `torch.compile` cannot compile what averages gradients, so that
    callback sets the model's `jit_compile` to `False` (not on JAX).

    Args:
        optimizer: A Keras optimizer, built or not.
        compression: The type in which gradients are sent: `"none"` for their
            own, or `"fp16"`, which halves the size of float32 and keeps about
            three digits. JAX sends them in their own type.
        backward_passes_per_step: Integer >= 1. Gradients are reduced, and
            weights updated, once every so many steps, by the mean of the
            gradients of these steps: Keras' `gradient_accumulation_steps`.
            The number of steps of an epoch should be a multiple of it: with
            several workers, gradients accumulated so far are lost when units
            are removed or a checkpoint is written.

    Returns:
        The same optimizer.

    Raises:
        ValueError: If an argument is out of range; if the optimizer is
            already distributed; or if `backward_passes_per_step` is above 1
            and the optimizer scales the loss or already accumulates another
            number of gradients.
        RuntimeError: If a launcher started several processes, and
            `ka.distributed.init()` was not called.

    Example:

    >>> ka.distributed.init()
    >>> optimizer = ka.distributed.DistributedOptimizer(
    ...     keras.optimizers.SGD(0.1 * ka.distributed.size())
    ... )
    """
    if not isinstance(optimizer, keras.Optimizer):
        raise ValueError(
            "Expected `optimizer` to be a Keras optimizer. "
            f"Received: optimizer={optimizer} (of type {type(optimizer)})"
        )
    check_choice("compression", compression, COMPRESSIONS)
    passes = _passes(optimizer, backward_passes_per_step)
    if all_reduce_of(optimizer) is not None:
        raise ValueError(
            "The optimizer is already distributed. "
            f"Received: optimizer={optimizer}"
        )
    if passes > 1:
        optimizer.gradient_accumulation_steps = passes
    if collectives.size() > 1 and not collectives.sees_all_batches():
        place(optimizer, AllReduce(compression, passes))
    return optimizer


class AllReduce(StepHook):
    """Averages gradients over the workers.

    Args:
        compression: See `DistributedOptimizer`.
        passes: Number of steps for each update.

    Attributes:
        state: Other variables of the model to average in each step.
            `None` until all workers have the same state.
        bytes: Number of bytes that a worker sends in each update; known
            once the step is traced.
    """

    first = True

    def __init__(self, compression: str = "none", passes: int = 1):
        self.compression = compression
        self.passes = passes
        self.state: list[keras.Variable] | None = None
        self.bytes: int | None = None
        self._sums: list[keras.Variable] = []

    def build(self, weights: Any) -> None:
        self._sums = []
        if self.passes > 1:
            self._sums = [
                self.add_variable(np.zeros(each.shape), each.dtype)
                for each in weights
            ]

    def before(self, gradients: list[Any], weights: list[Any]) -> list[Any]:
        if self.state is None:
            raise RuntimeError(
                "Add `ka.distributed.BroadcastInitialState()` to the callbacks "
                "of `fit`, as the first; in a loop of your own call "
                "`ka.distributed.broadcast_initial_state(model)`. Received: "
                "a training step on workers whose initial states may differ"
            )
        if self.passes == 1:
            return self._reduced(gradients)
        # Keras accumulates what it is given, and divides by the number of
        # passes. Give it zeros, and the whole sum in the pass that updates.
        own = backend.weights_of(self.optimizer)
        places = {id(each): n for n, each in enumerate(own)}
        known = [n for n, each in enumerate(gradients) if each is not None]
        sums = [self._sums[places[id(weights[n])]] for n in known]
        for total, n in zip(sums, known, strict=True):
            total.assign(total + ops.convert_to_tensor(gradients[n]))

        def update() -> list[Any]:
            found = self._reduced([ops.copy(each) for each in sums])
            for total in sums:
                total.assign(ops.zeros_like(total))
            return found

        steps = backend.steps_of(self.optimizer)
        due = (steps + 1) % self.passes == 0
        found = ops.cond(
            due, update, lambda: [ops.zeros_like(each) for each in sums]
        )
        result = list(gradients)
        for n, each in zip(known, found, strict=True):
            result[n] = each
        return result

    def _reduced(self, gradients: list[Any]) -> list[Any]:
        engine = collectives.connected()
        known = [n for n, each in enumerate(gradients) if each is not None]
        # Dense: gradients of embeddings are indexed slices, of which workers
        # have different numbers.
        values = [ops.convert_to_tensor(gradients[n]) for n in known]
        found = engine.average(values, "gradients", self.compression)
        self.bytes = sum(
            math.prod(value.shape) * self._width(value) for value in values
        )
        if self.state:
            averaged = engine.average(
                [ops.convert_to_tensor(each.value) for each in self.state],
                "state",
            )
            for variable, value in zip(self.state, averaged, strict=True):
                variable.assign(value)
        result = list(gradients)
        for n, each in zip(known, found, strict=True):
            result[n] = each
        return result

    def _width(self, value: Any) -> int:
        if self.compression == "fp16":
            return 2
        return backend.itemsize(keras.backend.standardize_dtype(value.dtype))


def all_reduce_of(optimizer: keras.Optimizer | None) -> AllReduce | None:
    """Returns the hook that reduces an optimizer's gradients, or `None`."""
    for hook in hooks_of(optimizer) if optimizer is not None else []:
        if isinstance(hook, AllReduce):
            return hook
    return None


def _passes(optimizer: keras.Optimizer, given: Any) -> int:
    check_count("backward_passes_per_step", given)
    passes = int(given)
    scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    steps = getattr(optimizer, "gradient_accumulation_steps", None)
    # An optimizer that was loaded already has its accumulators.
    fits = steps == passes or (steps is None and not optimizer.built)
    if passes > 1 and (scales or not fits):
        raise ValueError(
            "With `backward_passes_per_step` above 1, expected an optimizer "
            "that does not scale the loss, and is either new or has the same "
            f"`gradient_accumulation_steps`. Received: {passes} passes, "
            f"{type(optimizer).__name__} with gradient_accumulation_steps="
            f"{steps}"
        )
    return passes

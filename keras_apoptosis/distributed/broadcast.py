"""Starts all workers from the same state, and checks that they stay equal."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend import layers_inside, step_hooks
from keras_apoptosis.distributed import collectives
from keras_apoptosis.distributed.optimizer import all_reduce_of


def broadcast_initial_state(model: keras.Model) -> None:
    """Gives all workers the weights and optimizer state of rank 0.

    This includes the seeds of dropout, so that ranks draw the same masks, each
    for its own samples. Activation statistics of Prunable layers stay on rank
    0 and start from zero elsewhere, since they are summed over all workers.
    From then on, other state of layers, such as the moving averages of
    BatchNormalization, is averaged over the workers in each step.

    On one process it does nothing.

    Args:
        model: A model compiled with a `ka.distributed.DistributedOptimizer`.

    Raises:
        ValueError: If the model is not compiled, or compiled with another
            optimizer.
        RuntimeError: On all ranks, if their models differ.
    """
    if collectives.size() == 1:
        return
    hook = all_reduce_of(getattr(model, "optimizer", None))
    if hook is None and not collectives.sees_all_batches():
        raise ValueError(
            "Expected a model that is compiled with `ka.distributed."
            "DistributedOptimizer(optimizer)`. A model that was loaded needs "
            "it again. "
            f"Received: {type(getattr(model, 'optimizer', None)).__name__}"
        )
    if not collectives.connected().compilable:
        model.jit_compile = False
    step_hooks.settle(model)
    variables = [*model.variables, *model.optimizer.variables]
    collectives.assert_same(
        collectives.digest_of(
            [str([(tuple(v.shape), v.dtype) for v in variables])]
        ),
        "the shapes of the model and its optimizer",
        "All ranks must build the same model, or resume from the same "
        "checkpoint.",
    )
    values = [ops.convert_to_numpy(each.value) for each in variables]
    values = collectives.broadcast(values, "initial_state")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    if not collectives.is_primary() and not collectives.sees_all_batches():
        for layer in layers_inside(model):
            if hasattr(layer, "reset_statistics"):
                layer.reset_statistics()
    if hook is not None:
        hook.state = moving_state(model)
    backend.sync_to_jax(model)


def moving_state(model: keras.Model) -> list[keras.Variable]:
    """Returns the moving averages that layers keep of the data.

    Sums that are reduced over the workers when they are read are not among
    them, nor is anything of non-trainable layers.
    """
    apart: set[int] = set()
    for layer in layers_inside(model):
        apart.update(map(id, getattr(layer, "statistics_variables", ())))
        if not layer.trainable:
            apart.update(map(id, layer.variables))
    return [
        each
        for each in model.non_trainable_variables
        if keras.backend.is_float_dtype(each.dtype) and id(each) not in apart
    ]


def check_alike(model: keras.Model) -> None:
    """Raises an error on all workers unless their models are equal, bit by bit.

    Raises:
        RuntimeError: On all ranks, if the weights differ.
    """
    if not collectives.together():
        return
    variables = [*model.trainable_variables, *moving_state(model)]
    collectives.assert_same(
        collectives.digest_of(ops.convert_to_numpy(v.value) for v in variables),
        "the model's weights",
        "Something changed them on some ranks only: a callback, code under "
        "`is_primary()`, or faulty memory.",
    )


class BroadcastInitialState(keras.callbacks.Callback):
    """Makes all workers train the same model.

    It must be the first of the callbacks. When training begins, all ranks take
    over the state of rank 0, and their numbers of steps are compared. At the
    end of each epoch, and of the training, their weights are compared, bit by
    bit. A rank that waits for the others in a step for longer than the
    `timeout` of `ka.distributed.init` ends the job.

    On one process it does nothing.

    Raises:
        ValueError: When training begins, if the model is not compiled with a
            `DistributedOptimizer`.
        RuntimeError: On all ranks, if their models, steps or epochs differ.

    Example:

    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> ka.distributed.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(ka.distributed.DistributedOptimizer(
    ...     keras.optimizers.SGD(0.1 * ka.distributed.size())
    ... ), "mse")
    >>> history = model.fit(
    ...     *ka.distributed.shard((x, y)), verbose=0,
    ...     callbacks=[ka.distributed.BroadcastInitialState()],
    ... )
    """

    def on_train_begin(self, logs: Any = None) -> None:
        if collectives.size() == 1:
            return
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        collectives.assert_same(
            f"{steps} x {epochs}",
            "the number of steps and epochs",
            "Each rank needs the same number of batches; "
            "`ka.distributed.shard` splits data evenly.",
        )
        broadcast_initial_state(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        check_alike(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        check_alike(self.model)
        if (watchdog := collectives.watchdog()) is not None:
            watchdog.end()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (watchdog := collectives.watchdog()) is not None:
            watchdog.begin()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        watchdog = collectives.watchdog()
        if watchdog is None:
            return
        # JAX runs on while a step waits, until something asks for its values.
        if collectives.sees_all_batches():
            watchdog.begin()
        else:
            watchdog.end()

    on_test_batch_end = on_train_batch_end

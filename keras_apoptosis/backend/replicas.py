"""Acts on the replicas of a model under a `tf.distribute` strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras


def strategy_of(holder: Any) -> Any:
    """Returns the strategy over several replicas of a variable or model.

    Args:
        holder: What the backend holds a variable's value in, or a model.

    Returns:
        The strategy; `None` without one, and for one with a single replica.
    """
    name = "_distribute_strategy"
    if not isinstance(holder, keras.Model):
        name = "distribute_strategy"
    strategy = getattr(holder, name, None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return None
    return strategy


def scope_of(holder: Any) -> AbstractContextManager[Any]:
    """Returns a context to make a variable in, in place of another."""
    strategy = strategy_of(holder)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def replicas_of(holder: Any) -> list[Any]:
    """Returns the variables of all replicas; of other variables itself."""
    return list(holder.values) if strategy_of(holder) else [holder]


def sum_over_replicas(tensors: Sequence[Any]) -> tuple[list[Any], int]:
    """Sums tensors over the replicas, within a training step.

    Args:
        tensors: Tensors of this replica, or `None`.

    Returns:
        The sums, the same on all replicas, and how many those are.
    """
    context = _replica_context()
    if context is None:
        return list(tensors), 1
    import tensorflow as tf

    known = [each for each in tensors if each is not None]
    # Dense: of an embedding, replicas have different numbers of slices.
    dense = [tf.convert_to_tensor(each) for each in known]
    found = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, dense))
    count = context.num_replicas_in_sync
    return [None if each is None else next(found) for each in tensors], count


def max_over_replicas(tensor: Any) -> Any:
    """Returns the maximum of a tensor over the replicas, within a step."""
    context = _replica_context()
    if context is None:
        return tensor
    import tensorflow as tf

    return tf.reduce_max(context.all_gather(tensor[None], axis=0), axis=0)


def for_all_replicas(function: Callable[[], None]) -> None:
    """Runs a function once for all replicas, within a training step.

    What it assigns to variables reaches all replicas.
    """
    context = _replica_context()
    if context is None:
        function()
    else:
        context.merge_call(lambda strategy: function())


def _replica_context() -> Any:
    """Returns the context of one of several replicas, or `None`."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context

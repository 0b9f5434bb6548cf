"""Trains on several workers; does nothing on one process."""

from keras_apoptosis.distributed.broadcast import (
    BroadcastInitialState,
    broadcast_initial_state,
)
from keras_apoptosis.distributed.collectives import (
    alone,
    init,
    is_primary,
    rank,
    size,
)
from keras_apoptosis.distributed.learning_rate import LearningRateScaling
from keras_apoptosis.distributed.metric_average import MetricAverage
from keras_apoptosis.distributed.optimizer import DistributedOptimizer
from keras_apoptosis.distributed.sharding import shard, shuffled_batches

__all__ = [
    "BroadcastInitialState",
    "DistributedOptimizer",
    "LearningRateScaling",
    "MetricAverage",
    "alone",
    "broadcast_initial_state",
    "init",
    "is_primary",
    "rank",
    "shard",
    "shuffled_batches",
    "size",
]

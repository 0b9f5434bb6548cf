"""Engines that connect the processes of a training, one for each backend."""

from keras_apoptosis.distributed.engines.engine import Engine
from keras_apoptosis.distributed.engines.launched import (
    already_connected,
    launched,
    start,
)

__all__ = ["Engine", "already_connected", "launched", "start"]

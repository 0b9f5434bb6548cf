"""Selects what to remove, by scores or by statistics."""

from keras_apoptosis.selection.dead_units import dead_units
from keras_apoptosis.selection.inactive_units import inactive_units
from keras_apoptosis.selection.levels import LEVELS, Level
from keras_apoptosis.selection.mean_replacement import mean_replacements
from keras_apoptosis.selection.memory import memory_limit, set_memory_limit
from keras_apoptosis.selection.merge_error import error_bound
from keras_apoptosis.selection.parallel_units import (
    Merge,
    averaging,
    parallel_units,
    similar_outgoing,
)
from keras_apoptosis.selection.pursuit import (
    Choice,
    choose_units,
    refit,
    residual_after,
)
from keras_apoptosis.selection.sparse_units import sparse_units
from keras_apoptosis.selection.stripping import strip_weights

__all__ = [
    "LEVELS",
    "Choice",
    "Level",
    "Merge",
    "averaging",
    "choose_units",
    "dead_units",
    "error_bound",
    "inactive_units",
    "mean_replacements",
    "memory_limit",
    "parallel_units",
    "refit",
    "residual_after",
    "set_memory_limit",
    "similar_outgoing",
    "sparse_units",
    "strip_weights",
]

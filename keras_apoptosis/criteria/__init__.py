"""How expendable a unit or a weight is."""

from keras_apoptosis.criteria.dead_units import dead_units
from keras_apoptosis.criteria.inactivity import inactive_units
from keras_apoptosis.criteria.levels import LEVELS, Level
from keras_apoptosis.criteria.parallel import (
    Merge,
    averaging,
    parallel_units,
    similar_outgoing,
)
from keras_apoptosis.criteria.reconstruction import (
    Choice,
    choose_units,
    refit,
    residual_after,
)
from keras_apoptosis.criteria.stripping import strip_weights

__all__ = [
    "LEVELS",
    "Choice",
    "Level",
    "Merge",
    "averaging",
    "choose_units",
    "dead_units",
    "inactive_units",
    "parallel_units",
    "refit",
    "residual_after",
    "similar_outgoing",
    "strip_weights",
]

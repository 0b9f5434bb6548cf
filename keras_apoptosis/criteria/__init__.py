"""How expendable a unit or a weight is."""

from keras_apoptosis.criteria.dead_units import dead_units
from keras_apoptosis.criteria.levels import LEVELS, Level
from keras_apoptosis.criteria.named import criterion
from keras_apoptosis.criteria.parallel import (
    Merge,
    averaging,
    parallel_units,
    similar_outgoing,
)
from keras_apoptosis.criteria.random_scores import random
from keras_apoptosis.criteria.reconstruction import (
    Choice,
    choose_units,
    refit,
    residual_after,
)
from keras_apoptosis.criteria.sparse_units import sparse_units
from keras_apoptosis.criteria.stripping import strip_weights
from keras_apoptosis.criteria.unit_saliency import (
    l1_norm,
    l2_norm,
    mean_replacement_penalty,
    mean_replacement_saliency,
    mean_replacements,
)
from keras_apoptosis.criteria.weight_saliency import (
    hessian,
    loss_change,
    magnitude,
    taylor,
    taylor2,
)

__all__ = [
    "LEVELS",
    "Choice",
    "Level",
    "Merge",
    "averaging",
    "choose_units",
    "criterion",
    "dead_units",
    "hessian",
    "l1_norm",
    "l2_norm",
    "loss_change",
    "magnitude",
    "mean_replacement_penalty",
    "mean_replacement_saliency",
    "mean_replacements",
    "parallel_units",
    "random",
    "refit",
    "residual_after",
    "similar_outgoing",
    "sparse_units",
    "strip_weights",
    "taylor",
    "taylor2",
]

"""How expendable a unit or a weight is."""

from keras_apoptosis.criteria.gradient_flow import (
    cropit,
    normalization_scale,
    snap,
)
from keras_apoptosis.criteria.random_scores import random
from keras_apoptosis.criteria.registry import criterion
from keras_apoptosis.criteria.unit_saliency import (
    l1_norm,
    l2_norm,
    mean_replacement_penalty,
    mean_replacement_saliency,
)
from keras_apoptosis.criteria.weight_saliency import (
    hessian,
    loss_change,
    magnitude,
    taylor,
    taylor2,
)

__all__ = [
    "criterion",
    "cropit",
    "hessian",
    "l1_norm",
    "l2_norm",
    "loss_change",
    "magnitude",
    "mean_replacement_penalty",
    "mean_replacement_saliency",
    "normalization_scale",
    "random",
    "snap",
    "taylor",
    "taylor2",
]

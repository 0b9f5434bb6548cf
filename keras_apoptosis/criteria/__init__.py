"""Criteria: scores of how expendable units and weights are."""

from keras_apoptosis.criteria.gradient_flow import (
    cropit,
    normalization_scale,
    snap,
)
from keras_apoptosis.criteria.random_scores import random
from keras_apoptosis.criteria.registry import Criterion, get, names, register
from keras_apoptosis.criteria.unit_saliency import (
    l1_norm,
    mean_replacement_penalty,
    mean_replacement_saliency,
    squared_norm,
)
from keras_apoptosis.criteria.weight_saliency import (
    hessian,
    loss_change,
    magnitude,
    taylor,
    taylor2,
)

__all__ = [
    "Criterion",
    "cropit",
    "get",
    "hessian",
    "l1_norm",
    "loss_change",
    "magnitude",
    "mean_replacement_penalty",
    "mean_replacement_saliency",
    "names",
    "normalization_scale",
    "random",
    "register",
    "snap",
    "squared_norm",
    "taylor",
    "taylor2",
]

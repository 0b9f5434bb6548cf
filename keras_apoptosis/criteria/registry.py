"""Criteria by their names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras_apoptosis.criteria.gradient_flow import (
    cropit,
    normalization_scale,
    snap,
)
from keras_apoptosis.criteria.random_scores import random
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
from keras_apoptosis.utils.checks import check_choice

WEIGHTS: dict[str, Callable[..., Any]] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "taylor2": taylor2,
    "hessian": hessian,
    "absolute_taylor": functools.partial(taylor, absolute=True),
    "absolute_taylor2": functools.partial(taylor2, absolute=True),
    "absolute_hessian": functools.partial(hessian, absolute=True),
    "loss_change": loss_change,
    "random": functools.partial(random, structure="weights"),
}
UNITS: dict[str, Callable[..., Any]] = {
    "mean_replacement_penalty": mean_replacement_penalty,
    "mean_replacement_saliency": mean_replacement_saliency,
    "l1_norm": l1_norm,
    "l2_norm": l2_norm,
    "snap": snap,
    "cropit": cropit,
    "normalization_scale": normalization_scale,
    "random": functools.partial(random, structure="units"),
}
# Those of them that look at no data.
BLIND = (
    "magnitude",
    "random",
    "l1_norm",
    "l2_norm",
    "normalization_scale",
)

_NAMED = {"weights": WEIGHTS, "units": UNITS}


def criterion(given: Any, structure: str) -> Callable[..., Any]:
    """A criterion from its name, or as it is given.

    Args:
        given: A name, or a function of a model and a sample that returns
            scores as the named ones do.
        structure: `"weights"` or `"units"`.

    Raises:
        ValueError: If there is no such structure, or none of that name.

    Example:

    >>> criterion("magnitude", "weights").__name__
    'magnitude'
    """
    check_choice("structure", structure, _NAMED)
    if callable(given):
        return given
    if given not in _NAMED[structure]:
        raise ValueError(
            f"Expected a criterion of {structure}, a function or one of: "
            f"{', '.join(_NAMED[structure])}. Received: criterion={given!r}"
        )
    return _NAMED[structure][given]

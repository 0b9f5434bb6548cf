"""The error of a merge, before it is made: from weights, or on a sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.utils.checks import check_choice

# By how much two values at most this far apart differ after an activation.
# Sigmoid and tanh differ most where they are steepest, half to each side.
_APART: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda apart: apart,
    "relu": lambda apart: apart,
    "sigmoid": lambda apart: np.tanh(apart / 4),
    "tanh": lambda apart: 2 * np.tanh(apart / 2),
}


def error_bound(
    distance: Any, inputs: Any, outgoing: Any = 1.0, *, activation: str
) -> np.ndarray:
    """Bounds what merging two units changes, from weights alone.

    Neuron apoptosis, propositions 3 and 4, corrected. Unit 1 stands in for
    unit 2, so that `w₂ (f(v₂ · x) − f(α v₁ · x))` is missed (for ReLU and
    linear units `f(α v₁ · x) = α f(v₁ · x)`; for others α is 1). With
    `ε = ‖v₂ − α v₁‖` its length is at most

    - `|w₂| ε |x|` for ReLU: the other two terms of the paper's maximum, which
      are far larger, never matter;
    - `|w₂| tanh(ε |x| / 4)`, below `|w₂| min(1, ε |x| / 4)`, for sigmoid. The
      paper's formula, in which the maximum is taken over the numerator but
      not over `v₂ · x` in the denominator, can be below the error.

    With the root mean square of `x` along `v₂ − α v₁` in place of `|x|` it
    bounds the root mean square of the error: that is the estimate that events
    carry as residuals where there is no data, for inputs of unit variance.

    Args:
        distance: ε, numbers of at least 0: the distance of the incoming
            weights, biases included.
        inputs: `|x|`, likewise, with a 1 in `x` where there is a bias.
        outgoing: `|w₂|`, likewise. Defaults to 1, for the error in the
            activation itself.
        activation: `"linear"`, `"relu"`, `"sigmoid"` or `"tanh"`.

    Returns:
        The bound, of the shape to which the arguments broadcast.

    Raises:
        ValueError: If the activation is another one.

    Example:

    >>> ka.selection.error_bound([0.5, 1.0], 2.0, activation="relu")
    array([1., 2.])
    >>> ka.selection.error_bound([0.5, 4.0], 2.0, activation="sigmoid").round(3)
    array([0.245, 0.964])
    """
    check_choice("activation", activation, tuple(_APART))
    apart = np.multiply(distance, inputs, dtype="float64")
    return np.multiply(outgoing, _APART[activation](apart))


def measured_error(
    moments: Moments,
    removed: np.ndarray,
    combination: np.ndarray,
    constant: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Computes the error of replacing units, from their second moments.

    With `d` the difference of a removed unit and what replaces it, as
    coefficients of all units, `dᵀ C d + (dᵀ μ − c)²` is its mean square.

    Args:
        moments: Of all units of the group, with `gram`.
        removed: Shape `(removed,)`, integers. Indices of the units that go.
        combination: Shape `(removed, units)`: what replaces them, a
            combination of units.
        constant: Shape `(removed,)`: what is added to it.

    Returns:
        Shape `(removed,)`. Root mean square of the error.
    """
    apart = -np.asarray(combination, "float64")
    apart[np.arange(removed.size), removed] += 1.0
    spread = np.einsum("ru,ru->r", apart @ moments.covariance, apart)
    offset = apart @ moments.mean - constant
    return np.sqrt(np.maximum(spread, 0.0) + offset**2)

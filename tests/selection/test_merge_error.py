"""What a merge costs: bounds that hold, and second moments by hand."""

import numpy as np
import pytest

from keras_apoptosis.selection import error_bound
from keras_apoptosis.selection.merge_error import measured_error
from keras_apoptosis.statistics.moments import Moments

ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_bound_holds_and_is_tight(name):
    """Propositions 3 and 4, on 20,000 random pairs of units and inputs."""
    rng, activation = np.random.default_rng(0), ACTIVATIONS[name]
    one, apart, x, w = (
        rng.normal(size=(20_000, 2)) * rng.exponential(size=(20_000, 1))
        for _ in range(4)
    )
    alpha = (
        rng.exponential(size=(20_000, 1)) if name in ("linear", "relu") else 1.0
    )
    two = alpha * one + apart
    missed = activation((two * x).sum(1)) - activation((alpha * one * x).sum(1))
    error = np.linalg.norm(w * missed[:, None], axis=1)
    bound = error_bound(
        *(np.linalg.norm(each, axis=1) for each in (apart, x, w)),
        activation=name,
    )
    assert (error <= bound * (1 + 1e-9)).all()
    assert (error > 0.99 * bound).any()


def test_a_bound_by_hand():
    # Sigmoids at -1 and 1: 1 / (1 + 1/e) - 1 / (1 + e) = (e - 1) / (e + 1).
    assert error_bound(2, 1, activation="sigmoid") == pytest.approx(
        (np.e - 1) / (np.e + 1)
    )
    assert error_bound(0.25, 8, 3, activation="linear") == 6
    with pytest.raises(ValueError, match="`activation`"):
        error_bound(1, 1, activation="gelu")


def test_a_measured_error_by_hand():
    moments = Moments(3)
    moments.update(np.array([[1.0, 2.0, 0.0], [3.0, 2.0, 4.0]]))
    found = measured_error(
        moments,
        np.array([0, 2]),
        # Unit 0 as unit 1 and 1; unit 2 as half of units 0 and 1.
        np.array([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]),
        np.array([1.0, 0.0]),
    )
    # 1 - 3 and 3 - 3; 0 - 1.5 and 4 - 2.5.
    np.testing.assert_allclose(found, [2**0.5, 1.5])

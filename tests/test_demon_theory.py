"""Appendix B of the paper on demon pruning, beside simulations."""

import numpy as np
import pytest
from scipy.special import erf


@pytest.mark.parametrize("rate", [0.5, 2.0])
@pytest.mark.parametrize("start", [0.5, 1.0, 2.0])
def test_survival_of_an_absorbed_walk(rate, start):
    """Proposition B.1: P(w_t > 0) = erf(w_0 / sqrt(2 η t))."""
    rng = np.random.default_rng(0)
    walks, steps, time = 4000, 2000, 2.0
    width = np.sqrt(rate * time / steps)
    weight = np.full(walks, start)
    alive = np.ones(walks, bool)
    for _ in range(steps):
        moved = weight[alive] + width * rng.normal(size=alive.sum())
        weight[alive] = moved
        alive[alive] = moved > 0
    # In steps a walk may cross and return between two of them: the boundary
    # is as if it lay 0.5826 deviations of a step lower (Siegmund, 1979).
    theory = erf((start + 0.5826 * width) / np.sqrt(2 * rate * time))
    assert alive.mean() == pytest.approx(theory, abs=0.025)
    assert alive.mean() == pytest.approx(
        erf(start / np.sqrt(2 * rate * time)), abs=0.04
    )


def survivors(symmetric, steps=3000):
    """Walks between a lid at 2 and death at 0; noise moves the dead or not."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0, 2, 2000)
    for _ in range(steps):
        noise = 0.05 * rng.normal(size=weight.size)
        weight += noise if symmetric else np.where(weight > 0, noise, 0)
        weight = np.clip(weight, -2, 2)
    return (weight > 0).mean()


def test_noise_on_the_living_alone_kills_and_symmetric_noise_revives():
    """Section 2.2: the dead stay dead only where noise spares them."""
    assert survivors(symmetric=True) == pytest.approx(0.5, abs=0.05)
    assert survivors(symmetric=False) < 0.3


@pytest.mark.parametrize("rate", [0.05, 0.8])
def test_a_geometric_walk(rate):
    """Lemma B.2: |w_t| lies between exp(t(μ ± ε)) |w_0|."""
    rng = np.random.default_rng(0)
    curvature, spread = -0.1, 1.2
    noise = rng.uniform(-spread, spread, (2000, 4000))  # Walks and times.
    logs = np.log(np.abs(1 - rate * (curvature + noise)))
    # By integration, not from the sample.
    grid = np.linspace(-spread, spread, 200001)
    mean = np.log(1 - rate * (curvature + grid)).mean()
    slope = logs.mean(1)
    assert np.mean(np.abs(slope - mean) < 0.03) > 0.99


def test_noise_makes_an_unstable_direction_stable():
    """Lemma B.3: h < 0, and yet μ < 0 for some rates, by bound (15)."""
    curvature, spread = -0.1, 1.2
    grid = np.linspace(-spread, spread, 200001)
    variance = spread**2 / 3
    signs = {}
    for rate in (0.05, 0.8):
        mean = np.log(1 - rate * (curvature + grid)).mean()
        bound = (
            -rate * curvature
            - rate**2 / 2 * (curvature**2 + variance)
            - rate**3 / 3 * (curvature**3 + 3 * curvature * variance)
        )
        assert mean <= bound
        signs[rate] = mean < 0
    assert signs == {0.05: False, 0.8: True}

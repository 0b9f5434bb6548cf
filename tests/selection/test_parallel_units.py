"""The weight rule: by hand, and against a plain loop over all pairs."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_apoptosis.selection import (
    LEVELS,
    averaging,
    parallel_units,
    similar_outgoing,
)


def rows(*values):
    return np.array(values, "float32")


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], 1)


def summary(merge):
    return (
        merge.representatives.tolist(),
        dict(zip(merge.absorbed.tolist(), merge.into.tolist(), strict=True)),
    )


def test_the_scale_is_found_where_it_is_free():
    merge = parallel_units(
        rows([3, 4, 0, 0], [-3, -4, 0, 0], [6, 8, 0, 0], [0, 0, 0, 1]),
        1.75,
        scale_free=True,
    )
    # Unit 2 is the longest; unit 1 points the other way.
    assert summary(merge) == ([1, 2, 3], {0: 2})
    np.testing.assert_allclose(merge.scale, [0.5])
    np.testing.assert_allclose(merge.distance, [0.0], atol=1e-12)


# For v₁ = (4, 0, 0, 0), v₂ = (3, 1, 0, 0): with α = 12/16 the rest is
# (0, 1, 0, 0), so 1/√10 = 0.316 of ‖v₂‖; with α = 1 it is √2/√10 = 0.447.
@pytest.mark.parametrize(
    ("scale_free", "factor", "similar"),
    [
        (True, 2.5, True),  # 0.316 < 0.4
        (True, 3.0, True),  # 0.316 < 0.333
        (True, 3.3, False),  # 0.316 > 0.303
        (False, 2.0, True),  # 0.447 < 0.5
        (False, 2.5, False),  # 0.447 > 0.4
    ],
)
def test_the_distance_is_relative_to_the_absorbed_unit(
    scale_free, factor, similar
):
    merge = parallel_units(
        rows([3, 1, 0, 0], [4, 0, 0, 0]), factor, scale_free=scale_free
    )
    assert summary(merge) == (([1], {0: 1}) if similar else ([0, 1], {}))
    if similar:
        np.testing.assert_allclose(merge.scale, [0.75 if scale_free else 1])
        np.testing.assert_allclose(
            merge.distance, [math.sqrt((1 if scale_free else 2) / 10)]
        )


def test_without_a_free_scale_length_counts():
    vectors = rows([2, 0], [1, 0])
    assert summary(parallel_units(vectors, 1.5, scale_free=True))[1] == {1: 0}
    # ‖v₁ − v₀‖ = 1 is all of ‖v₁‖; but half of ‖v₀‖ the other way round.
    assert not parallel_units(vectors, 1.5, scale_free=False).absorbed.size
    merge = parallel_units(
        vectors, 1.5, scale_free=False, importance=np.array([0.0, 1.0])
    )
    assert summary(merge) == ([1], {0: 1})
    np.testing.assert_allclose(merge.distance, [0.5])


def test_no_chains_and_the_nearest_representative():
    # f = 2 is 30°. Unit 1 is absorbed at 25° from unit 0; so unit 2, at 45°,
    # must stay although it is near unit 1, and then is nearest to it.
    merge = parallel_units(
        at_angles(0, 25, 45),
        2.0,
        scale_free=True,
        importance=np.array([3.0, 2.0, 1.0]),
    )
    assert summary(merge) == ([0, 2], {1: 2})
    np.testing.assert_allclose(merge.scale, [math.cos(math.radians(20))])
    np.testing.assert_allclose(merge.distance, [math.sin(math.radians(20))])


def test_the_most_important_unit_stays():
    vectors = at_angles(0, 10, 20)
    for first in range(3):
        merge = parallel_units(
            vectors, 1.75, scale_free=True, importance=np.eye(3)[first]
        )
        assert merge.representatives.tolist() == [first]


@pytest.mark.parametrize("scale_free", [True, False])
def test_a_unit_without_weights_is_similar_to_none(scale_free):
    vectors = rows([0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
    merge = parallel_units(
        vectors,
        1.25,
        scale_free=scale_free,
        importance=np.array([9.0, 1.0, 9.0, 0.0]),
    )
    assert summary(merge) == ([0, 1, 2], {3: 1})


@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1.0, 1e30])
@pytest.mark.parametrize("factor", [1.75, 1e4])
def test_magnitude_does_not_matter(magnitude, factor):
    vectors = magnitude * rows([3, 4, 0], [6, 8, 0], [0, 0, 1])
    merge = parallel_units(vectors, factor, scale_free=True)
    assert summary(merge) == ([1, 2], {0: 1})


def test_a_large_factor_asks_for_nearly_exact_copies():
    # 1e-4 apart; float32 cosines, right to 1e-7, could not tell.
    vectors = np.array([[1.0, 0.0], [1.0, 1e-4]])
    for factor, absorbed in ((9e3, 1), (1.1e4, 0)):
        merge = parallel_units(vectors, factor, scale_free=True)
        assert merge.absorbed.size == absorbed


def plain_loop(vectors, factor, scale_free, importance):
    """The rule as it reads, one pair at a time."""

    def distance(one, two):
        if not (vectors[one].any() and vectors[two].any()):
            return math.inf
        alpha = 1.0
        if scale_free:
            alpha = vectors[one] @ vectors[two] / (vectors[one] @ vectors[one])
            if alpha <= 0:
                return math.inf
        missed = np.linalg.norm(vectors[two] - alpha * vectors[one])
        return missed / np.linalg.norm(vectors[two])

    representatives, absorbed = [], []
    for unit in sorted(range(len(vectors)), key=lambda u: -importance[u]):
        if any(distance(r, unit) < 1 / factor for r in representatives):
            absorbed.append(unit)
        else:
            representatives.append(unit)
    nearest = [
        min(distance(r, unit) for r in representatives)
        for unit in sorted(absorbed)
    ]
    pairs = [
        distance(one, two)
        for one in range(len(vectors))
        for two in range(len(vectors))
        if one != two
    ]
    return sorted(representatives), sorted(absorbed), nearest, pairs


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    units=st.integers(1, 12),
    size=st.integers(1, 4),
    factor=st.sampled_from([level.factor for level in LEVELS.values()]),
    scale_free=st.booleans(),
    weighted=st.booleans(),
)
def test_equals_a_plain_loop_over_all_pairs(
    seed, units, size, factor, scale_free, weighted
):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((units, size))
    vectors *= random.uniform(0.5, 2.0, (units, 1))
    vectors[random.random(units) < 0.1] = 0.0
    importance = random.random(units)
    if not weighted:
        importance = np.linalg.norm(vectors, axis=1)
    kept, absorbed, nearest, pairs = plain_loop(
        vectors, factor, scale_free, importance
    )
    # What hangs on the last digit may fall either way.
    assume(all(abs(pair - 1 / factor) > 1e-4 for pair in pairs))
    merge = parallel_units(
        vectors,
        factor,
        scale_free=scale_free,
        importance=importance if weighted else None,
    )
    assert merge.representatives.tolist() == kept
    assert merge.absorbed.tolist() == absorbed
    assert set(merge.into) <= set(kept)
    np.testing.assert_allclose(merge.distance, nearest, atol=1e-6)
    missed = (
        vectors[merge.absorbed] - merge.scale[:, None] * vectors[merge.into]
    )
    np.testing.assert_allclose(
        np.linalg.norm(missed, axis=1),
        merge.distance * np.linalg.norm(vectors[merge.absorbed], axis=1),
        atol=1e-9,
    )


def test_many_units_go_through_in_blocks():
    random = np.random.default_rng(0)
    proto = 10 * np.eye(5)[random.permutation(np.arange(300) % 5)]
    vectors = proto + 0.1 * random.standard_normal((300, 5))
    for scale_free in (True, False):
        merge = parallel_units(vectors, 2.5, scale_free=scale_free)
        assert merge.representatives.size == 5
        np.testing.assert_array_equal(proto[merge.absorbed], proto[merge.into])


def test_outgoing_weights_average_the_incoming_ones():
    outgoing = rows([4, 0], [2, 0], [0, 1], [1, 0])
    merge = similar_outgoing(outgoing, 1.75)
    assert summary(merge) == ([0, 2], {1: 0, 3: 0})
    np.testing.assert_allclose(merge.scale, [0.5, 0.25])
    # (v₀ + v₁ / 2 + v₃ / 4) / (1 + 1/2 + 1/4), proposition 1.2.
    np.testing.assert_allclose(
        averaging(merge, 4), [[4 / 7, 2 / 7, 0, 1 / 7], [0, 0, 1, 0]]
    )


def test_opposite_outgoing_weights_do_not_merge():
    merge = similar_outgoing(rows([2, 0], [-1, 0], [-2, 0]), 1.25)
    assert summary(merge) == ([0, 1], {2: 1}) or summary(merge) == (
        [0, 2],
        {1: 2},
    )
    assert (merge.scale > 0).all()


def test_a_merged_sigmoid_is_the_same_where_it_is_linear():
    # σ(x) ≈ 1/2 + x/4: both sides of the paper's equation 3, by hand.
    v = rows([1, 2], [3, -2], [-1, 1])
    w = rows([2, 4], [1, 2], [0.5, 1])
    merge = similar_outgoing(w, 1.75)
    assert summary(merge) == ([0], {1: 0, 2: 0})
    v_new = averaging(merge, 3) @ v
    # (1, 2) + (3, -2) / 2 + (-1, 1) / 4 = (2.25, 1.25), over 1.75.
    np.testing.assert_allclose(v_new, [[9 / 7, 5 / 7]])
    w_new = w.sum(0, keepdims=True)

    def linear(v, w, x):
        return (0.5 + x @ v.T / 4) @ w

    def exact(v, w, x):
        return 1 / (1 + np.exp(-(x @ v.T))) @ w

    x = np.random.default_rng(0).standard_normal((50, 2))
    np.testing.assert_allclose(linear(v, w, x), linear(v_new, w_new, x))
    # The next term is of third order: a tenth of x, a thousandth of the error.
    errors = [
        np.abs(exact(v, w, s * x) - exact(v_new, w_new, s * x)).max()
        for s in (0.1, 0.01)
    ]
    assert 900 < errors[0] / errors[1] < 1100


def test_levels_are_ordered():
    factors = [level.factor for level in LEVELS.values()]
    tolerances = [level.tolerance for level in LEVELS.values()]
    assert factors == sorted(factors, reverse=True)
    assert tolerances == sorted(tolerances)
    assert LEVELS["normal"].factor == 1.75  # Section V-B.


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 3)])
def test_nothing_to_compare(shape):
    merge = parallel_units(np.ones(shape), 1.75, scale_free=True)
    assert summary(merge) == (list(range(shape[0])), {})


@pytest.mark.parametrize("factor", [1, 0.5, -2, 0, math.nan, math.inf, "f"])
def test_wrong_factors(factor):
    with pytest.raises(ValueError, match=f"Received: factor={factor}"):
        parallel_units(np.eye(2), factor, scale_free=True)


@pytest.mark.parametrize(
    ("vectors", "importance", "message"),
    [
        (np.ones(3), None, r"of shape \(3,\)"),
        (np.full((2, 2), np.nan), None, r"in rows \[0, 1\]"),
        (np.array([[1, 2], [np.inf, 0]]), None, r"in rows \[1\]"),
        (np.eye(2), np.ones(3), "Expected `importance` as 2"),
        (np.eye(2), np.array([1, np.nan]), "Expected `importance` as 2"),
    ],
)
def test_wrong_arrays(vectors, importance, message):
    with pytest.raises(ValueError, match=message):
        parallel_units(vectors, 2, scale_free=True, importance=importance)


def test_averaging_another_number_of_units():
    with pytest.raises(ValueError, match="Received: units=3"):
        averaging(similar_outgoing(np.eye(2), 2), 3)

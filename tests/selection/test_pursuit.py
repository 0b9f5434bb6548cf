"""Reconstruction: by hand, and against least squares on the data itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_apoptosis.selection import choose_units, refit, residual_after

FEW = settings(max_examples=40, deadline=None)


def data_of(seed, rows=60, units=8, rank=None, noise=0.3):
    """Centred activations that hang together, and weights."""
    random = np.random.default_rng(seed)
    rank = rank or units
    values = random.standard_normal((rows, rank))
    values = values @ random.standard_normal((rank, units))
    values += noise * random.standard_normal(values.shape)
    values -= values.mean(0)
    return values, random.standard_normal((units, 3))


def gram_of(values):
    return values.T @ values / len(values)


def unexplained(values, weights, kept):
    """By least squares on the data: the other route."""
    target = values @ weights
    found, *_ = np.linalg.lstsq(values[:, kept], target, rcond=None)
    left = target - values[:, kept] @ found
    return np.linalg.norm(left) / np.linalg.norm(target)


def naive_choice(samples, tolerance):
    """Tries every unit in every step, by least squares on the data."""
    size, kept = samples[0][0].shape[1], []

    def left(units):
        return np.mean([unexplained(*each, units) ** 2 for each in samples])

    while not kept or left(kept) > tolerance**2:
        others = [unit for unit in range(size) if unit not in kept]
        kept.append(min(others, key=lambda unit: left([*kept, unit])))
    return sorted(kept)


@FEW
@given(
    seed=st.integers(0, 2**32 - 1),
    points=st.integers(1, 3),
    tolerance=st.sampled_from([0.03, 0.1, 0.3]),
)
def test_equals_trying_every_unit_on_the_data(seed, points, tolerance):
    samples = [data_of([seed, n], units=7, rank=4) for n in range(points)]
    choice = choose_units([(gram_of(v), w) for v, w in samples], tolerance)
    assert choice.kept.tolist() == naive_choice(samples, tolerance)
    both = np.concatenate([choice.kept, choice.removed])
    assert sorted(both) == list(range(7))
    np.testing.assert_allclose(
        choice.unexplained,
        [unexplained(*each, choice.kept) for each in samples],
        atol=1e-6,
    )
    assert np.mean(choice.unexplained**2) <= tolerance**2 or len(both) == 7


def test_one_step_by_hand():
    # Independent units, of variance 1, 4 and 9, read with weights 6, 2 and
    # 1: energies 36, 16 and 9 of 61.
    gram, weights = np.diag([1.0, 4.0, 9.0]), np.array([[6.0], [2.0], [1.0]])
    for tolerance, kept in ((0.7, [0]), (0.4, [0, 1]), (0.3, [0, 1, 2])):
        choice = choose_units([(gram, weights)], tolerance)
        assert choice.kept.tolist() == kept
        left = (61 - np.cumsum([36, 16, 9])[len(kept) - 1]) / 61
        np.testing.assert_allclose(choice.unexplained, [left**0.5])


def test_a_sum_is_recovered():
    # a₂ = a₀ + a₁ and a₃ = 2 a₀, the first two independent.
    base = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    gram, weights = base @ base.T, np.ones((4, 1))
    mean = base @ [3.0, 5.0] + [0, 0, 7.0, 0]
    choice = choose_units([(gram, weights)], 0.0)
    assert choice.kept.size == 2
    mixing, constant, residual = refit(
        gram, mean, choice.kept, choice.removed, ridge=0.0
    )
    np.testing.assert_allclose(
        mixing @ base[choice.kept], base[choice.removed], atol=1e-12
    )
    np.testing.assert_allclose(
        constant + mixing @ mean[choice.kept], mean[choice.removed]
    )
    np.testing.assert_allclose(residual, 0.0, atol=1e-7)


@FEW
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 6))
def test_units_that_depend_on_others_go(seed, rank):
    values, weights = data_of(seed, units=12, rank=rank, noise=0.0)
    gram = gram_of(values)
    choice = choose_units([(gram, weights)], 1e-4)
    assert choice.kept.size <= rank
    assert unexplained(values, weights, choice.kept) < 1.1e-4


def test_refit_by_hand():
    # On a₀ alone: 0.5 = G₀₁ / G₀₀; what is left is 3 − 1² / 2 = 2.5.
    gram, mean = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([10.0, 1.0])
    mixing, constant, residual = refit(gram, mean, [0], [1], ridge=0.0)
    np.testing.assert_allclose(mixing, [[0.5]])
    np.testing.assert_allclose(constant, [-4.0])
    np.testing.assert_allclose(residual, [2.5**0.5])
    # With the penalty 0.2 · (2 + 3) / 2 = 0.5: 1 / 2.5, and
    # 3 − 2 · 0.4 · 1 + 0.4² · 2 = 2.52 is left.
    mixing, constant, residual = refit(
        gram, mean, [0], [1], ridge=0.2, center=False
    )
    np.testing.assert_allclose(mixing, [[0.4]])
    assert constant.tolist() == [0.0]
    np.testing.assert_allclose(residual, [2.52**0.5])


@FEW
@given(seed=st.integers(0, 2**32 - 1), center=st.booleans())
def test_errors_are_those_on_the_data(seed, center):
    values, weights = data_of(seed)
    values = values + np.arange(8.0)
    mean = values.mean(0)
    gram = gram_of(values - mean if center else values)
    kept, removed = np.array([1, 2, 5, 7]), np.array([0, 3, 4, 6])
    mixing, constant, residual = refit(gram, mean, kept, removed, center=center)
    error = values[:, removed] - constant - values[:, kept] @ mixing.T
    np.testing.assert_allclose(residual, np.sqrt(np.mean(error**2, 0)))
    whole = (values - mean if center else values) @ weights
    np.testing.assert_allclose(
        residual_after(gram, weights, kept, mixing),
        np.linalg.norm(error @ weights[removed]) / np.linalg.norm(whole),
    )
    # Without a penalty it is the least-squares fit.
    mixing, *_ = refit(gram, mean, kept, removed, ridge=0.0, center=center)
    best, *_ = np.linalg.lstsq(
        np.column_stack([values[:, kept], np.full(len(values), 1.0 * center)]),
        values[:, removed],
        rcond=None,
    )
    assert best.shape == (5, 4)
    np.testing.assert_allclose(mixing, best[:4].T, atol=1e-6)


def test_dead_units_become_constants():
    values, weights = data_of(3)
    gram, mean = gram_of(values), np.arange(8.0)
    gram[[2, 5]] = gram[:, [2, 5]] = 0.0
    gram[5, 5] = 1e-9 * gram.trace()  # Nearly dead, with a huge weight.
    weights[5] = 100.0
    choice = choose_units([(gram, weights)], 0.0)
    assert choice.removed.tolist() == [2, 5]
    mixing, constant, _ = refit(gram, mean, choice.kept, choice.removed)
    np.testing.assert_allclose(mixing, 0.0)
    np.testing.assert_allclose(constant, [2.0, 5.0])


def test_a_unit_that_is_dead_at_one_point_counts_at_the_other():
    values, weights = data_of(4)
    gram, other = gram_of(values), gram_of(values)
    other[3] = other[:, 3] = 0.0
    read = weights.copy()
    read[[0, 1, 2, 4, 5, 6, 7]] = 0.0
    choice = choose_units([(other, weights), (gram, read)], 0.01)
    assert 3 in choice.kept


@pytest.mark.parametrize("all_points", [True, False])
def test_consumers_that_receive_nothing(all_points):
    values, weights = data_of(5)
    nothing = (np.zeros((8, 8)), weights)
    unread = (gram_of(values), np.zeros((8, 0)))
    if all_points:
        choice = choose_units([nothing, unread], 0.05, min_units=2)
        assert choice.kept.size == 2
        assert choice.unexplained.tolist() == [0.0, 0.0]
    else:
        read = (gram_of(values), weights)
        choice = choose_units([nothing, unread, read], 0.1)
        alone = choose_units([read], 0.1 * 3**0.5)  # The others' shares are 0.
        assert choice.kept.tolist() == alone.kept.tolist()
    mixing, constant, residual = refit(
        nothing[0], np.ones(8), choice.kept, choice.removed
    )
    assert not mixing.any()
    assert not residual.any()
    assert (constant == 1).all()


def test_less_is_kept_at_a_larger_tolerance():
    values, weights = data_of(6, units=40, rank=30)
    gram, more = gram_of(values), None
    for tolerance in (0.0, 0.02, 0.05, 0.1, 0.3, 0.6):
        kept = set(choose_units([(gram, weights)], tolerance).kept)
        assert more is None or kept <= more
        more = kept
    assert len(more) < 10


@pytest.mark.parametrize(
    ("min_units", "round_to", "expected"),
    [(1, 1, 5), (7, 1, 7), (1, 4, 8), (9, 4, 12), (1, 8, 8), (17, 8, 20)],
)
def test_counts_are_rounded_up(min_units, round_to, expected):
    # Energies 5², 4², … 1² of 55, then fifteen units that are not read.
    weights = np.zeros((20, 1))
    weights[:5, 0] = [5, 4, 3, 2, 1]
    choice = choose_units(
        [(np.eye(20), weights)], 0.1, min_units=min_units, round_to=round_to
    )
    assert choice.kept.size == expected
    assert set(range(5)) <= set(choice.kept)  # 1/55 is above 0.1².


def test_additional_units_are_the_next_best():
    values, weights = data_of(7, units=16)
    gram = gram_of(values)
    twelve = choose_units([(gram, weights)], 0.5, min_units=12)
    kept = choose_units([(gram, weights)], 0.5).kept
    assert kept.size < 12
    assert set(kept) < set(twelve.kept)
    step = unexplained(values, weights, twelve.kept)
    np.testing.assert_allclose(twelve.unexplained, [step])


def test_projected_weights_choose_about_as_well():
    random = np.random.default_rng(8)
    values, _ = data_of(8, rows=400, units=120, rank=100, noise=0.1)
    weights = random.standard_normal((120, 300))
    gram = gram_of(values)
    full = choose_units([(gram, weights)], 0.2, projection=300)
    fast = choose_units([(gram, weights)], 0.2, projection=64)
    assert abs(fast.kept.size - full.kept.size) <= 0.15 * full.kept.size
    # Honest about it, too, although units were chosen by a projection.
    true = unexplained(values, weights, fast.kept)
    np.testing.assert_allclose(fast.unexplained, [true], rtol=0.1)
    again = choose_units([(gram, weights)], 0.2, projection=64)
    assert again.kept.tolist() == fast.kept.tolist()
    other = choose_units([(gram, weights)], 0.2, projection=64, seed=1)
    assert other.kept.tolist() != fast.kept.tolist()


def test_many_units_take_several_blocks_of_the_factor():
    values, weights = data_of(9, rows=400, units=200)
    choice = choose_units([(gram_of(values), weights)], 0.005)
    assert choice.kept.size > 130
    np.testing.assert_allclose(
        choice.unexplained, [unexplained(values, weights, choice.kept)]
    )


def test_nothing_removed_or_nothing_kept():
    gram, mean = np.eye(3), np.arange(3.0)
    mixing, constant, residual = refit(gram, mean, [0, 1, 2], [])
    assert (mixing.shape, constant.shape, residual.shape) == (
        (0, 3),
        (0,),
        (0,),
    )
    mixing, constant, residual = refit(gram, mean, [], [0, 1, 2])
    assert mixing.shape == (3, 0)
    assert constant.tolist() == [0.0, 1.0, 2.0]
    assert residual.tolist() == [1.0, 1.0, 1.0]
    assert residual_after(gram, np.eye(3), [], mixing) == 1.0


EYE, ONES = np.eye(3), np.ones((3, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_units([(EYE, ONES)], -0.1), "tolerance=-0.1"),
        (lambda: choose_units([(EYE, ONES)], 1.0), "tolerance=1.0"),
        (lambda: choose_units([(EYE, ONES)], np.nan), "tolerance=nan"),
        (lambda: choose_units([(EYE, ONES)], 0, min_units=0), "min_units=0"),
        (lambda: choose_units([(EYE, ONES)], 0, round_to=1.5), "round_to=1.5"),
        (lambda: choose_units([(EYE, ONES)], 0, projection=0), "projection=0"),
        (lambda: choose_units([], 0), "at least one observation"),
        (lambda: choose_units([(ONES, ONES)], 0), r"shape \(3, 1\)"),
        (lambda: choose_units([(EYE, np.ones(3))], 0), r"shape \(3,\)"),
        (lambda: choose_units([(EYE, ONES[:2])], 0), r"shape \(2, 1\)"),
        (lambda: choose_units([(EYE / 0.0 * 0, ONES)], 0), "finite second"),
        (lambda: choose_units([(EYE, ONES * np.inf)], 0), "finite weights"),
        (
            lambda: choose_units([(EYE, ONES), (np.eye(1), ONES[:1])], 0),
            r"of \[1, 3\] units",
        ),
        (lambda: refit(EYE, np.ones(2), [0], [1, 2]), "`mean` as 3"),
        (lambda: refit(EYE, np.ones(3), [0], [1]), "each of 3 units"),
        (lambda: refit(EYE, np.ones(3), [0, 1], [1, 2]), "each of 3 units"),
        (lambda: refit(EYE, np.ones(3), [0], [1, 2], ridge=-1), "ridge=-1"),
        (
            lambda: refit(np.ones((3, 3)), np.ones(3), [0, 1], [2], ridge=0),
            "do not depend on each other",
        ),
        (lambda: residual_after(EYE, ONES, [0], np.ones((1, 2))), "`mixing`"),
        (lambda: residual_after(EYE, ONES, [5], np.ones((1, 2))), "3 units"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""`Moments` against NumPy on all observations at once, in any split."""

import copy
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_apoptosis.statistics import Moments, moments

FEW = settings(max_examples=25, deadline=None)


@pytest.fixture(params=["host", "host, few rows wait", "device"])
def where(request, monkeypatch):
    """The path over NumPy, and the one over the backend's own products."""
    if request.param == "device":
        monkeypatch.setattr(moments, "_on_host", lambda values: False)
    elif request.param != "host":
        monkeypatch.setattr(moments, "_WAITING", 5)
    return request.param


@st.composite
def samples(draw):
    """Observations, and the rows at which to split them into batches."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, units = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    values = random.standard_normal((rows, units))
    values *= draw(st.sampled_from([1e-3, 1.0, 30.0]))
    values += draw(st.sampled_from([0.0, -2.0, 500.0]))
    values = np.where(random.random(values.shape) < 0.2, 0.0, values)
    cuts = draw(st.lists(st.integers(0, rows), max_size=4).map(sorted))
    return values.astype("float32"), cuts


def gathered(parts, units, **options):
    found = Moments(units, **options)
    for part in parts:
        found.update(part)
    return found


def assert_equals_numpy(found, values):
    values = values.astype("float64")
    scale = np.abs(values).max() + 1e-30
    near = {"rtol": 1e-5, "atol": 1e-6}
    mean, count = values.mean(0), len(values)
    assert found.count == count
    np.testing.assert_allclose(found.mean / scale, mean / scale, **near)
    np.testing.assert_allclose(
        found.total / scale, count * mean / scale, **near
    )
    np.testing.assert_array_equal(found.max_abs, np.abs(values).max(0))
    np.testing.assert_array_equal(found.active, (values != 0).sum(0))
    squares = scale**2
    covariance = np.cov(values.T, bias=True).reshape(2 * mean.shape)
    np.testing.assert_allclose(
        found.variance / squares, covariance.diagonal() / squares, **near
    )
    if found.gram:
        np.testing.assert_allclose(
            found.covariance / squares, covariance / squares, **near
        )
        np.testing.assert_allclose(
            found.second_moment / squares,
            values.T @ values / count / squares,
            **near,
        )


@pytest.mark.parametrize("gram", [True, False])
def test_equals_numpy_in_any_split(gram):
    @FEW
    @given(samples())
    def check(sample):
        values, cuts = sample
        parts = np.split(values, cuts)
        found = gathered(parts, values.shape[1], gram=gram)
        assert_equals_numpy(found, values)

    check()


@pytest.mark.parametrize("gram", [True, False])
def test_merging_is_one_pass_in_any_grouping(gram):
    @FEW
    @given(samples())
    def check(sample):
        values, cuts = sample
        one, two, three, *rest = (
            gathered([part], values.shape[1], gram=gram)
            for part in np.split(values, (cuts + [len(values)] * 2)[:4])
        )
        left = copy.deepcopy(one)  # (one + two) + three
        left.merge(two)
        left.merge(three)
        right = copy.deepcopy(two)  # one + (two + three)
        right.merge(three)
        other = copy.deepcopy(one)
        other.merge(right)
        for each in (left, other):
            for part in rest:
                each.merge(part)
            assert_equals_numpy(each, values)

    check()


def test_numbers_by_hand(where):
    found = Moments(2, activity_tolerance=1.0)
    found.update(np.array([[1.0, -2.0], [3.0, 0.0]]))
    found.update(np.array([[5.0, 5.0], [7.0, 1.0]]))
    assert found.count == 4
    assert found.mean.tolist() == [4.0, 1.0]
    assert found.total.tolist() == [16.0, 4.0]
    # Around the means: (-3, -1, 1, 3) and (-3, -1, 4, 0).
    assert found.covariance.tolist() == [[5.0, 3.5], [3.5, 6.5]]
    assert found.variance.tolist() == [5.0, 6.5]
    assert found.second_moment.tolist() == [[21.0, 7.5], [7.5, 7.5]]
    assert found.max_abs.tolist() == [7.0, 5.0]
    assert found.active.tolist() == [3, 2]  # |a| > 1, not |a| >= 1.


def test_a_large_mean_cancels_nothing(where):
    random = np.random.default_rng(0)
    values = (1e4 + random.standard_normal((3000, 4))).astype("float32")
    found = gathered(np.split(values, 6), 4)
    exact = np.cov(values.astype("float64").T, bias=True)
    np.testing.assert_allclose(found.covariance, exact, atol=1e-5)
    # float32 products around zero would be off by 1e8 * 1e-7 = 10.


def test_double_precision_is_shifted_before_it_is_cut():
    values = 1e9 + np.array([[0.0], [1.0], [2.0], [3.0]])
    assert gathered([values], 1).variance.tolist() == [1.25]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32", "uint8"])
def test_other_types_are_cast_first(where, dtype):
    # 200² overflows half precision, 200 * 300 all of their sums.
    values = keras.ops.full((300, 2), 200, dtype=dtype)
    found = gathered([values, values[:100] * 0], 2)
    assert found.mean.tolist() == [150.0, 150.0]
    assert found.covariance.tolist() == [[7500.0, 7500.0], [7500.0, 7500.0]]
    assert found.active.tolist() == [300, 300]


def test_many_rows_at_once_equal_many_batches(where, monkeypatch):
    values = np.random.default_rng(1).gamma(1.0, size=(1000, 3))
    values = values.astype("float32")
    monkeypatch.setattr(moments, "_ROWS", 64)
    assert_equals_numpy(gathered([values], 3), values)


def test_goes_on_after_a_merge():
    values = np.random.default_rng(2).standard_normal((30, 3)) + 7
    values = values.astype("float32")
    one, two = gathered([values[:10]], 3), gathered([values[10:15]], 3)
    one.merge(two)
    one.update(values[15:])
    assert_equals_numpy(one, values)
    assert_equals_numpy(two, values[10:15])  # As it was.
    assert_equals_numpy(pickle.loads(pickle.dumps(one)), values)


def test_merging_with_empty_ones():
    full, empty = gathered([np.ones((3, 2))], 2), Moments(2)
    full.merge(Moments(2))
    empty.merge(full)
    for each in (full, empty):
        assert (each.count, each.mean.tolist()) == (3, [1.0, 1.0])


def test_constant_units_have_no_variance(where):
    found = gathered([np.full((100, 2), [0.1, 1e6], "float32")] * 3, 2)
    assert (found.variance <= 1e-12 * found.mean**2).all()
    assert (found.variance >= 0).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_change_nothing(where, wrong):
    found = gathered([np.ones((3, 3))], 3)
    values = np.ones((4, 3))
    values[2, 1] = wrong
    with pytest.raises(ValueError, match=r"in 1 units, the first \[1\]"):
        found.update(values)
    assert (found.count, found.mean.tolist()) == (3, [1.0] * 3)


def test_says_what_is_wrong():
    found = Moments(3)
    with pytest.raises(ValueError, match="Received: count=0"):
        _ = found.mean
    for wrong in (np.ones(3), np.ones((3, 2)), np.ones((1, 3, 3)), [1, 2]):
        with pytest.raises(ValueError, match=r"shape \(observations, 3\)"):
            found.update(wrong)
    for other in (Moments(2), Moments(3, gram=False), Moments(3, True, 1.0)):
        with pytest.raises(ValueError, match="Expected moments with"):
            found.merge(other)
    with pytest.raises(ValueError, match="gram=True"):
        _ = gathered([np.ones((2, 2))], 2, gram=False).covariance
    for wrong in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"Received: size={wrong}"):
            Moments(wrong)
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match="Received: activity_tolerance="):
            Moments(2, activity_tolerance=wrong)

"""`SampleGram` against the matrix that it stands for."""

import numpy as np
import pytest

from keras_apoptosis.selection import choose_units, refit
from keras_apoptosis.selection import pursuit as pursuit_file
from keras_apoptosis.statistics import Moments
from keras_apoptosis.statistics.sample_gram import SampleGram

RNG = np.random.default_rng(0)
# 60 units of rank 12, the first ones large, seen in 30 samples.
VALUES = RNG.normal(size=(30, 12)) @ RNG.normal(size=(12, 60))
VALUES = (VALUES * np.geomspace(4, 0.1, 60)).astype("float32")


@pytest.fixture
def moments():
    found = Moments(60)
    found.update(VALUES[:20])
    found.update(VALUES[20:])
    return found


@pytest.mark.parametrize("centered", [True, False])
def test_it_stands_for_the_second_moments(moments, centered):
    gram = moments.second_moments(centered)
    assert isinstance(gram, SampleGram)
    mean = VALUES.mean(0) if centered else 0.0
    exact = (VALUES - mean).T @ (VALUES - mean) / 30
    near = {"rtol": 1e-4, "atol": 1e-4}
    some, others = [3, 1], [0, 5, 2]
    weights = RNG.normal(size=(60, 4))
    np.testing.assert_allclose(gram[7], exact[7], **near)
    np.testing.assert_allclose(
        gram[np.ix_(some, others)], exact[np.ix_(some, others)], **near
    )
    np.testing.assert_allclose(gram @ weights, exact @ weights, **near)
    np.testing.assert_allclose(gram.diagonal(), exact.diagonal(), **near)
    assert gram.trace() == pytest.approx(exact.trace())


def test_products_are_taken_once_there_are_as_many_values_as_units(moments):
    few = moments.covariance
    np.testing.assert_allclose(few, np.cov(VALUES.T, bias=True), atol=1e-4)
    moments.update(VALUES)
    assert isinstance(moments.second_moments(True), np.ndarray)
    np.testing.assert_allclose(moments.covariance, few, atol=1e-4)


def test_the_same_units_are_kept_and_fitted(moments, monkeypatch):
    """With products multiplied out, and without."""
    monkeypatch.setattr(pursuit_file, "_BLOCK", 4)  # What is kept is taken off.
    weights = RNG.normal(size=(60, 5))
    gram, exact = moments.second_moments(True), moments.covariance
    found, usual = (
        choose_units([(each, weights)], 0.1) for each in (gram, exact)
    )
    assert 4 < found.kept.size < 12
    np.testing.assert_array_equal(found.kept, usual.kept)
    fits = (
        refit(each, moments.mean, usual.kept, usual.removed)
        for each in (gram, exact)
    )
    for one, other in zip(*fits, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)

"""Which weights go, worked out by hand."""

import numpy as np
import pytest

from keras_apoptosis.selection import strip_weights

# One unit a row, for reading; kernels have them as columns.
WEIGHTS = np.array(
    [
        [-1.0, 3.0, -5.0, 2.0, -4.0, 1.0, 0.0, -2.0, 5.0, -3.0],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0],
    ]
)


def gone(mask):
    """For each unit the places that are masked."""
    return [np.flatnonzero(~row).tolist() for row in mask.T]


def test_the_most_negative_of_each_dead_unit_go():
    mask = np.ones((10, 2), bool)
    mask = strip_weights(WEIGHTS.T, mask, [0], 0.3)
    assert gone(mask) == [[2, 4, 9], []]  # -5, -4 and -3.


def test_a_share_of_what_remains():
    mask = np.ones((10, 2), bool)
    mask = strip_weights(WEIGHTS.T, mask, [0], 0.3)
    # 30 % of 7 is 2.1: two more, -2 and -1.
    mask = strip_weights(WEIGHTS.T * mask, mask, [0], 0.3)
    assert gone(mask) == [[0, 2, 4, 7, 9], []]
    # 30 % of 5 is 1.5, which rounds to 2: 0 and 1, not those that are masked.
    mask = strip_weights(WEIGHTS.T * mask, mask, [0], 0.3)
    assert gone(mask) == [[0, 2, 4, 5, 6, 7, 9], []]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.14, 1), (0.16, 2)])
def test_rounded_but_one_at_least(share, count):
    mask = strip_weights(WEIGHTS.T, np.ones((10, 2), bool), [0, 1], share)
    assert [len(places) for places in gone(mask)] == [count, count]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 1.0])
def test_never_the_last(share):
    mask = np.ones((10, 2), bool)
    for _ in range(20):
        mask = strip_weights(WEIGHTS.T, mask, [0, 1], share)
    # The largest is left.
    assert [np.flatnonzero(row).tolist() for row in mask.T] == [[8], [9]]


def test_a_unit_without_weights_stays_so():
    mask = np.zeros((10, 2), bool)
    assert not strip_weights(WEIGHTS.T, mask, [0, 1], 0.5).any()


def test_equal_weights_go_in_their_order():
    mask = strip_weights(np.full((4, 1), -1.0), np.ones((4, 1), bool), [0], 0.5)
    assert gone(mask) == [[0, 1]]


def test_filters_of_a_convolution():
    """A filter's weights at all places and channels are one unit's."""
    kernel = WEIGHTS.reshape(2, 5, 2).transpose(1, 2, 0)
    mask = strip_weights(kernel, np.ones((5, 2, 2), bool), [0], 0.3)
    assert mask[..., 1].all()
    np.testing.assert_array_equal(
        np.flatnonzero(~mask[..., 0].ravel()), [2, 4, 9]
    )


def test_what_is_given_stays_as_it_was():
    kernel, mask = WEIGHTS.T.copy(), np.ones((10, 2), bool)
    strip_weights(kernel, mask, [0], 0.3)
    np.testing.assert_array_equal(kernel, WEIGHTS.T)
    assert mask.all()

"""Corrupted images: values worked out by hand, and all of them in [0, 1]."""

import keras
import numpy as np
import pytest

from examples import corruptions

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="it has no backend"
)
RANDOM = np.random.default_rng(0)


def test_brightness_keeps_hue_and_saturation():
    x = np.array([[[[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]]]])
    new = corruptions.brightness(x, 0.1, RANDOM)
    np.testing.assert_allclose(new, [[[[0.6, 0.3, 0], [0.1, 0.1, 0.1]]]])


def test_contrast_draws_to_the_mean_of_each_channel():
    x = np.array([[[[0.2], [0.6]]]])
    new = corruptions.contrast(x, 0.5, RANDOM)
    np.testing.assert_allclose(new, [[[[0.3], [0.5]]]])


def test_pixelate_joins_pixels():
    x = np.arange(16.0).reshape(1, 4, 4, 1).repeat(3, 3) / 255
    new = 255 * corruptions.pixelate(x, 0.5, RANDOM)[0, :, :, 0]
    # Means of four, 2.5 and so on, as Pillow rounds them.
    np.testing.assert_allclose(new, np.kron([[3, 5], [11, 13]], [[1, 1]] * 2))


def test_each_is_a_change_of_the_images():
    x = np.random.default_rng(1).random((2, 32, 32, 3), "float32")
    found = list(corruptions.corrupted(x))
    assert len(found) == 9 * 5
    for each in found:
        assert each.shape == x.shape
        assert each.min() >= 0
        assert each.max() <= 1
        assert np.abs(each - x).mean() > 0.005

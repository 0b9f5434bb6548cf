"""Corrupts images as CIFAR-10-C does (Hendrycks and Dietterich, 2019).

Nine of its nineteen corruptions in its five severities: those that take NumPy,
SciPy and Pillow alone, by the formulas and constants by which it was made.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

Random = np.random.Generator


def gaussian_noise(x: np.ndarray, scale: float, random: Random) -> np.ndarray:
    return x + random.normal(0, scale, x.shape)


def shot_noise(x: np.ndarray, photons: float, random: Random) -> np.ndarray:
    return random.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, share: float, random: Random) -> np.ndarray:
    """Makes a share of all values 0 or 1."""
    hit = random.random(x.shape) < share
    return np.where(hit, random.integers(2, size=x.shape), x)


def speckle_noise(x: np.ndarray, scale: float, random: Random) -> np.ndarray:
    return x + x * random.normal(0, scale, x.shape)


def gaussian_blur(x: np.ndarray, sigma: float, random: Random) -> np.ndarray:
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest")


def brightness(x: np.ndarray, added: float, random: Random) -> np.ndarray:
    """Adds to the value of HSV, which is the largest of red, green and blue."""
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + added, 1)
    scale = brighter / np.where(value > 0, value, 1)
    return np.where(value > 0, x * scale, brighter)


def contrast(x: np.ndarray, factor: float, random: Random) -> np.ndarray:
    means = x.mean((1, 2), keepdims=True)
    return (x - means) * factor + means


def pixelate(x: np.ndarray, factor: float, random: Random) -> np.ndarray:
    height, width = x.shape[1:3]
    small = int(width * factor), int(height * factor)

    def change(image: Image.Image) -> Image.Image:
        resized = image.resize(small, Image.Resampling.BOX)
        return resized.resize((width, height), Image.Resampling.BOX)

    return _each(x, change)


def jpeg(x: np.ndarray, quality: int, random: Random) -> np.ndarray:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(x, change)


# By severity.
CORRUPTIONS: dict[Callable, tuple] = {
    gaussian_noise: (0.04, 0.06, 0.08, 0.09, 0.10),
    shot_noise: (500, 250, 100, 75, 50),
    impulse_noise: (0.01, 0.02, 0.03, 0.05, 0.07),
    speckle_noise: (0.06, 0.10, 0.12, 0.16, 0.20),
    gaussian_blur: (0.4, 0.6, 0.7, 0.8, 1.0),
    brightness: (0.05, 0.10, 0.15, 0.20, 0.30),
    contrast: (0.75, 0.50, 0.40, 0.30, 0.15),
    pixelate: (0.95, 0.90, 0.85, 0.75, 0.65),
    jpeg: (80, 65, 58, 50, 40),
}


def corrupted(x: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields the images in each corruption and severity.

    Args:
        x: Images of values from 0 to 1.
        seed: Of the noise.
    """
    for number, (corrupt, severities) in enumerate(CORRUPTIONS.items()):
        for severity in severities:
            random = np.random.default_rng((seed, number))
            found = np.clip(corrupt(x, severity, random), 0, 1)
            # CIFAR-10-C has bytes.
            yield np.floor(255 * found).astype("float32") / 255


def _each(x: np.ndarray, change: Callable) -> np.ndarray:
    """Changes each image with Pillow, which takes bytes."""
    images = [Image.fromarray(each) for each in np.uint8(255 * x + 0.5)]
    return np.stack([np.asarray(change(image)) for image in images]) / 255

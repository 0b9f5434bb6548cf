"""Convolution layers that can be pruned."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.layers.prunable_kernel import PrunableKernel


class PrunableConv(PrunableKernel):
    """Base of the three ranks. A unit is an output channel."""

    @property
    def unit_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def call(self, inputs: Any) -> Any:
        return self._observe(super().call(inputs))


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class PrunableConv1D(PrunableConv, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a weight mask and activation statistics.

    Both are off until asked for; see `PrunableDense`. Every position of the
    output is a sample of the statistics.

    Args:
        *args: As for `keras.layers.Conv1D`, likewise all keyword arguments
            that are not listed here.
        track_statistics: Boolean, whether to keep statistics of every call,
            in training and in evaluation. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.
        masked: Boolean, whether to start with a mask, of ones. Defaults to
            `False`.

    Example:

    >>> import numpy as np
    >>> import keras_apoptosis as ka
    >>> layer = ka.layers.PrunableConv1D(4, 3, track_statistics=True)
    >>> layer(np.ones((2, 10, 3))).shape == (2, 8, 4)
    True
    >>> layer.statistics.count
    16.0
    """


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class PrunableConv2D(PrunableConv, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a weight mask and activation statistics.

    Both are off until asked for; see `PrunableDense`. Every position of the
    output is a sample of the statistics.

    Args:
        *args: As for `keras.layers.Conv2D`, likewise all keyword arguments
            that are not listed here.
        track_statistics: Boolean, whether to keep statistics of every call,
            in training and in evaluation. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.
        masked: Boolean, whether to start with a mask, of ones. Defaults to
            `False`.

    Example:

    >>> import numpy as np
    >>> import keras_apoptosis as ka
    >>> layer = ka.layers.PrunableConv2D(4, 3, padding="same")
    >>> layer.build((None, 8, 8, 1))
    >>> mask = np.ones((3, 3, 1, 4))
    >>> mask[..., 0] = 0  # The first channel sees nothing any more.
    >>> layer.set_mask(mask)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((1, 8, 8, 1))))
    >>> float(y[..., 0].max())
    0.0
    """


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class PrunableConv3D(PrunableConv, keras.layers.Conv3D):
    """`keras.layers.Conv3D` with a weight mask and activation statistics.

    Both are off until asked for; see `PrunableDense`. Every position of the
    output is a sample of the statistics.

    Args:
        *args: As for `keras.layers.Conv3D`, likewise all keyword arguments
            that are not listed here.
        track_statistics: Boolean, whether to keep statistics of every call,
            in training and in evaluation. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.
        masked: Boolean, whether to start with a mask, of ones. Defaults to
            `False`.

    Example:

    >>> import numpy as np
    >>> import keras_apoptosis as ka
    >>> layer = ka.layers.PrunableConv3D(4, 3, track_statistics=True)
    >>> layer(np.ones((2, 4, 4, 4, 1))).shape == (2, 2, 2, 2, 4)
    True
    >>> layer.statistics.count
    16.0
    """

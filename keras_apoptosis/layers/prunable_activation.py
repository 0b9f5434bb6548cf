"""An activation layer that keeps statistics."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.layers.activation_statistics import ActivationStatistics


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class PrunableActivation(ActivationStatistics, keras.layers.Activation):
    """`keras.layers.Activation` with activation statistics.

    It is for units whose activation stands apart from the layer that makes
    them, as after a `BatchNormalization`.

    Args:
        activation: As for `keras.layers.Activation`, likewise all keyword
            arguments that are not listed here.
        axis: Integer, the axis along which the units lie, counted with the
            batch; never the batch axis. Defaults to `-1`.
        track_statistics: Boolean, whether to keep statistics of every call,
            in training and in evaluation. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.

    Example:

    >>> import numpy as np
    >>> import keras_apoptosis as ka
    >>> layer = ka.layers.PrunableActivation("relu", track_statistics=True)
    >>> y = layer(np.array([[-1.0, 2.0], [-3.0, -4.0]]))
    >>> layer.statistics.max_abs.tolist()
    [0.0, 2.0]
    >>> layer.reset_statistics()
    >>> layer.statistics.count
    0.0
    """

    def __init__(self, activation: Any, axis: int = -1, **kwargs: Any) -> None:
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise ValueError(
                "`axis` must be an integer other than 0, which is the batch. "
                f"Received: axis={axis}"
            )
        super().__init__(activation, **kwargs)
        self.axis = axis

    @property
    def unit_axis(self) -> int:
        return self.axis

    def call(self, inputs: Any) -> Any:
        return self._observe(super().call(inputs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}

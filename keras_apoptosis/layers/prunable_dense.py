"""A dense layer that can be pruned."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.layers.prunable_kernel import PrunableKernel


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class PrunableDense(PrunableKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a weight mask and activation statistics.

    Both are off until asked for, and then the layer is a `Dense` in cost as in
    result. Set a mask by `layer.set_mask(mask)`: the masked entries of
    `layer.kernel` are exactly zero and get no gradient. Read the statistics
    of the output, after the activation, from `layer.statistics`.

    Args:
        *args: As for `keras.layers.Dense`, likewise all keyword arguments that
            are not listed here.
        track_statistics: Boolean, whether to keep statistics of every call,
            in training and in evaluation. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.
        masked: Boolean, whether to start with a mask, of ones; mostly for
            loading what was saved with a mask. Defaults to `False`.

    Input shape:
        `(batch_size, ..., input_dim)`.

    Output shape:
        `(batch_size, ..., units)`.

    Example:

    >>> import numpy as np
    >>> import keras_apoptosis as ka
    >>> layer = ka.layers.PrunableDense(
    ...     2,
    ...     activation="relu",
    ...     kernel_initializer="ones",
    ...     track_statistics=True,
    ... )
    >>> layer.build((None, 3))
    >>> layer.set_mask([[1, 0], [1, 0], [0, 0]])
    >>> y = layer(np.array([[1.0, 2.0, 3.0], [-4.0, 1.0, 9.0]]))
    >>> layer.statistics.total.tolist()
    [3.0, 0.0]
    >>> layer.statistics.active_share.tolist()
    [0.5, 0.0]
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._observe(super().call(inputs, training=training))

    def quantize(
        self, mode: Any = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Quantizes the kernel as `keras.layers.Dense` does.

        A mask is folded in: from then on its zeros are those of the kernel.

        Args:
            mode: As for `keras.layers.Dense`, likewise `config`.
            type_check: Boolean, whether to refuse to quantize subclasses.
            config: See `mode`.

        Raises:
            ValueError: If `mode` is `"float8"`, under which kernels go on
                training, and the layer has a mask.
        """
        if type_check and type(self) is not PrunableDense:
            raise self._not_implemented_error(self.quantize)
        if self.masked and mode == "float8":
            raise ValueError(
                f"Layer '{self.name}' has a mask, which a kernel of float8 "
                "cannot have. Fold it in by `ka.strip_pruning(model)`. "
                f"Received: mode={mode}"
            )
        if self.built:
            self.set_mask(None)
        super().quantize(mode, type_check=False, config=config)

    def quantized_call(self, *args: Any, **kwargs: Any) -> Any:
        # Keras calls this in the place of `call` under a quantized policy.
        return self._observe(super().quantized_call(*args, **kwargs))

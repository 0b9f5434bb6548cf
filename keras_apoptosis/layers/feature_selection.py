"""A layer that lets input features leave as units do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_apoptosis.backend import select


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class FeatureSelection(keras.layers.Layer):
    """Passes on some features of its input: all, until some are removed.

    A model keeps the shape of its input. To let its input features leave as
    units do, put this layer before the first layer that reads them: the
    features become a unit group like any other. Until one is removed it costs
    nothing, and then one gather.

    Args:
        indices: Integers, the features to pass on; `None` for all.
        axis: Axis of the features; the last by default, never the batch.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `axis` is the batch, or an index is not a feature.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     ka.layers.FeatureSelection(name="inputs"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> report = ka.shrink(model, ka.Removal({"inputs": [0, 3]}))
    >>> model.layers[0].indices, model.layers[1].kernel.shape[0]
    ([1, 2], 2)
    >>> model.input_shape
    (None, 4)
    """

    def __init__(
        self,
        indices: Sequence[int] | None = None,
        axis: int = -1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if axis == 0:
            raise ValueError(
                "The features cannot lie along the batch axis. "
                f"Received: axis={axis}"
            )
        self.axis = axis
        self.indices = None if indices is None else [int(i) for i in indices]

    def build(self, input_shape: tuple) -> None:
        size = input_shape[self.axis]
        if size is None:
            raise ValueError(
                f"The number of features along axis {self.axis} must be "
                f"known. Received: input_shape={input_shape}"
            )
        wrong = [i for i in self.indices or () if not 0 <= i < size]
        if wrong or self.indices == []:
            raise ValueError(
                f"Expected `indices` of some of {size} features. "
                f"Received: indices={self.indices}"
            )

    def call(self, inputs: Any) -> Any:
        if self.indices is None:
            return inputs
        return select(inputs, self.indices, self.axis)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = list(input_shape)
        if self.indices is not None:
            shape[self.axis] = len(self.indices)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        config = {"indices": self.indices, "axis": self.axis}
        return {**super().get_config(), **config}

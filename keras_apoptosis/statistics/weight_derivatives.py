"""Derivatives of a model's loss by its weights, over a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend import gradients
from keras_apoptosis.distributed import collectives
from keras_apoptosis.statistics.losses import sample_losses
from keras_apoptosis.statistics.streaming import labelled_batches


class WeightDerivatives:
    """The loss on a sample as a function of the trainable weights.

    The loss is the mean over the samples, in inference mode and without
    regularizers. The sample streams: one batch is held at a time. What is
    compiled is kept, so that an object is worth keeping until the model
    changes its shape.

    Args:
        model: A compiled model.
        loss: Instead of its loss; see `keras_apoptosis.losses`.

    Example:

    >>> from keras_apoptosis.statistics import WeightDerivatives
    >>> model = keras.Sequential([
    ...     keras.Input((1,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> model.compile(loss="mse")
    >>> _ = model.layers[0].kernel.assign([[3.0]])
    >>> sample = np.array([[1.0], [2.0]]), np.zeros((2, 1))
    >>> derivatives = WeightDerivatives(model)  # Of the mean of (3 x)².
    >>> derivatives.gradients(sample)[0].tolist()
    [[15.0]]
    >>> gradients, products = derivatives.hessian_products(sample, [[[1.0]]])
    >>> products[0].tolist()
    [[5.0]]
    """

    def __init__(self, model: keras.Model, loss: Any = None):
        self.model = model
        self.weights: list[keras.Variable] = list(model.trainable_variables)
        self._others = list(model.non_trainable_variables)
        self._losses = sample_losses(model, loss)
        self._loss = gradients.compiled(self._sum)
        self._gradients = gradients.compiled(
            lambda weights, *rest: gradients.value_and_gradients(
                lambda values: (self._sum(values, *rest), None), weights
            )[2]
        )
        self._products = gradients.compiled(
            lambda weights, vectors, *rest: gradients.hessian_products(
                lambda values: self._sum(values, *rest), weights, vectors
            )
        )

    def loss(
        self,
        data: Any,
        weights: Sequence[Any] | None = None,
        batch_size: int = 512,
    ) -> float:
        """Returns the mean loss.

        Args:
            data: The sample, `(x, y)` or batches of that.
            weights: Other values for the weights; as they are by default.
            batch_size: How many samples of an array to run at once.
        """
        total, count = 0.0, 0
        for rest, size in self._batches(data, batch_size):
            with gradients.no_gradients():
                value = self._loss(weights or self._values(), *rest)
            total += float(ops.convert_to_numpy(value))
            count += size
        total, count = collectives.all_reduce_sum(
            np.array([total, count], float), "loss"
        )
        return float(total / count)

    def gradients(self, data: Any, batch_size: int = 512) -> list[np.ndarray]:
        """Returns the gradient of the mean loss with respect to each weight.

        Args:
            data: The sample, `(x, y)` or batches of that.
            batch_size: How many samples of an array to run at once.
        """
        mean = _Mean()
        for rest, size in self._batches(data, batch_size):
            mean.add(self._gradients(self._values(), *rest), size)
        return mean.result()

    def hessian_products(
        self, data: Any, vectors: Sequence[Any], batch_size: int = 512
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Returns the gradient of the mean loss, and Hessian-vector products.

        Args:
            data: The sample, `(x, y)` or batches of that.
            vectors: The vector: one array for each of `weights`, of its
                shape.
            batch_size: How many samples of an array to run at once.
        """
        vectors = [
            ops.convert_to_tensor(vector, dtype=weight.dtype)
            for vector, weight in zip(vectors, self.weights, strict=True)
        ]
        gradients, products = _Mean(), _Mean()
        for rest, size in self._batches(data, batch_size):
            first, second = self._products(self._values(), vectors, *rest)
            gradients.add(first, size)
            products.add(second, size)
        return gradients.result(), products.result()

    def _values(self) -> list[Any]:
        return [backend.local_value(each) for each in self.weights]

    def _batches(
        self, data: Any, batch_size: int
    ) -> Iterator[tuple[tuple, int]]:
        others = [backend.local_value(each) for each in self._others]
        for x, y, weights in labelled_batches(data, batch_size):
            size = len(keras.tree.flatten(x)[0])
            yield (others, x, y, weights), size

    def _sum(
        self,
        weights: Sequence[Any],
        others: Sequence[Any],
        x: Any,
        y: Any,
        sample_weights: Any,
    ) -> Any:
        state = [
            *zip(self.weights, weights, strict=True),
            *zip(self._others, others, strict=True),
        ]
        with keras.StatelessScope(state_mapping=state):
            predictions = self.model(x, training=False)
            return ops.sum(self._losses(y, predictions, sample_weights))


class _Mean:
    """A mean over the samples of all workers, in double precision."""

    def __init__(self) -> None:
        self._totals: list[np.ndarray] = []
        self._count = 0

    def add(self, sums: Sequence[Any], size: int) -> None:
        arrays = [ops.convert_to_numpy(each) for each in sums]
        self._totals = self._totals or [np.zeros(a.shape) for a in arrays]
        for total, array in zip(self._totals, arrays, strict=True):
            total += array
        self._count += size

    def result(self) -> list[np.ndarray]:
        count = int(collectives.all_reduce_sum(np.array(self._count), "count"))
        return [
            collectives.all_reduce_sum(total, "derivatives") / count
            for total in self._totals
        ]

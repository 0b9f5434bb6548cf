"""Measures by how much the outputs of a model change, on data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.statistics.streaming import batches, sample_of


class OutputChange:
    """Compares the outputs of a model with those that it had before.

    Args:
        model: The model, as it is before.
        data: Inputs, as `fit` takes them; `None` to measure nothing.
        samples: How many samples to use at most.
        batch_size: Samples of a batch.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        samples: int = 4096,
        batch_size: int = 512,
    ):
        self.model = model
        self.data = None if data is None else sample_of(data, samples)
        self.batch_size = batch_size
        self._before = self._outputs()

    def measure(self) -> float | None:
        """Returns the root mean square of the change, relative to that before.

        Of several outputs all entries count alike. Returns `None` if there
        are no data.
        """
        if self.data is None:
            return None
        change = total = 0.0
        for one, other in zip(self._before, self._outputs(), strict=True):
            change += float(np.sum(np.square(other - one)))
            total += float(np.sum(np.square(one)))
        return float(np.sqrt(change / total)) if total else 0.0

    def _outputs(self) -> list[np.ndarray]:
        """Returns the outputs of floats, batch by batch."""
        if self.data is None:
            return []
        backend.sync_from_jax(self.model)
        found: list[np.ndarray] = []
        with backend.inference_scope(self.model):
            for inputs in batches(self.data, self.batch_size):
                outputs = self.model(inputs, training=False)
                found.extend(
                    ops.convert_to_numpy(each).astype("float64")
                    for each in keras.tree.flatten(outputs)
                    if "float" in keras.backend.standardize_dtype(each.dtype)
                )
        return found

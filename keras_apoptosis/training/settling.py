"""Measures whether the weights of a model have settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend


class WeightMovement:
    """Measures, epoch by epoch, how far weights move away from the first.

    After each epoch it takes `‖w − w₁‖ / ‖w₁‖`, where w₁ are the weights
    after the first epoch, and by how much that has changed since the epoch
    before; see `ka.schedules.WhenSettled`.

    Attributes:
        moves: The change of the distance in the second epoch and in each one
            since.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins with the weights after the next epoch as the first."""
        self.moves: list[float] = []
        self._reference: list[np.ndarray] = []
        self._distance = 0.0

    def get_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps."""
        return {
            "moves": self.moves,
            "reference": self._reference,
            "distance": self._distance,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self.moves = list(state["moves"])
        self._reference = list(state["reference"])
        self._distance = state["distance"]

    def forget_weights(self) -> None:
        """Drops the first weights, which take as much memory as the model."""
        self._reference = []

    def measure(self, model: keras.Model) -> None:
        """Records the move of an epoch that is over."""
        backend.sync_from_jax(model)
        # On PyTorch the arrays would go on changing with the weights.
        weights = [
            np.array(backend.peek(weight))
            for weight in model.trainable_variables
        ]
        if [w.shape for w in weights] != [r.shape for r in self._reference]:
            # The first epoch, or units have been removed since.
            self._reference, self._distance, self.moves = weights, 0.0, []
            return
        pairs = list(zip(weights, self._reference, strict=True))
        distance = _norm(w - r for w, r in pairs)
        distance /= max(_norm(r for _, r in pairs), 1e-12)
        self.moves.append(abs(distance - self._distance))
        self._distance = distance


def _norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(a.astype("float64") ** 2) for a in arrays)))

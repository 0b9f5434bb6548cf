"""The common base of prunable layers with a kernel."""

from __future__ import annotations

from typing import Any

import keras

from keras_apoptosis.layers.activation_statistics import ActivationStatistics
from keras_apoptosis.layers.weight_mask import WeightMask


class PrunableKernel(WeightMask, ActivationStatistics):
    """Mixin: a mask, statistics, and saving both.

    Keras' dense and convolution layers save a fixed list of variables, under
    numbers. Those that pruning adds are saved beside them, under their names.
    """

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for variable in self._added_variables():
            store[variable.name] = variable

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        for variable in self._added_variables():
            variable.assign(store[variable.name])

    def _added_variables(self) -> list[keras.Variable]:
        added = [self.kernel_mask, *self.statistics_variables]
        return [each for each in added if each is not None]

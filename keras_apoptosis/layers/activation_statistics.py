"""Streaming statistics of a layer's activations, per unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import activations, ops

from keras_apoptosis.backend import (
    build_shapes,
    is_exporting,
    max_over_replicas,
    sum_over_replicas,
    unlocked,
)
from keras_apoptosis.layers.mixin import LayerMixin
from keras_apoptosis.layers.unit_statistics import UnitStatistics
from keras_apoptosis.utils.checks import check_size

# What never returns a negative number: |a| is a, which saves a pass over it.
NON_NEGATIVE = (
    activations.exponential,
    activations.hard_sigmoid,
    activations.relu,
    activations.relu6,
    activations.sigmoid,
    activations.softmax,
    activations.softplus,
    activations.sparse_plus,
    activations.sparse_sigmoid,
    activations.squareplus,
)


class ActivationStatistics(LayerMixin):
    """Mixin: a layer that keeps statistics of its output, per unit.

    It stands before a Keras layer with an `activation` in the list of bases;
    `call` hands the output to `_observe`. Every call counts: training,
    evaluation, prediction. A layer that is called twice in a model counts
    both calls, and padded steps of a sequence count like others. As any layer
    that updates variables, it does not go with `keras.RematScope`. To read or
    reset statistics in the middle of an epoch on JAX, call
    `model.jax_state_sync()` first.

    The statistics are non-trainable float32 variables under any dtype policy,
    and are saved with the model. Counts are exact up to 2^24 (16.8 million)
    and grow on after that, rounded to 7 digits with each batch: 32-bit integers
    would overflow within 40 epochs on a 32x32 feature map of CIFAR-10, and
    64-bit ones do not exist on every backend.

    Args:
        track_statistics: Boolean, whether to keep statistics. Without, the
            layer costs what a plain one does.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it.
    """

    def __init__(
        self,
        *args: Any,
        track_statistics: bool = False,
        activity_tolerance: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_size("activity_tolerance", activity_tolerance)
        self.track_statistics = bool(track_statistics)
        self.activity_tolerance = float(activity_tolerance)
        self.statistics_count: Any = None
        self.statistics_total: Any = None
        self.statistics_max_abs: Any = None
        self.statistics_active: Any = None

    @property
    def unit_axis(self) -> int:
        """Axis of the output along which the units lie."""
        return -1

    @property
    def statistics_variables(self) -> list[keras.Variable]:
        """The variables that hold the statistics; empty without tracking."""
        variables = (
            self.statistics_count,
            self.statistics_total,
            self.statistics_max_abs,
            self.statistics_active,
        )
        return [each for each in variables if each is not None]

    @property
    def statistics(self) -> UnitStatistics | None:
        """The statistics since the last reset; `None` without tracking."""
        if not self.statistics_variables:
            return None
        count, total, max_abs, active = (
            ops.convert_to_numpy(variable.value)
            for variable in self.statistics_variables
        )
        return UnitStatistics(float(count), total, max_abs, active)

    def reset_statistics(self) -> None:
        """Starts the statistics anew."""
        for variable in self.statistics_variables:
            # From NumPy: JAX lets zeros of its own wait for the steps that are
            # still under way.
            variable.assign(np.zeros(variable.shape, "float32"))

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if not self.track_statistics:
            return
        self._add_statistics(input_shape)

    def start_tracking(self) -> None:
        """Keeps statistics from now on, if the layer does not yet."""
        if not self.track_statistics:
            self.track_statistics = True
            if self.built:
                shapes = build_shapes(self) or {}
                self._add_statistics(shapes["input_shape"])

    def _add_statistics(self, input_shape: Any) -> None:
        units = self._number_of_units(input_shape)
        with unlocked(self):
            self.statistics_count = self._add_statistic("count", ())
            self.statistics_total = self._add_statistic("total", (units,))
            self.statistics_max_abs = self._add_statistic("max_abs", (units,))
            self.statistics_active = self._add_statistic("active", (units,))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "track_statistics": self.track_statistics,
            "activity_tolerance": self.activity_tolerance,
        }

    def _observe(self, outputs: Any) -> Any:
        """Counts the outputs in, if asked to, and returns them."""
        if not self.track_statistics or is_exporting(outputs):
            return outputs
        values = ops.stop_gradient(ops.cast(outputs, "float32"))
        units = self.statistics_total.shape[0]
        size = values if self.activation in NON_NEGATIVE else ops.abs(values)
        active = ops.cast(ops.greater(size, self.activity_tolerance), "float32")
        count = ops.cast(ops.size(values) // units, "float32")
        largest = max_over_replicas(self._per_unit(ops.max, size))
        sums = [
            count,
            self._per_unit(ops.sum, values),
            self._per_unit(ops.sum, active),
        ]
        (count, total, active), _ = sum_over_replicas(sums)
        self.statistics_count.assign_add(count)
        self.statistics_total.assign_add(total)
        self.statistics_max_abs.assign(
            ops.maximum(self.statistics_max_abs, largest)
        )
        self.statistics_active.assign_add(active)
        return outputs

    def _per_unit(self, reduce: Callable[..., Any], values: Any) -> Any:
        # Over the batch first: with TensorFlow's CPU kernels the statistics
        # of a small MNIST CNN then add 25 % to a step instead of 31 %. XLA
        # does not mind.
        unit_axis = self.unit_axis % values.ndim - 1
        values = reduce(values, axis=0)
        others = [axis for axis in range(values.ndim) if axis != unit_axis]
        return reduce(values, axis=others) if others else values

    def _number_of_units(self, input_shape: Any) -> int:
        shape = tuple(self.compute_output_shape(input_shape))
        axis = self.unit_axis
        # The batch axis holds samples, never units.
        if not (0 < axis < len(shape) or -len(shape) < axis < 0):
            raise ValueError(
                f"Layer '{self.name}' tracks statistics along axis {axis}, "
                "which its output does not have besides the batch axis. "
                f"Received: output shape {shape}"
            )
        if shape[axis] is None:
            raise ValueError(
                f"Layer '{self.name}' tracks statistics along axis {axis}, "
                "whose size must be known when the layer is built. "
                f"Received: output shape {shape}"
            )
        return shape[axis]

    def _add_statistic(
        self, name: str, shape: tuple[int, ...]
    ) -> keras.Variable:
        return self.add_weight(
            name=f"statistics_{name}",
            shape=shape,
            initializer="zeros",
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",  # All have the same.
        )

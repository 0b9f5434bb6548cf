"""Lets the slots of Ftrl follow weights that a removal has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend.optimizers import weights_of, with_inner

# From a weight's old and new value, and a function that keeps of an array
# what is kept of the weight, to the new value of a slot.
NewSlot = Callable[
    [np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]], np.ndarray
]


def implied_slots(
    optimizer: keras.Optimizer,
) -> Iterator[tuple[keras.Variable, keras.Variable, NewSlot]]:
    """Finds the slots from which an optimizer computes weights anew.

    Other optimizers add to a weight; Ftrl sets it to `(clip(linear) - linear)
    / quadratic` in each step, and would forget what a consumer has absorbed.

    Args:
        optimizer: A built optimizer.

    Yields:
        The weight, the slot, and the function that computes the new value of
        the slot.
    """
    for each in with_inner(optimizer):
        if isinstance(each, keras.optimizers.Ftrl) and each.built:
            for weight, linear, accumulator in zip(
                weights_of(each),
                each._linears,
                each._accumulators,
                strict=True,
            ):
                yield weight, linear, _linear(each, linear, accumulator)


def _linear(
    optimizer: keras.optimizers.Ftrl,
    linear: keras.Variable,
    accumulator: keras.Variable,
) -> NewSlot:
    def value(
        old: np.ndarray,
        new: np.ndarray,
        keep: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        kept = [
            keep(ops.convert_to_numpy(slot.value)).astype("float64")
            for slot in (linear, accumulator)
        ]
        l1 = optimizer.l1_regularization_strength
        l2 = 2 * optimizer.l2_regularization_strength + optimizer.beta / rate
        power = -optimizer.learning_rate_power
        quadratic = kept[1] ** power / rate + l2
        shift = quadratic * (new - old) + l1 * (np.sign(new) - np.sign(old))
        # Between -l1 and l1 `linear` makes 0, whatever it is.
        start = np.where((old == 0) & (new != 0), 0.0, kept[0])
        return start - shift

    return value

"""Clears what an optimizer remembers of weights that are masked."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_apoptosis import keras_state


def clear_slots(
    optimizer: keras.Optimizer, masks: Mapping[int, np.ndarray]
) -> None:
    """Puts the slots of masked weights back to where they started.

    What momentum there is would go on moving a masked weight, and scale its
    first steps should the mask be lifted. Slots that have other axes than
    their weight, as the rows and columns of Adafactor, hold no numbers of
    single weights and stay.

    Args:
        optimizer: A built optimizer.
        masks: For weights, by `id`, their mask: boolean, `False` where the
            weight is masked.
    """
    weights = keras_state.weights_of(optimizer)
    for slot, axes in keras_state.slots_of(optimizer, weights):
        index, _ = next(axis for axis in axes if axis is not None)
        mask = masks.get(id(weights[index]))
        if mask is None or axes != [(index, a) for a in range(mask.ndim)]:
            continue
        value = ops.convert_to_numpy(slot.value)
        start = np.asarray(_start(optimizer, slot), value.dtype)
        slot.assign(np.where(mask, value, start))


def _start(optimizer: keras.Optimizer, slot: keras.Variable) -> float:
    """The value with which a slot begins: 0 but for some accumulators.

    With 0 in its accumulator Ftrl divides by it.
    """
    if slot.name.endswith("_accumulator") and "gradient" not in slot.name:
        return getattr(optimizer, "initial_accumulator_value", 0.0)
    return 0.0

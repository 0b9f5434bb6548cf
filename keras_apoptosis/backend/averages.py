"""Finds the copies of weights that optimizers keep."""

from __future__ import annotations

import keras

from keras_apoptosis.backend.optimizers import weights_of, with_inner

# Slots that hold weights, not what was gathered from gradients.
COPIES = {
    # The sequence that gradients move; the weights are between it and its
    # mean (Defazio et al., The road less scheduled, 2024).
    keras.optimizers.ScheduleFreeAdamW: "_momentums",
}


def weight_copies(
    optimizer: keras.Optimizer,
) -> list[dict[int, keras.Variable]]:
    """Finds the copies of weights that an optimizer keeps.

    These are the moving averages of `use_ema=True`, which also
    `keras.callbacks.SwapEMAWeights` swaps with the weights, and slots that are
    weights themselves. Whatever happens to weights by an affine map happens
    to their copies by the same map.

    Args:
        optimizer: A built optimizer.

    Returns:
        For each kind of copies the variables that hold them, by `id` of the
        weight. An optimizer made of several has one set of averages.
    """
    averages: dict[int, keras.Variable] = {}
    others: dict[int, keras.Variable] = {}
    for each in with_inner(optimizer):
        if not each.built:
            continue
        found = [(averages, "_model_variables_moving_average")]
        for kind, name in COPIES.items():
            if isinstance(each, kind):
                found.append((others, name))
        for copies, name in found:
            for weight, copy in zip(
                weights_of(each), getattr(each, name, ()), strict=False
            ):
                if copy is not None:
                    copies[id(weight)] = copy
    return [copies for copies in (averages, others) if copies]

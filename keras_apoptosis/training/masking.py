"""Masks weights of a model while it trains, so that they stay zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend import (
    clear_slots,
    kernel_mask_of,
    kernel_of,
    layers_inside,
    models_of,
    step_hooks,
)
from keras_apoptosis.distributed import collectives
from keras_apoptosis.layers.weight_mask import WeightMask

# Without a gradient, and with their slots cleared, these do not change a weight
# of zero. Others, such as Muon, mix the entries of a matrix.
ENTRYWISE = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Adafactor,
    keras.optimizers.Nadam,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
    keras.optimizers.Lamb,
)


def masked_layers(model: keras.Model) -> list[WeightMask]:
    """Returns the layers of a model that have a mask."""
    return [
        layer
        for layer in layers_inside(model)
        if kernel_mask_of(layer) is not None
    ]


def masked_count(model: keras.Model) -> int:
    """Counts the masked weights of a model."""
    return sum(int((~mask_of(each)).sum()) for each in masked_layers(model))


def mask_of(layer: WeightMask) -> np.ndarray:
    """Returns a layer's mask, boolean; all `True` if it has none."""
    mask = kernel_mask_of(layer)
    if mask is None:
        kernel = kernel_of(layer)
        assert kernel is not None, "a built layer with a mask has a kernel"
        return np.ones(kernel.shape, bool)
    return ops.convert_to_numpy(mask.value)


def check_maskable(
    model: keras.Model, layers: Mapping[str, WeightMask]
) -> None:
    """Checks that layers can be masked, before anything changes.

    Args:
        model: The model.
        layers: The layers to mask, by name.

    Raises:
        ValueError: If a layer is quantized, or the model is distributed over
            devices.
    """
    for name, layer in layers.items():
        if layer.quantization_mode is not None:
            raise ValueError(
                "The weights of quantized layers cannot be masked. "
                f"Received: layer '{name}' with "
                f"dtype_policy={layer.dtype_policy.name}"
            )
    backend.check_devices(model)


def mask_weights(
    model: keras.Model, masks: Mapping[WeightMask, np.ndarray]
) -> None:
    """Sets masks, so that what they mask stays exactly zero in training.

    It may be called from a callback, also in the middle of an epoch. The slots
    of the optimizer are cleared for masked weights. Some optimizers move
    weights by the gradients of others; then masked weights are reset to zero
    after each update, in the compiled step. Only the averages of such an
    optimizer (`use_ema`) may differ from zero.

    Args:
        model: The model; compiled, if it is to be trained.
        masks: For layers of it, boolean arrays of their kernels' shapes. The
            same on all workers.

    Raises:
        RuntimeError: On all workers, if their masks differ. Nothing is
            changed then.
    """
    collectives.assert_same(
        collectives.digest_of(masks.values()),
        "the masks of weights",
        "Each rank must decide by the same weights, seeds and statistics that "
        "are summed over ranks.",
    )
    backend.sync_from_jax(model)
    first = any(layer.kernel_mask is None for layer in masks)
    for layer, mask in masks.items():
        layer.set_mask(mask)
    # Other models may share the layers.
    holders = backend.holders_of(model)
    kernels = {id(kernel_of(layer)): mask for layer, mask in masks.items()}
    for optimizer in holders.optimizers:
        clear_slots(optimizer, kernels)
    for each in holders.models:
        if getattr(each, "optimizer", None) is not None:
            _hold(each)
    if first:
        # The steps were traced without this mask. Layers get a mask only once
        # weights are masked: it costs time in every step.
        for each in holders.models:
            backend.forget_compiled(each)
    backend.sync_to_jax(model)


class _KeptZeros(step_hooks.StepHook):
    """Puts masked weights back to zero after each update."""

    def __init__(self, model: keras.Model):
        self.model = model

    def build(self, weights: Sequence[keras.Variable]) -> None:
        self._masks = {
            id(kernel_of(layer)): self.add_variable(mask_of(layer), "bool")
            for layer in masked_layers(self.model)
        }

    def after(self, weights: list[keras.Variable]) -> None:
        for weight in weights:
            mask = self._masks.get(id(weight))
            if mask is not None:
                mask, value = map(ops.convert_to_tensor, (mask, weight))
                weight.assign(ops.where(mask, value, 0))


def _hold(model: keras.Model) -> None:
    if type(backend.innermost(model.optimizer)) in ENTRYWISE:
        return
    for hook in step_hooks.hooks_of(model.optimizer):
        if isinstance(hook, _KeptZeros):
            with step_hooks.without_hooks(model.optimizer):
                pass  # It is built again, with the new masks.
            for each in models_of(model):
                backend.forget_compiled(each)
            return
    step_hooks.attach(model, _KeptZeros(model))

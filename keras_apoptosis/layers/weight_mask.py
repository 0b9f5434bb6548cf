"""A persistent mask over a layer's kernel."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend import unlocked
from keras_apoptosis.layers.mixin import LayerMixin


class WeightMask(LayerMixin):
    """Mixin: a kernel of which some entries are off.

    It stands before a Keras layer with a `kernel` in the list of bases. The
    mask is absent until it is used: no variable, and no cost in `call`.

    What counts is `kernel`: its masked entries are exactly zero, and so are
    their gradients. The variable behind it, which `get_weights()` shows, is
    zeroed when the mask is set, but may drift afterwards by what an optimizer
    does without a gradient (momentum gathered before, noise). Nothing depends
    on the drift except regularizers, which Keras applies to the variable.
    `apply_mask()` sets it back.

    Args:
        masked: Boolean, whether `build` creates a mask, of ones. Saved models
            use it to make place for the mask that they restore.
    """

    def __init__(self, *args: Any, masked: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.masked = bool(masked)
        self.kernel_mask: Any = None

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.masked:
            self._add_mask()

    @property
    def kernel(self) -> Any:
        """The kernel that the forward pass uses, masked entries zero."""
        kernel = super().kernel
        if self.kernel_mask is None:
            return kernel
        return self._masked(kernel)

    def set_mask(self, mask: Any) -> None:
        """Replaces the mask.

        Keras compiles a model's steps once: where the first mask of a layer
        appears or its mask is removed after `fit` or `evaluate`, drop the
        model's compiled functions (`model.make_train_function(force=True)`
        and likewise for testing and prediction), or compile the model again.
        Changing an existing mask needs nothing of the kind. In the middle of
        an epoch on JAX, call `model.jax_state_sync()` before any of these.

        Args:
            mask: Array of the kernel's shape, boolean or of zeros and ones;
                the kernel is zero where the mask is. `None` removes the mask,
                and what it had zeroed starts from zero.

        Raises:
            ValueError: If the layer is not built or is quantized, or the mask
                has another shape or other values.
        """
        if not self.built:
            raise ValueError(
                f"Layer '{self.name}' must be built before its mask can be "
                f"set: only then is the kernel's shape known. Received: "
                f"mask={mask}"
            )
        if mask is not None:
            mask = self._checked(mask)
        self.apply_mask()
        if mask is not None:
            if self.kernel_mask is None:
                self._add_mask()
            self.kernel_mask.assign(mask)
            self.apply_mask()
        elif self.kernel_mask is not None:
            del self.kernel_mask  # Keras forgets the variable.
            self.kernel_mask = None
        self.masked = mask is not None

    def apply_mask(self) -> None:
        """Zeroes the masked entries of the variable behind `kernel`."""
        if self.kernel_mask is not None:
            self._kernel.assign(self._masked(self._kernel))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "masked": self.masked}

    def _masked(self, kernel: Any) -> Any:
        # Not a product: that would turn an infinity into NaN, in the kernel
        # as in its gradient.
        return ops.where(
            ops.convert_to_tensor(self.kernel_mask),
            ops.convert_to_tensor(kernel),
            0,
        )

    def _add_mask(self) -> None:
        if self.quantization_mode is not None:
            raise ValueError(
                f"Layer '{self.name}' is quantized, and a quantized kernel "
                "cannot be masked. Received: "
                f"dtype_policy={self.dtype_policy.name}"
            )
        with unlocked(self):
            self.kernel_mask = self.add_weight(
                name="kernel_mask",
                shape=self._kernel.shape,
                initializer="ones",
                dtype="bool",
                trainable=False,
            )

    def _checked(self, mask: Any) -> np.ndarray:
        if isinstance(mask, keras.Variable):
            mask = mask.value
        mask = np.asarray(ops.convert_to_numpy(mask))
        if mask.shape != tuple(self._kernel.shape):
            raise ValueError(
                f"The mask of layer '{self.name}' must have the shape of its "
                f"kernel, {tuple(self._kernel.shape)}. Received: mask of shape "
                f"{mask.shape}"
            )
        wrong = mask[~np.isin(mask, (0, 1))]
        if wrong.size:
            raise ValueError(
                f"The mask of layer '{self.name}' must be boolean or hold "
                f"zeros and ones only. Received: {wrong.size} other values, "
                f"among them {wrong.flat[0]}"
            )
        return mask.astype(bool)

"""Networks that several benchmarks share."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def resnet_20(side: int = 16) -> keras.Model:
    """The ResNet-20 of He et al., with projections as shortcuts."""
    inputs = keras.Input((side, side, 3))
    x = layers.ReLU(name="relu")(normalized(inputs, 16, name="conv"))
    for stage, width in enumerate((16, 32, 64)):
        for number in range(3):
            name = f"block{stage}_{number}"
            stride = 2 if stage and not number else 1
            y = normalized(x, width, stride, name=f"{name}_a")
            y = layers.ReLU(name=f"{name}_relu_a")(y)
            y = normalized(y, width, name=f"{name}_b")
            if stride > 1:
                x = normalized(x, width, stride, 1, name=f"{name}_shortcut")
            x = layers.ReLU(name=f"{name}_relu")(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x))


def normalized(
    x: Any, width: int, stride: int = 1, size: int = 3, *, name: str
) -> Any:
    """A convolution with batch normalization."""
    if stride > 1 and size > 1:
        # PyTorch cannot pad as "same" does with strides.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    padding = "same" if stride == 1 else "valid"
    x = layers.Conv2D(
        width, size, stride, padding, use_bias=False, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)

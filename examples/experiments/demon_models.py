"""The networks of the paper on demon pruning, with widths and depths.

Section 4: ResNet-18 and VGG-16 with batch normalization on CIFAR-10, ResNet-50
and ViT-B/16 on ImageNet. Their own widths and depths are the defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

MEAN = (0.4914, 0.4822, 0.4465)
DEVIATION = (0.2023, 0.1994, 0.2010)


def resnet_18(
    shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    width: int = 64,
    depth: Sequence[int] = (2, 2, 2, 2),
    activation: str = "relu",
    augment: bool = False,
) -> keras.Model:
    """A ResNet of basic blocks, with the stem for CIFAR.

    Args:
        shape: Shape of an image.
        classes: Number of classes.
        width: Channels of the first stage; each other has twice as many as
            the one before.
        depth: Blocks of each stage.
        activation: Such as `"leaky_relu"` (appendix F.7).
        augment: Whether to crop and to flip at random.
    """
    inputs, x = _images(shape, augment)
    x = layers.Activation(activation)(_normalized(x, width, 3))
    for stage, blocks in enumerate(depth):
        filters = width * 2**stage
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = _normalized(x, filters, 3, strides)
            y = _normalized(layers.Activation(activation)(y), filters, 3)
            if strides != 1 or x.shape[-1] != filters:
                x = _normalized(x, filters, 1, strides)
            x = layers.Activation(activation)(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def resnet_50(
    shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    width: int = 64,
    depth: Sequence[int] = (3, 4, 6, 3),
    activation: str = "relu",
    augment: bool = False,
) -> keras.Model:
    """A ResNet of bottleneck blocks, with the stem for ImageNet.

    Args:
        shape: Shape of an image.
        classes: Number of classes.
        width: Channels of the first stage's 3 x 3 convolutions.
        depth: Blocks of each stage.
        activation: The activation.
        augment: Whether to crop and to flip at random.
    """
    inputs, x = _images(shape, augment)
    x = layers.Activation(activation)(_normalized(x, width, 7, 2))
    x = layers.MaxPooling2D(3, 2, "same")(x)
    for stage, blocks in enumerate(depth):
        filters = width * 2**stage
        for block in range(blocks):
            strides = 2 if stage and not block else 1
            y = layers.Activation(activation)(_normalized(x, filters, 1))
            y = _normalized(y, filters, 3, strides)
            y = _normalized(layers.Activation(activation)(y), 4 * filters, 1)
            if not block:
                x = _normalized(x, 4 * filters, 1, strides)
            x = layers.Activation(activation)(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def vgg_16(
    shape: Sequence[int] = (64, 64, 3),
    classes: int = 10,
    width: int = 64,
    depth: Sequence[int] = (2, 2, 3, 3, 3),
    activation: str = "relu",
    augment: bool = False,
) -> keras.Model:
    """A VGG with batch normalization and one dense layer at its end.

    Args:
        shape: Shape of an image; the paper resizes CIFAR-10 to 64 pixels.
        classes: Number of classes.
        width: Channels of the first stage; later ones have up to 8 times.
        depth: Convolutions of each stage.
        activation: The activation.
        augment: Whether to crop and to flip at random.
    """
    inputs, x = _images(shape, augment)
    for stage, count in enumerate(depth):
        for _ in range(count):
            x = _normalized(x, width * min(2**stage, 8), 3)
            x = layers.Activation(activation)(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def vit_b16(
    shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    width: int = 768,
    depth: Sequence[int] = (12,),
    activation: str = "gelu",
    augment: bool = False,
    patch: int = 16,
    heads: int = 12,
) -> keras.Model:
    """A vision transformer; its units that can die are those of its MLPs.

    Args:
        shape: Shape of an image.
        classes: Number of classes.
        width: Width of the stream; MLPs have 4 times as many units.
        depth: Number of blocks.
        activation: That of the MLPs; the paper also takes `"relu"`.
        augment: Whether to crop and to flip at random.
        patch: Side of a patch.
        heads: Heads of the attention.
    """
    inputs, x = _images(shape, augment)
    x = layers.Conv2D(width, patch, patch, name="patches")(x)
    x = layers.Reshape((-1, width))(x)
    x = _Positions(name="positions")(x)
    for _ in range(depth[0]):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(4 * width, activation=activation)(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


def small_cnn(
    shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    width: int = 32,
    depth: Sequence[int] = (2,),
    activation: str = "relu",
    augment: bool = False,
) -> keras.Model:
    """Makes strided convolutions with normalization, and a dense layer.

    Args:
        shape: Shape of an image.
        classes: Number of classes.
        width: Channels.
        depth: Number of convolutions.
        activation: The activation.
        augment: Has no effect.
    """
    x = inputs = keras.Input(tuple(shape))
    for _ in range(depth[0]):
        x = layers.Conv2D(width, 3, strides=2, use_bias=False)(x)
        x = layers.Activation(activation)(layers.BatchNormalization()(x))
    x = layers.Dense(classes, name="logits")(layers.Flatten()(x))
    return keras.Model(inputs, x)


def mlp(
    shape: Sequence[int] = (28, 28, 1),
    classes: int = 10,
    width: int = 256,
    depth: Sequence[int] = (2,),
    activation: str = "relu",
    augment: bool = False,
    normalize: bool = False,
    growth: int = 1,
) -> keras.Model:
    """Makes an MLP.

    Args:
        shape: Shape of a row.
        classes: Number of classes.
        width: Units of the first hidden layer.
        depth: Number of hidden layers.
        activation: The activation.
        augment: Has no effect.
        normalize: Whether hidden layers have batch normalizations.
        growth: Units of a hidden layer, as a multiple of the one before.
    """
    inputs = keras.Input(tuple(shape))
    x = layers.Flatten()(inputs)
    for number in range(depth[0]):
        units = width * growth**number
        x = layers.Dense(units, use_bias=not normalize)(x)
        if normalize:
            x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation(activation)(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x))


MODELS = {
    "growing_mlp": functools.partial(mlp, growth=3),
    "mlp": mlp,
    "normalized_growing_mlp": functools.partial(mlp, normalize=True, growth=3),
    "normalized_mlp": functools.partial(mlp, normalize=True),
    "resnet_18": resnet_18,
    "resnet_50": resnet_50,
    "small_cnn": small_cnn,
    "vgg_16": vgg_16,
    "vit_b16": vit_b16,
}


@keras.saving.register_keras_serializable("examples")
class _Positions(layers.Layer):
    """Adds a trained position to each patch."""

    def build(self, shape: tuple) -> None:
        self.position = self.add_weight(
            shape=(1, *shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="position",
        )

    def call(self, patches: Any) -> Any:
        return patches + self.position


def _images(shape: Sequence[int], augment: bool) -> tuple[Any, Any]:
    x = inputs = keras.Input(tuple(shape))
    if augment:
        x = layers.ZeroPadding2D(shape[0] // 8)(x)  # 4 for 32 pixels.
        x = layers.RandomCrop(*shape[:2])(x)
        x = layers.RandomFlip("horizontal")(x)
    variance = [each**2 for each in DEVIATION]
    return inputs, layers.Normalization(mean=MEAN, variance=variance)(x)


def _normalized(x: Any, filters: int, size: int, strides: int = 1) -> Any:
    x = layers.Conv2D(
        filters,
        size,
        strides,
        "same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    return layers.BatchNormalization(momentum=0.9)(x)

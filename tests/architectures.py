"""Models for the contract tests."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def mlp():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="one"),
            layers.Dropout(0.5),
            layers.Dense(7, activation="tanh", name="two"),
            layers.Dense(3, name="logits"),
        ]
    )


def mlp_normalized():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, use_bias=False, name="one"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(7, name="two"),
            layers.LeakyReLU(name="leaky"),
            layers.BatchNormalization(name="norm_after"),
            layers.Dense(3, name="logits"),
        ]
    )


def cnn():
    return keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            layers.Conv2D(6, 3, activation="relu", name="one"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Conv2D(5, 2, padding="same", activation="elu", name="two"),
            layers.AveragePooling2D(2, padding="same", name="average"),
            layers.Flatten(name="flat"),
            layers.Dense(4, activation="relu", name="three"),
            layers.Dense(3, name="logits"),
        ]
    )


def cnn_normalized():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(6, 3, use_bias=False, name="one"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.ZeroPadding2D(((1, 0), (0, 2)), name="pad"),
            layers.Conv2D(5, 3, strides=2, use_bias=False, name="two"),
            layers.BatchNormalization(scale=False, name="norm_two"),
            layers.Activation("gelu", name="gelu"),
            layers.Cropping2D(1, name="crop"),
            layers.SpatialDropout2D(0.3),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, name="logits"),
        ]
    )


def conv_1d():
    return keras.Sequential(
        [
            keras.Input((12, 3)),
            layers.Conv1D(6, 3, padding="causal", name="one"),
            layers.MaxPooling1D(2, name="pool"),
            layers.Conv1D(5, 3, activation="sigmoid", name="two"),
            layers.GlobalMaxPooling1D(name="last"),
            layers.Dense(2, name="logits"),
        ]
    )


def conv_3d():
    return keras.Sequential(
        [
            keras.Input((5, 5, 5, 1)),
            layers.Conv3D(4, 2, activation="relu", name="one"),
            layers.AveragePooling3D(2, name="pool"),
            layers.Conv3D(5, 2, padding="same", name="two"),
            layers.Flatten(),
            layers.Dense(2, name="logits"),
        ]
    )


def residual():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU(name="stem_relu")(x)
    for block in "ab":
        y = layers.Conv2D(5, 3, padding="same", name=f"{block}_one")(x)
        y = layers.BatchNormalization(name=f"{block}_norm_one")(y)
        y = layers.ReLU(name=f"{block}_relu_one")(y)
        y = layers.Conv2D(6, 3, padding="same", name=f"{block}_two")(y)
        y = layers.BatchNormalization(name=f"{block}_norm_two")(y)
        x = layers.Add(name=f"{block}_add")([x, y])
        x = layers.ReLU(name=f"{block}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def branches():
    x = inputs = keras.Input((8, 8, 3))
    one = layers.Conv2D(4, 3, padding="same", activation="relu", name="one")(x)
    two = layers.Conv2D(5, 1, activation="relu", name="two")(x)
    x = layers.Concatenate(name="both")([one, two, inputs])
    x = layers.BatchNormalization(name="norm")(x)
    three = layers.Conv2D(4, 3, padding="same", name="three")(x)
    x = layers.Concatenate(name="more")([three, one])
    flat = layers.Flatten(name="flat")(x)
    pooled = layers.GlobalMaxPooling2D(name="pool")(two)
    x = layers.Concatenate(name="all")([flat, pooled])
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def nested():
    inner_in = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="inner_one")(inner_in)
    x = layers.Add(name="inner_add")(
        [layers.Dense(6, name="back")(x), inner_in]
    )
    inner = keras.Model(inner_in, x, name="inner")
    head = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, "relu", name="deep")], name="head"
    )
    inputs = keras.Input((3,))
    x = layers.Dense(6, activation="relu", name="outer")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="logits")(head(inner(x))))


def shared():
    """A layer and a model that are called twice."""
    one, two = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    first = layers.Dense(6, activation="relu", name="first")
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "relu", name="second")],
        name="twice",
    )
    x = layers.Concatenate(name="join")([inner(first(one)), inner(first(two))])
    return keras.Model([one, two], layers.Dense(2, name="logits")(x))


def two_outputs():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="trunk")(inputs)
    one = layers.Dense(5, activation="relu", name="side")(x)
    return keras.Model(
        inputs,
        {
            "a": layers.Dense(2, name="head_a")(one),
            "b": layers.Dense(3, name="head_b")(
                layers.Average(name="mean")([x, layers.Dense(6, name="o")(one)])
            ),
        },
    )


CATALOGUE = {
    build.__name__: build
    for build in (
        mlp,
        mlp_normalized,
        cnn,
        cnn_normalized,
        conv_1d,
        conv_3d,
        residual,
        branches,
        nested,
        shared,
        two_outputs,
    )
}


def randomize(model: keras.Model, seed: int) -> keras.Model:
    """Gives every weight, biases and normalizations too, a random value."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "variance" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) < 2:
            sign = rng.choice([-1, 1], shape)
            variable.assign(sign * rng.uniform(0.3, 1.0, shape))
        else:
            fan_in = np.prod(shape[:-1])
            variable.assign(rng.normal(size=shape) * np.sqrt(2 / fan_in))
    return model


def sample(model: keras.Model, size: int = 8, seed: int = 0):
    """Returns random inputs for a model: rows of tables, where it has some."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(4, size=(size, *each.shape[1:]))
        if "int" in each.dtype
        else rng.normal(size=(size, *each.shape[1:])).astype("float32")
        for each in model.inputs
    ]
    return arrays if len(arrays) > 1 else arrays[0]

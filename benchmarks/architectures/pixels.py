"""Images, videos and points to as many outputs, or to images."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

SIDE, CLASSES = 16, 4
registered = keras.saving.register_keras_serializable(package="pixels")


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def u_net() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same")(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    kept = x
    for filters in (24, 32):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        straight = layers.Conv2D(filters, 1, strides=2, padding="same")(kept)
        kept = x = layers.add([x, straight])
    for filters in (32, 24, 16):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.Conv2DTranspose(filters, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        straight = layers.UpSampling2D(2)(kept)
        straight = layers.Conv2D(filters, 1, padding="same")(straight)
        kept = x = layers.add([x, straight])
    x = layers.Conv2D(CLASSES, 3, activation="softmax", padding="same")(x)
    return keras.Model(inputs, x)


def block(x, filters=24, size=3, rate=1, bias=False):
    x = layers.Conv2D(
        filters, size, dilation_rate=rate, padding="same", use_bias=bias
    )(x)
    return ops.nn.relu(layers.BatchNormalization()(x))


def deep_lab() -> keras.Model:
    inputs = keras.Input((32, 32, 3))
    early = layers.MaxPooling2D()(block(block(inputs, 16), 16))
    x = early
    for filters in (24, 32):
        y = block(block(x, filters, 1), filters)
        y = layers.BatchNormalization()(layers.Conv2D(filters, 1)(y))
        x = layers.Conv2D(filters, 1)(x)
        x = layers.MaxPooling2D()(ops.relu(layers.add([x, y])))
    side = x.shape[1]
    y = layers.AveragePooling2D(side)(x)
    y = layers.UpSampling2D(side, interpolation="bilinear")(
        block(y, size=1, bias=True)
    )
    rates = [block(x, size=3 if r > 1 else 1, rate=r) for r in (1, 2, 3)]
    x = block(layers.Concatenate(axis=-1)([y, *rates]), size=1)
    x = layers.UpSampling2D(4, interpolation="bilinear")(x)
    x = layers.Concatenate(axis=-1)([x, block(early, 12, 1)])
    x = block(block(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(inputs, layers.Conv2D(CLASSES, 1, padding="same")(x))


def denoising_autoencoder() -> keras.Model:
    x = inputs = keras.Input((SIDE, SIDE, 1))
    for _ in range(2):
        x = layers.Conv2D(32, 3, activation="relu", padding="same")(x)
        x = layers.MaxPooling2D(2, padding="same")(x)
    for _ in range(2):
        x = layers.Conv2DTranspose(
            32, 3, strides=2, activation="relu", padding="same"
        )(x)
    x = layers.Conv2D(1, 3, activation="sigmoid", padding="same")(x)
    model = keras.Model(inputs, x)
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


@registered
class Sampling(layers.Layer):
    """Draws from the distribution while it trains, else takes its mean."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs, training=None):
        mean, log_variance = inputs
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(0.5 * log_variance) * noise


class VariationalAutoencoder(keras.Model):
    """An encoder, a sample of what it says, and a decoder."""

    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        self.total = keras.metrics.Mean(name="total")

    @property
    def metrics(self):
        return [self.total]

    def call(self, images):
        mean, log_variance, code = self.encoder(images)
        return self.decoder(code), mean, log_variance


def variational_autoencoder():
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Conv2D(16, 3, 2, "same", activation="relu")(inputs)
    x = layers.Conv2D(32, 3, 2, "same", activation="relu")(x)
    x = layers.Dense(24, activation="relu")(layers.Flatten()(x))
    mean, log_variance = layers.Dense(6)(x), layers.Dense(6)(x)
    code = Sampling()([mean, log_variance])
    encoder = keras.Model(inputs, [mean, log_variance, code], name="encoder")
    codes = keras.Input((6,))
    x = layers.Dense(4 * 4 * 32, activation="relu")(codes)
    x = layers.Reshape((4, 4, 32))(x)
    for filters in (32, 16):
        x = layers.Conv2DTranspose(filters, 3, 2, "same", activation="relu")(x)
    x = layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same")(x)
    decoder = keras.Model(codes, x, name="decoder")
    model, data = (
        VariationalAutoencoder(encoder, decoder),
        random(2, SIDE, SIDE, 1),
    )
    model(data)
    return model, data


@registered
class Quantizer(layers.Layer):
    """Replaces each vector by the nearest of a book."""

    def __init__(self, entries: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.entries, self.width = entries, width

    def build(self, shape):
        self.book = self.add_weight(
            shape=(self.width, self.entries),
            initializer="random_uniform",
            name="book",
        )

    def call(self, x):
        flat = ops.reshape(x, (-1, self.width))
        apart = (
            ops.sum(flat**2, axis=1, keepdims=True)
            + ops.sum(self.book**2, axis=0)
            - 2 * ops.matmul(flat, self.book)
        )
        nearest = ops.one_hot(ops.argmin(apart, axis=1), self.entries)
        found = ops.matmul(nearest, ops.transpose(self.book))
        found = ops.reshape(found, (-1, *x.shape[1:]))
        return x + ops.stop_gradient(found - x)

    def get_config(self):
        own = {"entries": self.entries, "width": self.width}
        return {**super().get_config(), **own}


def quantized_autoencoder() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 1))
    x = layers.Conv2D(16, 3, 2, "same", activation="relu")(inputs)
    x = layers.Conv2D(32, 3, 2, "same", activation="relu")(x)
    x = Quantizer(20, 8)(layers.Conv2D(8, 1, padding="same")(x))
    x = layers.Conv2DTranspose(32, 3, 2, "same", activation="relu")(x)
    x = layers.Conv2DTranspose(16, 3, 2, "same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2DTranspose(1, 3, padding="same")(x))


@registered
class DepthToSpace(layers.Layer):
    """Makes channels to pixels between pixels."""

    def __init__(self, factor: int, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        _, height, width, channels = x.shape
        n, left = self.factor, channels // self.factor**2
        x = ops.reshape(x, (-1, height, width, n, n, left))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * n, width * n, left))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def super_resolution() -> keras.Model:
    x = inputs = keras.Input((SIDE, SIDE, 1))
    for filters, size in ((32, 5), (32, 3)):
        x = layers.Conv2D(filters, size, activation="relu", padding="same")(x)
    # Of twice the size, first, with channels that are still many.
    x = DepthToSpace(2)(layers.Conv2D(64, 3, padding="same")(x))
    x = layers.Conv2D(4, 3, activation="relu", padding="same")(x)
    return keras.Model(inputs, DepthToSpace(2)(x))


def next_frame() -> keras.Model:
    x = inputs = keras.Input((None, 12, 12, 1))
    for size in (5, 3, 1):
        x = layers.ConvLSTM2D(
            16, size, padding="same", return_sequences=True, activation="relu"
        )(x)
        if size > 1:
            x = layers.BatchNormalization()(x)
    x = layers.Conv3D(1, 3, activation="sigmoid", padding="same")(x)
    return keras.Model(inputs, x)


@registered
class ReflectionPadding(layers.Layer):
    """Pads images with what is next to their border."""

    def __init__(self, padding=(1, 1), **kwargs):
        super().__init__(**kwargs)
        self.padding = tuple(padding)

    def call(self, x):
        rows, columns = self.padding
        pads = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
        return ops.pad(x, pads, mode="reflect")

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def image_translation() -> keras.Model:
    def normalized(x):
        return layers.GroupNormalization(groups=-1)(x)

    inputs = keras.Input((SIDE, SIDE, 3))
    x = ReflectionPadding((3, 3))(inputs)
    x = ops.relu(normalized(layers.Conv2D(16, 7, use_bias=False)(x)))
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False)(x)
    x = ops.relu(normalized(x))
    for _ in range(2):
        y = layers.Conv2D(32, 3, use_bias=False)(ReflectionPadding()(x))
        y = ops.relu(normalized(y))
        y = layers.Conv2D(32, 3, use_bias=False)(ReflectionPadding()(y))
        x = layers.add([normalized(y), x])
    x = layers.Conv2DTranspose(16, 3, 2, "same", use_bias=False)(x)
    x = ops.relu(normalized(x))
    x = layers.Conv2D(3, 7)(ReflectionPadding((3, 3))(x))
    return keras.Model(inputs, layers.Activation("tanh")(x))


def generator() -> keras.Model:
    x = noise = keras.Input((12,))
    x = layers.Dense(4 * 4 * 32, use_bias=False)(x)
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.Reshape((4, 4, 32))(x)
    for filters in (24, 16):
        x = layers.UpSampling2D((2, 2))(x)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.LeakyReLU(0.2)(layers.BatchNormalization()(x))
    x = layers.Conv2D(1, 3, padding="same", use_bias=False)(x)
    x = layers.Activation("tanh")(layers.Cropping2D((2, 2))(x))
    return keras.Model(noise, x)


def sinusoids(x, count=8):
    """Sines and cosines of a number, at many frequencies."""
    speeds = 2.0 * np.pi * np.exp(np.linspace(0.0, 6.0, count // 2))
    speeds = ops.cast(speeds, "float32")
    parts = [ops.sin(speeds * x), ops.cos(speeds * x)]
    return ops.concatenate(parts, axis=3)


def diffusion() -> keras.Model:
    def residual(x, width):
        straight = x
        if x.shape[3] != width:
            straight = layers.Conv2D(width, 1)(x)
        x = layers.BatchNormalization(center=False, scale=False)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
        x = layers.Conv2D(width, 3, padding="same")(x)
        return layers.Add()([x, straight])

    noisy = keras.Input((SIDE, SIDE, 3))
    variances = keras.Input((1, 1, 1))
    e = layers.Lambda(sinusoids, output_shape=(1, 1, 8))(variances)
    e = layers.UpSampling2D(SIDE, interpolation="nearest")(e)
    x = layers.Concatenate()([layers.Conv2D(16, 1)(noisy), e])
    skips = []
    for width in (16, 24):
        x = residual(x, width)
        skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    x = residual(x, 32)
    for width in (24, 16):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        x = residual(layers.Concatenate()([x, skips.pop()]), width)
    x = layers.Conv2D(3, 1, kernel_initializer="zeros")(x)
    return keras.Model([noisy, variances], x)


class LowLight(keras.Model):
    """Brightens images by curves, whose parameters a network computes."""

    def __init__(self, width: int = 16, **kwargs):
        super().__init__(**kwargs)
        made = [
            layers.Conv2D(width, 3, activation="relu", padding="same")
            for _ in range(4)
        ]
        self.first, self.second, self.third, self.fourth = made
        self.curves = layers.Conv2D(12, 3, activation="tanh", padding="same")

    def call(self, images):
        one = self.first(images)
        two = self.second(one)
        three = self.third(two)
        four = self.fourth(ops.concatenate([three, two], axis=-1))
        curves = self.curves(ops.concatenate([four, one], axis=-1))
        x = images
        for n in range(4):
            r = curves[:, :, :, 3 * n : 3 * n + 3]
            x = x + r * (ops.square(x) - x)
        return x


def low_light():
    model, data = LowLight(), random(2, SIDE, SIDE, 3)
    model(data)
    return model, data


@registered
class Orthogonal(keras.regularizers.Regularizer):
    """Prefers matrices that are orthogonal."""

    def __init__(self, features: int, factor: float = 0.001):
        self.features, self.factor = features, factor

    def __call__(self, x):
        x = ops.reshape(x, (-1, self.features, self.features))
        product = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        return ops.sum(
            self.factor * ops.square(product - ops.eye(self.features))
        )

    def get_config(self):
        return {"features": self.features, "factor": self.factor}


def convolved(x, filters):
    x = layers.Conv1D(filters, 1, padding="valid")(x)
    return layers.Activation("relu")(layers.BatchNormalization(momentum=0)(x))


def connected(x, filters):
    x = layers.BatchNormalization(momentum=0)(layers.Dense(filters)(x))
    return layers.Activation("relu")(x)


def transformed(inputs, features):
    """Turns features by a matrix that a small network computes of them."""
    x = convolved(convolved(inputs, 16), 32)
    x = layers.GlobalMaxPooling1D()(x)
    x = connected(x, 16)
    x = layers.Dense(
        features * features,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(np.eye(features).ravel()),
        activity_regularizer=Orthogonal(features),
    )(x)
    matrix = layers.Reshape((features, features))(x)
    return layers.Dot(axes=(2, 1))([inputs, matrix])


def point_net() -> keras.Model:
    inputs = keras.Input((24, 3))
    x = convolved(convolved(transformed(inputs, 3), 8), 8)
    x = convolved(convolved(transformed(x, 8), 16), 32)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dropout(0.3)(connected(x, 32))
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def radiance_field() -> keras.Model:
    x = inputs = keras.Input((20, 18))
    for n in range(6):
        x = layers.Dense(32, activation="relu")(x)
        if n == 3:
            x = layers.concatenate([x, inputs], axis=-1)
    return keras.Model(inputs, layers.Dense(4)(x))


EXAMPLES = {
    "U-Net": u_net,
    "DeepLabV3+": deep_lab,
    "Denoising autoencoder": denoising_autoencoder,
    "Variational autoencoder": variational_autoencoder,
    "Vector-quantized autoencoder": quantized_autoencoder,
    "Super-resolution": super_resolution,
    "Next frame (ConvLSTM)": next_frame,
    "Image translation (CycleGAN)": image_translation,
    "Generator (GAN)": generator,
    "Diffusion U-Net": diffusion,
    "Low light (Zero-DCE)": low_light,
    "PointNet": point_net,
    "Radiance field (NeRF)": radiance_field,
}

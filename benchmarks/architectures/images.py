"""Classifiers of images and videos."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

WIDTH, HEADS, PATCH, SIDE, CLASSES = 32, 4, 4, 16, 5
registered = keras.saving.register_keras_serializable(package="images")


def image(channels: int = 3) -> keras.KerasTensor:
    return keras.Input((SIDE, SIDE, channels))


def convnet() -> keras.Model:
    return keras.Sequential(
        [
            image(1),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


@registered
class Patches(layers.Layer):
    """Cuts images into squares, one row of numbers each."""

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        cut = ops.image.extract_patches(images, self.size)
        rows, columns, entries = cut.shape[1:]
        return ops.reshape(cut, (-1, rows * columns, entries))

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@registered
class PatchEncoder(layers.Layer):
    """A projection of patches, and an embedding of their places."""

    def __init__(self, count: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.count, self.width = count, width
        self.projection = layers.Dense(width)
        self.places = layers.Embedding(count, width)

    def call(self, patches):
        places = ops.expand_dims(ops.arange(self.count), axis=0)
        return self.projection(patches) + self.places(places)

    def get_config(self):
        own = {"count": self.count, "width": self.width}
        return {**super().get_config(), **own}


def vision_transformer() -> keras.Model:
    inputs = image()
    x = PatchEncoder((SIDE // PATCH) ** 2, WIDTH)(Patches(PATCH)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=0.1)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        for units in (2 * WIDTH, WIDTH):
            y = layers.Dense(units, activation=keras.activations.gelu)(y)
            y = layers.Dropout(0.1)(y)
        x = layers.Add()([x, y])
    x = layers.Flatten()(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.Dense(64, activation="gelu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


@registered
class MixerBlock(layers.Layer):
    """Mixes patches, then channels."""

    def __init__(self, patches: int, width: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.sizes = patches, width, hidden
        self.across_patches = keras.Sequential(
            [
                layers.Dense(hidden, activation="gelu"),
                layers.Dense(patches),
                layers.Dropout(0.1),
            ]
        )
        self.across_channels = keras.Sequential(
            [
                layers.Dense(hidden, activation="gelu"),
                layers.Dense(width),
                layers.Dropout(0.1),
            ]
        )
        self.normalize = layers.LayerNormalization(epsilon=1e-6)

    def build(self, shape):
        _, patches, width = shape
        self.across_patches.build((None, width, patches))
        self.across_channels.build((None, patches, width))
        self.normalize.build(shape)

    def call(self, x):
        turned = ops.transpose(self.normalize(x), (0, 2, 1))
        mixed = ops.transpose(self.across_patches(turned), (0, 2, 1))
        x = x + mixed
        return x + self.across_channels(self.normalize(x))

    def get_config(self):
        names = ("patches", "width", "hidden")
        return {
            **super().get_config(),
            **dict(zip(names, self.sizes, strict=True)),
        }


def blocks_on_patches(block) -> keras.Model:
    inputs = image()
    x = layers.Dense(WIDTH)(Patches(PATCH)(inputs))
    for _ in range(2):
        x = block(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def mlp_mixer() -> keras.Model:
    return blocks_on_patches(lambda x: MixerBlock(16, WIDTH, 64)(x))


class FourierBlock(layers.Layer):
    """Mixes by a Fourier transform. It has no config."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.feed = keras.Sequential(
            [
                layers.Dense(hidden, activation="gelu"),
                layers.Dropout(0.1),
                layers.Dense(width),
            ]
        )
        self.one = layers.LayerNormalization(epsilon=1e-6)
        self.two = layers.LayerNormalization(epsilon=1e-6)

    def call(self, x):
        real, _ = ops.fft2((x, ops.zeros_like(x)))
        x = self.one(x + real)
        return self.two(x + self.feed(x))


def fourier_net() -> keras.Model:
    return blocks_on_patches(lambda x: FourierBlock(WIDTH, 64)(x))


@registered
class GatedBlock(layers.Layer):
    """An MLP in which half of the channels gate the others, over patches."""

    def __init__(self, patches: int, width: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width, self.hidden = patches, width, hidden
        self.normalize = layers.LayerNormalization(epsilon=1e-6)
        self.up = layers.Dense(2 * hidden, activation="gelu")
        self.normalize_gate = layers.LayerNormalization(epsilon=1e-6)
        self.over_patches = layers.Dense(patches, bias_initializer="ones")
        self.down = layers.Dense(width)

    def gated(self, x):
        u, v = ops.split(x, 2, axis=-1)
        v = ops.transpose(self.normalize_gate(v), (0, 2, 1))
        return u * ops.transpose(self.over_patches(v), (0, 2, 1))

    def call(self, x):
        return x + self.down(self.gated(self.up(self.normalize(x))))

    def get_config(self):
        own = {k: getattr(self, k) for k in ("patches", "width", "hidden")}
        return {**super().get_config(), **own}


def gated_mlp() -> keras.Model:
    return blocks_on_patches(lambda x: GatedBlock(16, WIDTH, 48)(x))


def windows(x, side: int):
    """Cuts a feature map into windows, each a row of the batch."""
    _, height, width, channels = x.shape
    x = ops.reshape(
        x, (-1, height // side, side, width // side, side, channels)
    )
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, side * side, channels))


def joined(x, side: int, height: int, width: int, channels: int):
    """Puts windows together to a feature map."""
    x = ops.reshape(
        x, (-1, height // side, width // side, side, side, channels)
    )
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return ops.reshape(x, (-1, height, width, channels))


@registered
class WindowAttention(layers.Layer):
    """Attention within a window, with a bias for each relative place."""

    def __init__(self, width: int, side: int, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.side, self.heads = width, side, heads
        self.scale = (width // heads) ** -0.5
        self.qkv = layers.Dense(3 * width)
        self.out = layers.Dense(width)
        place = np.arange(side)
        grid = np.stack(np.meshgrid(place, place, indexing="ij")).reshape(2, -1)
        apart = grid[:, :, None] - grid[:, None] + side - 1
        self.index = (apart[0] * (2 * side - 1) + apart[1]).reshape(-1)

    def build(self, shape):
        self.table = self.add_weight(
            shape=((2 * self.side - 1) ** 2, self.heads), name="table"
        )
        self.qkv.build(shape)
        self.out.build(shape)

    def call(self, x, mask=None):
        _, size, width = x.shape
        qkv = ops.reshape(
            self.qkv(x), (-1, size, 3, self.heads, width // self.heads)
        )
        query, key, value = ops.unstack(
            ops.transpose(qkv, (2, 0, 3, 1, 4)), axis=0
        )
        scores = (query * self.scale) @ ops.transpose(key, (0, 1, 3, 2))
        bias = ops.take(self.table, self.index, axis=0)
        bias = ops.transpose(ops.reshape(bias, (size, size, -1)), (2, 0, 1))
        scores = scores + ops.expand_dims(bias, 0)
        if mask is not None:
            count = mask.shape[0]
            split = ops.reshape(scores, (-1, count, self.heads, size, size))
            split = split + mask[None, :, None]
            scores = ops.reshape(split, (-1, self.heads, size, size))
        made = ops.transpose(ops.softmax(scores) @ value, (0, 2, 1, 3))
        return self.out(ops.reshape(made, (-1, size, width)))

    def get_config(self):
        own = {k: getattr(self, k) for k in ("width", "side", "heads")}
        return {**super().get_config(), **own}


@registered
class ShiftedWindows(layers.Layer):
    """A transformer block on windows, which may be shifted."""

    def __init__(self, width, grid, side, heads, shift, **kwargs):
        super().__init__(**kwargs)
        self.own = {
            "width": width,
            "grid": grid,
            "side": side,
            "heads": heads,
            "shift": shift,
        }
        self.grid, self.side, self.shift = grid, side, shift
        self.one = layers.LayerNormalization(epsilon=1e-5)
        self.attention = WindowAttention(width, side, heads)
        self.two = layers.LayerNormalization(epsilon=1e-5)
        self.feed = keras.Sequential(
            [
                layers.Dense(2 * width, activation="gelu"),
                layers.Dense(width),
            ]
        )
        self.allowed = self.mask() if shift else None

    def mask(self):
        """Tokens that a shift brings together do not see each other."""
        grid, side, shift = self.grid, self.side, self.shift
        area = np.zeros((grid, grid))
        cuts = (slice(-side), slice(-side, -shift), slice(-shift, None))
        for n, rows in enumerate(cuts):
            for m, columns in enumerate(cuts):
                area[rows, columns] = 3 * n + m
        count = grid // side
        area = area.reshape(count, side, count, side).transpose(0, 2, 1, 3)
        area = area.reshape(-1, side * side)
        differ = area[:, :, None] != area[:, None]
        return np.where(differ, -100.0, 0.0).astype("float32")

    def call(self, x):
        _, size, width = x.shape
        y = ops.reshape(self.one(x), (-1, self.grid, self.grid, width))
        if self.shift:
            y = ops.roll(y, (-self.shift, -self.shift), axis=(1, 2))
        y = self.attention(windows(y, self.side), mask=self.allowed)
        y = joined(y, self.side, self.grid, self.grid, width)
        if self.shift:
            y = ops.roll(y, (self.shift, self.shift), axis=(1, 2))
        x = x + ops.reshape(y, (-1, size, width))
        return x + self.feed(self.two(x))

    def get_config(self):
        return {**super().get_config(), **self.own}


@registered
class PatchMerging(layers.Layer):
    """Makes one token of four neighbors."""

    def __init__(self, grid: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.grid, self.width = grid, width
        self.reduce = layers.Dense(2 * width, use_bias=False)

    def call(self, x):
        width = x.shape[-1]
        x = ops.reshape(x, (-1, self.grid, self.grid, width))
        corners = [x[:, n::2, m::2] for m in (0, 1) for n in (0, 1)]
        x = ops.concatenate(corners, axis=-1)
        x = ops.reshape(x, (-1, (self.grid // 2) ** 2, 4 * width))
        return self.reduce(x)

    def get_config(self):
        own = {"grid": self.grid, "width": self.width}
        return {**super().get_config(), **own}


def swin() -> keras.Model:
    inputs = image()
    x = PatchEncoder(64, WIDTH)(Patches(2)(inputs))
    x = ShiftedWindows(WIDTH, 8, 4, HEADS, 0)(x)
    x = ShiftedWindows(WIDTH, 8, 4, HEADS, 2)(x)
    x = PatchMerging(8, WIDTH)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def conv_mixer() -> keras.Model:
    def activated(x):
        return layers.BatchNormalization()(layers.Activation("gelu")(x))

    inputs = image()
    x = layers.Rescaling(1 / 255)(inputs)
    x = activated(layers.Conv2D(WIDTH, 2, strides=2)(x))
    for _ in range(3):
        y = activated(layers.DepthwiseConv2D(5, padding="same")(x))
        x = layers.Add()([y, x])
        x = activated(layers.Conv2D(WIDTH, 1)(x))
    x = layers.GlobalAvgPool2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


@registered
class ConvTokenizer(layers.Layer):
    """Tokens by convolutions, and a place embedding of their own."""

    def __init__(self, widths, places: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.places = list(widths), places
        self.stack = keras.Sequential()
        for width in self.widths:
            self.stack.add(
                layers.Conv2D(
                    width, 3, padding="same", use_bias=False, activation="relu"
                )
            )
            self.stack.add(layers.MaxPooling2D(3, 2, "same"))

    def build(self, shape):
        self.stack.build(shape)
        _, *sides, width = self.stack.compute_output_shape(shape)
        if self.places:
            self.embedding = self.add_weight(
                shape=(sides[0] * sides[1], width), name="places"
            )

    def call(self, images):
        x = self.stack(images)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))
        return x + self.embedding if self.places else x

    def get_config(self):
        own = {"widths": self.widths, "places": self.places}
        return {**super().get_config(), **own}


@registered
class StochasticDepth(layers.Layer):
    """Drops whole branches while it trains."""

    def __init__(self, rate: float, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x, training=None):
        if not training:
            return x
        keep = 1 - self.rate
        shape = (ops.shape(x)[0], *[1] * (len(x.shape) - 1))
        drawn = ops.floor(
            keep + keras.random.uniform(shape, 0, 1, seed=self.seeds)
        )
        return x / keep * drawn

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


@registered
class SequencePooling(layers.Layer):
    """A weighted mean of tokens, by weights of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.Dense(1)

    def build(self, shape):
        self.attention.build(shape)

    def call(self, x):
        weights = ops.softmax(self.attention(x), axis=1)
        weights = ops.transpose(weights, (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, x), -2)


def compact_transformer() -> keras.Model:
    inputs = image()
    x = ConvTokenizer([16, WIDTH])(inputs)
    for rate in (0.0, 0.1):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH, dropout=0.1)(y, y)
        x = layers.Add()([StochasticDepth(rate)(y), x])
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        for units in (WIDTH, WIDTH):
            y = layers.Dense(units, activation=ops.gelu)(y)
            y = layers.Dropout(0.1)(y)
        x = layers.Add()([StochasticDepth(rate)(y), x])
    x = SequencePooling()(layers.LayerNormalization(epsilon=1e-5)(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def external_attention(x, width: int, heads: int):
    """Attention to keys and values that are weights, by functions."""
    _, patches, _ = x.shape
    q = layers.Dense(width * 2)(x)
    q = ops.reshape(q, (-1, patches, heads, width * 2 // heads))
    q = ops.transpose(q, (0, 2, 1, 3))
    scores = layers.Dense(width // heads)(q)
    scores = layers.Softmax(axis=2)(scores)
    scores = scores / (1e-9 + ops.sum(scores, axis=-1, keepdims=True))
    made = layers.Dense(width * 2 // heads)(layers.Dropout(0.1)(scores))
    made = ops.transpose(made, (0, 2, 1, 3))
    made = ops.reshape(made, (-1, patches, width * 2))
    return layers.Dropout(0.1)(layers.Dense(width)(made))


def external_attention_net() -> keras.Model:
    inputs = image()
    x = PatchEncoder(16, WIDTH)(Patches(PATCH)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.Add()([x, external_attention(y, WIDTH, HEADS)])
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.Dense(2 * WIDTH, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(WIDTH)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def mobile_vit() -> keras.Model:
    def conv(x, filters, size=3, strides=1):
        return layers.Conv2D(
            filters, size, strides, "same", activation="swish"
        )(x)

    inputs = image()
    x = conv(layers.Rescaling(1 / 255)(inputs), 16, strides=2)
    y = layers.Conv2D(32, 1, use_bias=False)(x)
    y = ops.silu(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = ops.silu(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(y))
    x = layers.Add()([x, y])
    local = conv(conv(x, 24), 24, size=1)
    y = layers.Reshape((4, 16, 24))(local)
    z = layers.LayerNormalization(epsilon=1e-6)(y)
    z = layers.MultiHeadAttention(2, 24)(z, z)
    y = layers.Add()([z, y])
    z = layers.LayerNormalization(epsilon=1e-6)(y)
    z = layers.Dense(24)(layers.Dense(48, activation="swish")(z))
    y = layers.Add()([z, y])
    y = conv(layers.Reshape((8, 8, 24))(y), 16, size=1)
    x = conv(layers.Concatenate()([x, y]), 24)
    x = layers.GlobalAvgPool2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


class Involution(layers.Layer):
    """Convolves with a kernel that it computes for every place."""

    def __init__(self, channels, groups=2, size=3, ratio=2):
        super().__init__()
        self.channels, self.groups, self.size = channels, groups, size
        self.make_kernel = keras.Sequential(
            [
                layers.Conv2D(channels // ratio, 1),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(size * size * groups, 1),
            ]
        )

    def call(self, x):
        _, height, width, channels = x.shape
        area, each = self.size**2, channels // self.groups
        kernel = ops.reshape(
            self.make_kernel(x), (-1, height, width, area, 1, self.groups)
        )
        near = ops.image.extract_patches(x, self.size, 1, padding="same")
        near = ops.reshape(near, (-1, height, width, area, each, self.groups))
        made = ops.sum(kernel * near, axis=3)
        return ops.reshape(made, (-1, height, width, channels))


def involution_net() -> keras.Model:
    inputs = image()
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = ops.relu(Involution(16)(x))
    x = layers.MaxPooling2D()(x)
    x = ops.relu(Involution(16)(x))
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


@registered
class TubeletEmbedding(layers.Layer):
    """Tokens of small boxes of a video."""

    def __init__(self, width: int, size, **kwargs):
        super().__init__(**kwargs)
        self.width, self.size = width, size
        self.projection = layers.Conv3D(width, size, size, padding="valid")
        self.flatten = layers.Reshape((-1, width))

    def call(self, videos):
        return self.flatten(self.projection(videos))

    def get_config(self):
        own = {"width": self.width, "size": self.size}
        return {**super().get_config(), **own}


@registered
class TubeletPlaces(layers.Layer):
    """Adds an embedding of places, as many as there are tokens."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.count = shape[1]
        self.embedding = layers.Embedding(self.count, self.width)
        self.embedding.build((None,))

    def call(self, tokens):
        return tokens + self.embedding(ops.arange(0, self.count, 1))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def video_transformer() -> keras.Model:
    inputs = keras.Input((8, 16, 16, 1))
    x = TubeletPlaces(WIDTH)(TubeletEmbedding(WIDTH, (4, 8, 8))(inputs))
    for _ in range(2):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=0.1)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = keras.Sequential(
            [
                layers.Dense(4 * WIDTH, activation=keras.ops.gelu),
                layers.Dense(WIDTH, activation=keras.ops.gelu),
            ]
        )(y)
        x = layers.Add()([x, y])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAvgPool1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def frames_and_gru() -> keras.Model:
    each = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    inputs = keras.Input((6, SIDE, SIDE, 3))
    x = layers.TimeDistributed(each)(inputs)
    x = layers.GRU(16, return_sequences=True)(x)
    x = layers.Dropout(0.4)(layers.GRU(8)(x))
    x = layers.Dense(8, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


EXAMPLES = {
    "Convnet": convnet,
    "MLP-Mixer": mlp_mixer,
    "FNet": fourier_net,
    "gMLP": gated_mlp,
    "Vision transformer": vision_transformer,
    "Swin transformer": swin,
    "ConvMixer": conv_mixer,
    "Compact convolutional transformer": compact_transformer,
    "External attention": external_attention_net,
    "MobileViT": mobile_vit,
    "Involution": involution_net,
    "Video transformer": video_transformer,
    "Video by CNN and GRU": frames_and_gru,
}

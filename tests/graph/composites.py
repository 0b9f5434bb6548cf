"""Layers and models that hold others, as people write them."""

import functools

import keras
from keras import layers, ops


def randomly(x):
    """An activation in the user's own words."""
    return ops.where(x > 0, x, 0.1 * ops.expm1(x))


class TransformerBlock(layers.Layer):
    """Attention and a feed-forward pair, each with a residual."""

    def __init__(self, heads=2, width=3, hidden=8, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.width = width
        self.hidden = hidden
        self.attention = layers.MultiHeadAttention(heads, width, name="heads")
        self.norms = [layers.LayerNormalization(name=f"n{i}") for i in (1, 2)]
        self.up = layers.Dense(hidden, activation=ops.gelu, name="up")
        self.dropout = layers.Dropout(0.5)

    def build(self, shape):
        self.attention.build(shape, shape)
        for norm in self.norms:
            norm.build(shape)
        self.up.build(shape)
        self.down = layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], self.hidden))

    def call(self, inputs, training=None):
        batch, length = ops.shape(inputs)[:2]
        mask = ops.arange(length)[:, None] >= ops.arange(length)
        mask = ops.broadcast_to(mask, (batch, length, length))
        x = self.norms[0](inputs)
        x = self.attention(x, x, attention_mask=mask, training=training)
        x = inputs + self.dropout(x, training=training)
        return x + self.down(self.up(self.norms[1](x)))

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "width": self.width,
            "hidden": self.hidden,
        }


class Mixer(layers.Layer):
    """MLP-Mixer's block: mixes positions, then channels."""

    def __init__(self, tokens=6, channels=7, **kwargs):
        super().__init__(**kwargs)
        self.tokens = tokens
        self.channels = channels

    def build(self, shape):
        def pair(hidden, out, name):
            return keras.Sequential(
                [
                    layers.Dense(hidden, activation="gelu", name=f"{name}_up"),
                    layers.Dense(out, name=f"{name}_down"),
                ],
                name=name,
            )

        batch, length, width = shape
        self.one = pair(self.tokens, length, "tokens")
        self.one.build((batch, width, length))
        self.two = pair(self.channels, width, "channels")
        self.two.build(shape)

    def call(self, inputs):
        x = ops.transpose(self.one(ops.transpose(inputs, (0, 2, 1))), (0, 2, 1))
        x = x + inputs
        return x + self.two(x)

    def get_config(self):
        return {
            **super().get_config(),
            "tokens": self.tokens,
            "channels": self.channels,
        }


class Gated(layers.Layer):
    """gMLP's gate, by a setting of twice its width, and weights of its own."""

    def __init__(self, both=12, **kwargs):
        super().__init__(**kwargs)
        self.both = both
        self.up = layers.Dense(both, activation=randomly, name="up")

    def build(self, shape):
        self.up.build(shape)
        half = self.both // 2
        self.spatial = self.add_weight(
            shape=(shape[1], shape[1]), name="spatial"
        )
        self.scale = self.add_weight(shape=(half,), name="scale")
        self.kernel = self.add_weight(shape=(half, shape[-1]), name="kernel")
        self.bias = self.add_weight(shape=(shape[-1],), name="bias")

    def call(self, inputs):
        left, right = ops.split(self.up(inputs), 2, axis=-1)
        gate = self.scale * ops.einsum("blc,lm->bmc", right, self.spatial)
        return inputs + ops.matmul(left * gate, self.kernel) + self.bias

    def get_config(self):
        return {**super().get_config(), "both": self.both}


class Positions(layers.Layer):
    """Adds embeddings of positions, and a token in front."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")
        self.places = self.add_weight(shape=(20, shape[-1]), name="places")

    def call(self, inputs):
        batch, length, width = ops.shape(inputs)
        token = ops.broadcast_to(self.token, (batch, 1, width))
        x = ops.concatenate([token, inputs], axis=1)
        return x + self.places[: length + 1]


class Cached(layers.Layer):
    """Returns a cache beside its output, which is `None` without one."""

    def __init__(self, hidden=6, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.up = layers.Dense(hidden, activation="relu", name="up")

    def build(self, shape):
        self.up.build(shape)
        self.down = layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], self.hidden))

    def compute_output_spec(self, inputs):  # Knows no `cache`, as KerasHub's.
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs, cache=None):
        return self.down(self.up(inputs)), cache

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


class HoldsCached(layers.Layer):
    def __init__(self, hidden=6, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.inner = Cached(hidden, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        made, _ = self.inner(inputs, cache=None)
        return inputs + made

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


class Blocks(keras.Model):
    """A subclassed model: a list of blocks, and a step of its own."""

    def __init__(self, width=6, hidden=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = hidden
        self.stem = layers.Dense(width, name="stem")
        self.blocks = [
            layers.Dense(hidden, activation="tanh", name="one"),
            layers.Dense(width, name="two"),
        ]
        self.head = layers.Dense(2, name="head")

    def call(self, inputs, training=None):
        x = start = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
        return self.head(x + start)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "hidden": self.hidden,
        }


def around(*middle, width=4, length=5):
    """Layers between one that makes units and one that reads them."""
    inputs = keras.Input((length, 3))
    x = layers.Dense(width, name="stem")(inputs)
    for layer in middle:
        x = layer(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


class Unbuilt(layers.Layer):
    """Has no `build`, makes layers in each call, and multiplies by hand."""

    def __init__(self, hidden=6, rank=5, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.rank = hidden, rank
        self.feed = keras.Sequential(
            [
                layers.Dense(hidden, activation="relu", name="up"),
                layers.Dense(3, name="down"),
            ],
            name="feed",
        )
        self.weight = self.add_weight(shape=(3, rank), name="weight")

    def call(self, inputs):
        x = self.feed(inputs)
        x = layers.concatenate([x, layers.ReLU()(x)])
        made = ops.tensordot(x[..., :3], self.weight, axes=1)
        return ops.tensordot(made, self.weight, axes=[[-1], [1]])

    def get_config(self):
        own = {"hidden": self.hidden, "rank": self.rank}
        return {**super().get_config(), **own}


COMPOSITES = {
    "transformer": (
        lambda: around(TransformerBlock(name="block")),
        {
            "block/heads/query/query_heads": 2,
            "block/up": 8,
        },
    ),
    "mixer": (
        lambda: around(Mixer(name="block")),
        {
            "stem": 4,
            "block/tokens/tokens_up": 6,
            "block/channels/channels_up": 7,
        },
    ),
    "gated": (lambda: around(Gated(name="block")), {"stem": 4, "block/up": 6}),
    "positions": (lambda: around(Positions(name="block")), {"stem": 4}),
    "cached": (
        lambda: around(HoldsCached(name="block")),
        {"stem": 4, "block/inner/up": 6},
    ),
    "unbuilt": (
        lambda: around(Unbuilt(name="block")),
        {"stem": 4, "block/feed/up": 6, "block/weight/axis1": 5},
    ),
    "two_alike": (
        lambda: around(Mixer(name="one"), Mixer(tokens=9, name="two")),
        {
            "stem": 4,
            "one/tokens/tokens_up": 6,
            "one/channels/channels_up": 7,
            "two/tokens/tokens_up": 9,
            "two/channels/channels_up": 7,
        },
    ),
}
ACTIVATIONS = {
    "function": (ops.gelu, False),
    "partial": (functools.partial(ops.leaky_relu, negative_slope=0.3), True),
    "lambda": (lambda x: x * ops.sigmoid(1.7 * x), False),
    "own": (randomly, False),
    "homogeneous": (lambda x: ops.maximum(2 * x, 0.5 * x), True),
    "mixes": (lambda x: x - ops.mean(x, axis=-1, keepdims=True), None),
    "scales": (lambda x: x / ops.max(ops.abs(x)), None),
    "places": (lambda x: x * ops.arange(x.shape[-1], dtype="float32"), None),
    "shape": (lambda x: ops.concatenate([x, -x], axis=-1), None),
}

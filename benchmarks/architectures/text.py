"""Text and series."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

WIDTH, HEADS, HIDDEN, LENGTH, TOKENS = 32, 4, 64, 12, 40
registered = keras.saving.register_keras_serializable(package="text")


def tokens(length: int | None = LENGTH) -> keras.KerasTensor:
    return keras.Input((length,), dtype="int32")


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, TOKENS, shape).astype("int32")


@registered
class TokensAndPlaces(layers.Layer):
    """Embeds tokens and where they stand."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.length, self.vocabulary, self.width = length, vocabulary, width
        self.tokens = layers.Embedding(vocabulary, width)
        self.places = layers.Embedding(length, width)

    def call(self, x):
        places = ops.arange(0, ops.shape(x)[-1], 1)
        return self.tokens(x) + self.places(places)

    def get_config(self):
        own = {k: getattr(self, k) for k in ("length", "vocabulary", "width")}
        return {**super().get_config(), **own}


@registered
class EncoderBlock(layers.Layer):
    """Attention, then a feed-forward pair; normalized after each."""

    def __init__(self, width, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.own = {"width": width, "heads": heads, "hidden": hidden}
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.feed = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
        )
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.drop1 = layers.Dropout(rate)
        self.drop2 = layers.Dropout(rate)

    def call(self, inputs, training=None):
        y = self.drop1(self.attention(inputs, inputs), training=training)
        x = self.norm1(inputs + y)
        y = self.drop2(self.feed(x), training=training)
        return self.norm2(x + y)

    def get_config(self):
        return {**super().get_config(), **self.own}


def text_classifier() -> keras.Model:
    inputs = tokens()
    x = TokensAndPlaces(LENGTH, TOKENS, WIDTH)(inputs)
    x = EncoderBlock(WIDTH, HEADS, HIDDEN)(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.1)(layers.Dense(20, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def causal(batch, wanted, given, dtype):
    """True where a token may see another: itself, and those before it."""
    rows = ops.arange(wanted)[:, None]
    columns = ops.arange(given)
    mask = ops.cast(rows >= columns - given + wanted, dtype)
    mask = ops.reshape(mask, [1, wanted, given])
    times = ops.concatenate(
        [ops.expand_dims(batch, -1), ops.convert_to_tensor([1, 1])], 0
    )
    return ops.tile(mask, times)


class CausalBlock(layers.Layer):
    """Attention to what came before, and a feed-forward pair."""

    def __init__(self, width, heads, hidden, rate=0.1):
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width)
        self.feed = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
        )
        self.norm1 = layers.LayerNormalization(epsilon=1e-6)
        self.norm2 = layers.LayerNormalization(epsilon=1e-6)
        self.drop1, self.drop2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs):
        batch, length, _ = ops.shape(inputs)
        mask = causal(batch, length, length, "bool")
        y = self.attention(inputs, inputs, attention_mask=mask)
        x = self.norm1(inputs + self.drop1(y))
        return self.norm2(x + self.drop2(self.feed(x)))


def mini_gpt() -> keras.Model:
    inputs = tokens()
    x = TokensAndPlaces(LENGTH, TOKENS, WIDTH)(inputs)
    x = CausalBlock(WIDTH, 2, HIDDEN)(x)
    outputs = layers.Dense(TOKENS)(x)
    return keras.Model(inputs, [outputs, x])


class EntityModel(keras.Model):
    """A tag for each token."""

    def __init__(self, tags: int, **kwargs):
        super().__init__(**kwargs)
        self.embedding = TokensAndPlaces(LENGTH, TOKENS, WIDTH)
        self.block = EncoderBlock(WIDTH, HEADS, HIDDEN)
        self.dropout1 = layers.Dropout(0.1)
        self.feed = layers.Dense(HIDDEN, activation="relu")
        self.dropout2 = layers.Dropout(0.1)
        self.tags = layers.Dense(tags, activation="softmax")

    def call(self, inputs, training=False):
        x = self.block(self.embedding(inputs))
        x = self.feed(self.dropout1(x, training=training))
        return self.tags(self.dropout2(x, training=training))


def entities():
    model, data = EntityModel(6), drawn(2, LENGTH)
    model(data)
    return model, data


@registered
class Positional(layers.Layer):
    """Embeds tokens and places; tokens of 0 are masked."""

    def __init__(self, length, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.own = {"length": length, "vocabulary": vocabulary, "width": width}
        self.words = layers.Embedding(vocabulary, width)
        self.places = layers.Embedding(length, width)

    def call(self, inputs):
        places = ops.arange(0, ops.shape(inputs)[-1], 1)
        return self.words(inputs) + self.places(places)

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0)

    def get_config(self):
        return {**super().get_config(), **self.own}


@registered
class Encoder(layers.Layer):
    """An encoder that heeds the mask of its tokens."""

    def __init__(self, width, hidden, heads, **kwargs):
        super().__init__(**kwargs)
        self.own = {"width": width, "hidden": hidden, "heads": heads}
        self.attention = layers.MultiHeadAttention(heads, key_dim=width)
        self.feed = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
        )
        self.norm_1 = layers.LayerNormalization()
        self.norm_2 = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        padding = None
        if mask is not None:
            padding = ops.cast(mask[:, None, :], dtype="int32")
        y = self.attention(
            query=inputs, value=inputs, key=inputs, attention_mask=padding
        )
        x = self.norm_1(inputs + y)
        return self.norm_2(x + self.feed(x))

    def get_config(self):
        return {**super().get_config(), **self.own}


@registered
class Decoder(layers.Layer):
    """A decoder that sees what came before, and what an encoder said."""

    def __init__(self, width, hidden, heads, **kwargs):
        super().__init__(**kwargs)
        self.own = {"width": width, "hidden": hidden, "heads": heads}
        self.attention_1 = layers.MultiHeadAttention(heads, key_dim=width)
        self.attention_2 = layers.MultiHeadAttention(heads, key_dim=width)
        self.feed = keras.Sequential(
            [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
        )
        self.norm_1 = layers.LayerNormalization()
        self.norm_2 = layers.LayerNormalization()
        self.norm_3 = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        inputs, encoded = inputs
        earlier = self.causal_mask(inputs)
        padding = None
        if mask is not None:
            own, padding = mask
            if own is not None:
                own = ops.cast(own[:, None, :], dtype="int32")
                earlier = ops.minimum(own, earlier)
            if padding is not None:
                padding = ops.cast(padding[:, None, :], dtype="int32")
        y = self.attention_1(
            query=inputs, value=inputs, key=inputs, attention_mask=earlier
        )
        x = self.norm_1(inputs + y)
        y = self.attention_2(
            query=x, value=encoded, key=encoded, attention_mask=padding
        )
        x = self.norm_2(x + y)
        return self.norm_3(x + self.feed(x))

    def causal_mask(self, inputs):
        batch, length, _ = ops.shape(inputs)
        rows = ops.arange(length)[:, None]
        mask = ops.cast(rows >= ops.arange(length), dtype="int32")
        mask = ops.reshape(mask, (1, length, length))
        return ops.tile(mask, (batch, 1, 1))

    def get_config(self):
        return {**super().get_config(), **self.own}


def translation() -> keras.Model:
    source = keras.Input((LENGTH,), dtype="int32", name="source")
    target = keras.Input((LENGTH,), dtype="int32", name="target")
    x = Positional(LENGTH, TOKENS, WIDTH)(source)
    encoded = Encoder(WIDTH, HIDDEN, 2)(x)
    x = Positional(LENGTH, TOKENS, WIDTH)(target)
    x = Decoder(WIDTH, HIDDEN, 2)([x, encoded])
    x = layers.Dense(TOKENS, activation="softmax")(layers.Dropout(0.5)(x))
    return keras.Model([source, target], x)


def bidirectional_text() -> keras.Model:
    inputs = tokens(None)
    x = layers.Embedding(TOKENS, WIDTH)(inputs)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(16))(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))


def characters() -> keras.Model:
    """Sequence to sequence by LSTMs that hand over their states."""
    source = keras.Input((None, 20))
    _, h, c = layers.LSTM(WIDTH, return_state=True)(source)
    target = keras.Input((None, 24))
    decoder = layers.LSTM(WIDTH, return_sequences=True, return_state=True)
    x, _, _ = decoder(target, initial_state=[h, c])
    x = layers.Dense(24, activation="softmax")(x)
    return keras.Model([source, target], x)


def series_transformer() -> keras.Model:
    x = inputs = keras.Input((20, 6))
    x = layers.Dense(8)(x)
    for _ in range(2):
        y = layers.MultiHeadAttention(HEADS, 8, dropout=0.1)(x, x)
        y = layers.LayerNormalization(epsilon=1e-6)(layers.Dropout(0.1)(y))
        kept = y + x
        y = layers.Conv1D(24, 1, activation="relu")(kept)
        y = layers.Conv1D(8, 1)(layers.Dropout(0.1)(y))
        x = layers.LayerNormalization(epsilon=1e-6)(y) + kept
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.1)(layers.Dense(32, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def series_convnet() -> keras.Model:
    x = inputs = keras.Input((30, 1))
    for _ in range(3):
        x = layers.Conv1D(32, 3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


@registered
class Router(layers.Layer):
    """Chances of experts for each token; the best one is taken."""

    def __init__(self, experts, **kwargs):
        super().__init__(**kwargs)
        self.experts = experts
        self.route = layers.Dense(experts)

    def call(self, x, training=False):
        if training:
            x = x * keras.random.uniform(ops.shape(x), 0.9, 1.1)
        chances = ops.softmax(self.route(x), axis=-1)
        best = ops.one_hot(ops.argmax(chances, axis=-1), self.experts)
        return chances * best

    def get_config(self):
        return {**super().get_config(), "experts": self.experts}


@registered
class Switch(layers.Layer):
    """A feed-forward layer that is one of several for each token."""

    def __init__(self, width, hidden, experts, **kwargs):
        super().__init__(**kwargs)
        self.own = {"width": width, "hidden": hidden, "experts": experts}
        self.experts = [
            keras.Sequential(
                [layers.Dense(hidden, activation="relu"), layers.Dense(width)]
            )
            for _ in range(experts)
        ]
        self.router = Router(experts)

    def call(self, x):
        taken = self.router(x)
        made = [
            expert(x) * taken[..., n : n + 1]
            for n, expert in enumerate(self.experts)
        ]
        return sum(made[1:], made[0])

    def get_config(self):
        return {**super().get_config(), **self.own}


def switch_transformer() -> keras.Model:
    inputs = tokens()
    x = TokensAndPlaces(LENGTH, TOKENS, WIDTH)(inputs)
    y = layers.MultiHeadAttention(2, WIDTH)(x, x)
    x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(y))
    y = Switch(WIDTH, 32, 3)(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(y))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.1)(layers.Dense(32, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def masked_language_model() -> keras.Model:
    places = np.arange(LENGTH)[:, None] / 1e4 ** (
        2 * (np.arange(WIDTH) // 2) / WIDTH
    )
    even = np.arange(WIDTH) % 2 == 0
    waves = np.where(even, np.sin(places), np.cos(places)).astype("float32")
    inputs = tokens()
    x = layers.Embedding(TOKENS, WIDTH)(inputs) + waves
    for _ in range(2):
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(y))
        feed = keras.Sequential(
            [layers.Dense(HIDDEN, activation="relu"), layers.Dense(WIDTH)]
        )
        y = layers.Dropout(0.1)(feed(x))
        x = layers.LayerNormalization(epsilon=1e-6)(x + y)
    return keras.Model(inputs, layers.Dense(TOKENS, activation="softmax")(x))


EXAMPLES = {
    "Text transformer": text_classifier,
    "Miniature GPT": mini_gpt,
    "Named entities": entities,
    "Translation transformer": translation,
    "Masked language model": masked_language_model,
    "Switch transformer": switch_transformer,
    "Bidirectional LSTM": bidirectional_text,
    "Characters (LSTM to LSTM)": characters,
    "Series transformer": series_transformer,
    "Series convnet": series_convnet,
}

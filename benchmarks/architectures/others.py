"""Tables, sound, sets, and pairs."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

WIDTH, CLASSES = 16, 3
NUMBERS, KINDS = 5, (7, 9, 4)  # Of a table: numbers, categories' sizes.
registered = keras.saving.register_keras_serializable(package="others")


def columns():
    numbers = [keras.Input((1,), name=f"number_{n}") for n in range(NUMBERS)]
    kinds = [
        keras.Input((1,), dtype="int32", name=f"kind_{n}")
        for n in range(len(KINDS))
    ]
    return numbers, kinds


def embedded(kinds, width):
    return [
        ops.squeeze(layers.Embedding(size + 60, width)(each), axis=1)
        for each, size in zip(kinds, KINDS, strict=True)
    ]


def wide_and_deep() -> keras.Model:
    numbers, kinds = columns()
    wide = layers.concatenate(
        [
            *numbers,
            *(
                layers.CategoryEncoding(60, output_mode="one_hot")(k)
                for k in kinds
            ),
        ]
    )
    wide = layers.BatchNormalization()(wide)
    deep = layers.concatenate([*numbers, *embedded(kinds, 8)])
    for units in (32, 32):
        deep = layers.BatchNormalization()(layers.Dense(units)(deep))
        deep = layers.Dropout(0.1)(layers.ReLU()(deep))
    x = layers.Dense(CLASSES, activation="softmax")(
        layers.concatenate([wide, deep])
    )
    return keras.Model([*numbers, *kinds], x)


def deep_and_cross() -> keras.Model:
    numbers, kinds = columns()
    first = layers.concatenate([*numbers, *embedded(kinds, 8)])
    cross = first
    for _ in range(2):
        cross = first * layers.Dense(first.shape[-1])(cross) + cross
    cross = layers.BatchNormalization()(cross)
    deep = first
    for units in (32, 32):
        deep = layers.BatchNormalization()(layers.Dense(units)(deep))
        deep = layers.Dropout(0.1)(layers.ReLU()(deep))
    x = layers.concatenate([cross, deep])
    return keras.Model(
        [*numbers, *kinds], layers.Dense(CLASSES, activation="softmax")(x)
    )


@registered
class GatedUnit(layers.Layer):
    """A linear layer and its gate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.linear = layers.Dense(units)
        self.sigmoid = layers.Dense(units, activation="sigmoid")

    def call(self, x):
        return self.linear(x) * self.sigmoid(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@registered
class GatedResidual(layers.Layer):
    """A small network beside a path that it may skip."""

    def __init__(self, units, rate, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rate = units, rate
        self.elu = layers.Dense(units, activation="elu")
        self.linear = layers.Dense(units)
        self.dropout = layers.Dropout(rate)
        self.gate = GatedUnit(units)
        self.norm = layers.LayerNormalization()
        self.project = layers.Dense(units)

    def call(self, inputs):
        x = self.dropout(self.linear(self.elu(inputs)))
        if inputs.shape[-1] != self.units:
            inputs = self.project(inputs)
        return self.norm(inputs + self.gate(x))

    def get_config(self):
        own = {"units": self.units, "rate": self.rate}
        return {**super().get_config(), **own}


@registered
class VariableSelection(layers.Layer):
    """A weighted sum of what each feature became."""

    def __init__(self, features, units, rate, **kwargs):
        super().__init__(**kwargs)
        self.own = {"features": features, "units": units, "rate": rate}
        self.each = [GatedResidual(units, rate) for _ in range(features)]
        self.joint = GatedResidual(units, rate)
        self.softmax = layers.Dense(features, activation="softmax")

    def call(self, inputs):
        weights = self.softmax(self.joint(layers.concatenate(inputs)))
        weights = ops.expand_dims(weights, axis=-1)
        made = [net(x) for net, x in zip(self.each, inputs, strict=True)]
        made = ops.stack(made, axis=1)
        return ops.squeeze(
            ops.matmul(ops.transpose(weights, (0, 2, 1)), made), axis=1
        )

    def get_config(self):
        return {**super().get_config(), **self.own}


def gated_residual() -> keras.Model:
    numbers, kinds = columns()
    features = [layers.Dense(WIDTH)(each) for each in numbers]
    features += embedded(kinds, WIDTH)
    x = VariableSelection(len(features), WIDTH, 0.15)(features)
    return keras.Model(
        [*numbers, *kinds], layers.Dense(1, activation="sigmoid")(x)
    )


def tab_transformer() -> keras.Model:
    numbers, kinds = columns()
    x = ops.stack(embedded(kinds, WIDTH), axis=1)
    column = layers.Embedding(len(KINDS), WIDTH)
    x = x + column(ops.arange(len(KINDS)))
    for _ in range(2):
        y = layers.MultiHeadAttention(2, WIDTH, dropout=0.2)(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
        y = layers.Dense(WIDTH, activation="gelu")(x)
        y = layers.Dense(WIDTH)(layers.Dropout(0.2)(y))
        x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([y, x]))
    x = layers.Flatten()(x)
    y = layers.LayerNormalization(epsilon=1e-6)(layers.concatenate(numbers))
    x = layers.concatenate([x, y])
    for units in (48, 24):
        x = layers.BatchNormalization()(x)
        x = layers.Dropout(0.2)(layers.Dense(units, activation="selu")(x))
    return keras.Model(
        [*numbers, *kinds], layers.Dense(1, activation="sigmoid")(x)
    )


def speakers() -> keras.Model:
    def residual(x, filters, count):
        straight = layers.Conv1D(filters, 1, padding="same")(x)
        for _ in range(count - 1):
            x = layers.Conv1D(filters, 3, padding="same")(x)
            x = layers.Activation("relu")(x)
        x = layers.Conv1D(filters, 3, padding="same")(x)
        x = layers.Activation("relu")(layers.Add()([x, straight]))
        return layers.MaxPool1D(2, strides=2)(x)

    x = inputs = keras.Input((64, 1))
    for filters, count in ((8, 2), (16, 2), (32, 3)):
        x = residual(x, filters, count)
    x = layers.Flatten()(layers.AveragePooling1D(3, strides=3)(x))
    x = layers.Dense(32, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, activation="softmax")(x))


def speech() -> keras.Model:
    x = inputs = keras.Input((None, 17))
    x = layers.Reshape((-1, 17, 1))(x)
    for size, strides in (((5, 7), (2, 2)), ((5, 5), (1, 2))):
        x = layers.Conv2D(16, size, strides, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((-1, x.shape[-2] * x.shape[-1]))(x)
    for _ in range(2):
        x = layers.Bidirectional(
            layers.GRU(16, return_sequences=True, reset_after=True)
        )(x)
        x = layers.Dropout(0.5)(x)
    x = layers.Dropout(0.5)(layers.ReLU()(layers.Dense(32)(x)))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


class Distances(layers.Layer):
    """How far an anchor is from a positive and a negative image."""

    def call(self, anchor, positive, negative):
        return (
            ops.sum(ops.square(anchor - positive), -1),
            ops.sum(ops.square(anchor - negative), -1),
        )


def siamese() -> keras.Model:
    embed = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(24, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(16),
        ]
    )
    three = [
        keras.Input((12, 12, 3), name=name)
        for name in ("anchor", "positive", "negative")
    ]
    return keras.Model(three, Distances()(*map(embed, three)))


class InstanceAttention(layers.Layer):
    """Weights of the instances of a bag, by weights of its own."""

    def __init__(self, width, gated=True, **kwargs):
        super().__init__(**kwargs)
        self.width, self.gated = width, gated

    def build(self, shapes):
        entries = shapes[0][1]
        self.v = self.add_weight(shape=(entries, self.width), name="v")
        self.w = self.add_weight(shape=(self.width, 1), name="w")
        self.u = None
        if self.gated:
            self.u = self.add_weight(shape=(entries, self.width), name="u")

    def call(self, inputs):
        scores = [self.score(each) for each in inputs]
        weights = ops.softmax(ops.stack(scores), 0)
        return [weights[n] for n in range(len(inputs))]

    def score(self, instance):
        x = ops.tanh(ops.tensordot(instance, self.v, axes=1))
        if self.gated:
            gate = ops.tensordot(instance, self.u, axes=1)
            x = x * ops.sigmoid(gate)
        return ops.tensordot(x, self.w, axes=1)


def bags() -> keras.Model:
    inputs, embedded = [], []
    one = layers.Dense(32, activation="relu")
    two = layers.Dense(16, activation="relu")
    for _ in range(3):
        instance = keras.Input((12, 12))
        inputs.append(instance)
        embedded.append(two(one(layers.Flatten()(instance))))
    weights = InstanceAttention(24)(embedded)
    weighted = [
        layers.multiply([w, e]) for w, e in zip(weights, embedded, strict=True)
    ]
    x = layers.Dense(2, activation="softmax")(layers.concatenate(weighted))
    return keras.Model(inputs, x)


class Perceiver(keras.Model):
    """A few latent vectors look at many inputs, again and again."""

    def __init__(self, latents, width, repeats=2, **kwargs):
        super().__init__(**kwargs)
        self.latents, self.width, self.repeats = latents, width, repeats

    def build(self, shape):
        width = self.width
        self.project = layers.Dense(width)
        self.latent = self.add_weight(
            shape=(self.latents, width), name="latent"
        )
        latent = keras.Input((self.latents, width))
        data = keras.Input((shape[1], width))
        x = layers.LayerNormalization(epsilon=1e-6)(latent)
        y = layers.LayerNormalization(epsilon=1e-6)(data)
        q, k = layers.Dense(width)(x), layers.Dense(width)(y)
        v = layers.Dense(width)(y)
        made = layers.Attention(use_scale=True, dropout=0.1)([q, v, k])
        x = layers.Add()([made, x])
        x = layers.LayerNormalization(epsilon=1e-6)(x)
        made = layers.Dense(2 * width, activation="gelu")(x)
        x = layers.Add()([layers.Dense(width)(made), x])
        self.cross = keras.Model([latent, data], x)
        x = inputs = keras.Input((self.latents, width))
        for _ in range(2):
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            y = layers.MultiHeadAttention(4, width, dropout=0.1)(y, y)
            x = layers.Add()([x, y])
            y = layers.LayerNormalization(epsilon=1e-6)(x)
            y = layers.Dense(2 * width, activation="gelu")(y)
            x = layers.Add()([x, layers.Dense(width)(y)])
        self.transformer = keras.Model(inputs, x)
        self.pool = layers.GlobalAveragePooling1D()
        self.head = layers.Dense(CLASSES)

    def call(self, inputs):
        data = self.project(inputs)
        latent = ops.expand_dims(self.latent, 0)
        for _ in range(self.repeats):
            latent = self.transformer(self.cross([latent, data]))
        return self.head(self.pool(latent))


def perceiver():
    model = Perceiver(6, 24)
    data = np.random.default_rng(0).normal(size=(2, 20, 9)).astype("float32")
    model(data)
    return model, data


@registered
class GraphConvolution(layers.Layer):
    """Mixes the features of neighbors in a road network."""

    def __init__(self, neighbors, width, **kwargs):
        super().__init__(**kwargs)
        self.neighbors, self.width = neighbors, width

    def build(self, shape):
        self.weight = self.add_weight(
            shape=(shape[-1], self.width), name="weight"
        )

    def call(self, x):  # Nodes, batch, time, features.
        near = ops.convert_to_tensor(np.array(self.neighbors, "float32"))
        near = ops.einsum("nm,mbtf->nbtf", near, x)
        own = ops.matmul(x, self.weight)
        near = ops.matmul(near, self.weight)
        return ops.relu(ops.concatenate([own, near], axis=-1))

    def get_config(self):
        own = {"neighbors": self.neighbors, "width": self.width}
        return {**super().get_config(), **own}


@registered
class Roads(layers.Layer):
    """A graph convolution, then an LSTM for each node."""

    def __init__(self, neighbors, width, units, steps, **kwargs):
        super().__init__(**kwargs)
        self.own = {
            "neighbors": neighbors,
            "width": width,
            "units": units,
            "steps": steps,
        }
        self.convolve = GraphConvolution(neighbors, width)
        self.lstm = layers.LSTM(units, activation="relu")
        self.dense = layers.Dense(steps)

    def call(self, x):  # Batch, time, nodes, features.
        made = self.convolve(ops.transpose(x, (2, 0, 1, 3)))
        nodes, batch, steps, features = ops.shape(made)
        made = ops.reshape(made, (nodes * batch, steps, features))
        made = self.dense(self.lstm(made))
        made = ops.reshape(made, (nodes, batch, -1))
        return ops.transpose(made, (1, 2, 0))

    def get_config(self):
        return {**super().get_config(), **self.own}


def traffic() -> keras.Model:
    ring = (np.eye(6) + np.roll(np.eye(6), 1, axis=1)).tolist()
    inputs = keras.Input((8, 6, 1))
    return keras.Model(inputs, Roads(ring, 16, 24, 3)(inputs))


def recommender():
    """A product of embeddings, and their biases."""
    model, data = Recommender(), np.array([[1, 2], [3, 4]])
    model(data)
    return model, data


class Recommender(keras.Model):
    """Users and films, each with a vector and a bias."""

    def __init__(self, users=50, films=60, width=16, **kwargs):
        super().__init__(**kwargs)
        self.user = layers.Embedding(users, width)
        self.user_bias = layers.Embedding(users, 1)
        self.film = layers.Embedding(films, width)
        self.film_bias = layers.Embedding(films, 1)

    def call(self, inputs):
        user, film = self.user(inputs[:, 0]), self.film(inputs[:, 1])
        alike = ops.sum(user * film, axis=1, keepdims=True)
        bias = self.user_bias(inputs[:, 0]) + self.film_bias(inputs[:, 1])
        return ops.sigmoid(alike + bias)


EXAMPLES = {
    "Wide and deep": wide_and_deep,
    "Deep and cross": deep_and_cross,
    "Gated residual, variable selection": gated_residual,
    "TabTransformer": tab_transformer,
    "Speakers (1-D ResNet)": speakers,
    "Speech (CNN, GRU)": speech,
    "Siamese network": siamese,
    "Bags of instances": bags,
    "Perceiver": perceiver,
    "Traffic (graph, LSTM)": traffic,
    "Recommender": recommender,
}

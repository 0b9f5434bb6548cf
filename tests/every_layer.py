"""A small model for every rule: `EVERY_LAYER`, by name.

In each of them every group but that of the outputs must be removable.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

EVERY_LAYER = {}
# What mathematics holds back.
HELD_BACK = {"dense_over_other_axes": {"back"}}


def model_of(build):
    """Registers a function that makes a model."""
    EVERY_LAYER[build.__name__] = build
    return build


def chain(shape, *parts, dtype=None):
    x = inputs = keras.Input(shape, dtype=dtype)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def dense(units=6, name=None, activation="relu"):
    return layers.Dense(units, activation=activation, name=name)


def conv(filters=6, name=None, size=3, **kwargs):
    kwargs.setdefault("padding", "same")
    return layers.Conv2D(filters, size, activation="relu", name=name, **kwargs)


# Contractions.


@model_of
def dense_on_any_rank():
    return chain(
        (3, 4, 5), dense(6, "one"), dense(7, "two"), layers.Flatten(), dense(2)
    )


@model_of
def dense_over_other_axes():
    """Token mixing: units pass along an axis that is not contracted."""
    return chain(
        (4, 5),
        dense(6, "channels"),
        layers.Permute((2, 1)),
        dense(7, "tokens"),
        dense(4, "back"),
        layers.Permute((2, 1)),
        layers.GlobalAveragePooling1D(),
        dense(2, "out"),
    )


def transposed(rank):
    make = getattr(layers, f"Conv{rank}DTranspose")
    last = getattr(layers, f"Conv{rank}D")
    return chain(
        (*[4] * rank, 2),
        make(6, 3, strides=2, padding="same", activation="relu", name="one"),
        make(5, 2, name="two"),
        last(2, 1, name="out"),
    )


@model_of
def conv_transpose_1d():
    return transposed(1)


@model_of
def conv_transpose_2d():
    return transposed(2)


@model_of
def conv_transpose_3d():
    return transposed(3)


@model_of
def depthwise_1d():
    return chain(
        (9, 3),
        layers.Conv1D(6, 1, name="one"),
        layers.DepthwiseConv1D(3, depth_multiplier=2, activation="tanh"),
        layers.Conv1D(2, 1),
    )


@model_of
def depthwise_2d():
    return chain(
        (7, 7, 3),
        conv(6, "one"),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(2, depth_multiplier=3),
        layers.Flatten(),
        dense(2),
    )


@model_of
def separable_1d():
    return chain(
        (9, 3),
        layers.SeparableConv1D(6, 3, activation="relu", name="one"),
        layers.SeparableConv1D(5, 2, depth_multiplier=2, name="two"),
        layers.GlobalMaxPooling1D(),
        dense(2),
    )


@model_of
def separable_2d():
    return chain(
        (8, 8, 3),
        conv(6, "zero"),
        layers.SeparableConv2D(6, 3, padding="same", name="one"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.SeparableConv2D(5, 2, depth_multiplier=2, name="two"),
        layers.GlobalAveragePooling2D(),
        dense(2),
    )


@model_of
def grouped_convolution():
    return chain(
        (6, 6, 3),
        conv(8, "one"),
        conv(12, "two", groups=4),
        conv(6, "three", groups=2),
        layers.GlobalAveragePooling2D(),
        dense(2),
    )


@model_of
def convolution_of_each_channel():
    return chain(
        (6, 6, 3),
        conv(6, "one"),
        conv(12, "two", groups=6),
        layers.GlobalAveragePooling2D(),
        dense(2),
    )


@model_of
def einsum_dense():
    return chain(
        (4, 5),
        layers.EinsumDense("abc,cd->abd", (4, 6), bias_axes="d", name="one"),
        layers.EinsumDense(
            "...c,cde->...de", (3, 4), bias_axes="de", name="two"
        ),
        layers.EinsumDense("abde,def->abf", (4, 5), name="three"),
        layers.EinsumDense("abc,bcd->abd", (4, 3), bias_axes="bd"),
        layers.Flatten(),
        dense(2),
    )


@model_of
def embedding():
    return chain(
        (5,),
        layers.Embedding(7, 6, name="table"),
        layers.Conv1D(5, 2, name="one"),
        layers.GlobalMaxPooling1D(),
        dense(2),
        dtype="int32",
    )


@model_of
def embedding_in_reverse():
    inputs = keras.Input((5,), dtype="int32")
    table = layers.ReversibleEmbedding(7, 6, name="table")
    x = table(inputs)
    x = layers.Add()([x, dense(6, "back")(dense(5, "up")(x))])
    return keras.Model(inputs, table(x, reverse=True))


@model_of
def embedding_in_reverse_untied():
    inputs = keras.Input((5,), dtype="int32")
    table = layers.ReversibleEmbedding(7, 6, tie_weights=False, name="table")
    x = layers.ReLU()(table(inputs))
    return keras.Model(inputs, table(x, reverse=True))


# Attention.


@model_of
def multi_head_attention():
    x = inputs = keras.Input((5, 4))
    x = dense(6, "one")(x)
    x = layers.MultiHeadAttention(3, 4, name="heads")(x, x)
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def cross_attention():
    one, two = keras.Input((5, 4)), keras.Input((3, 4))
    x = layers.MultiHeadAttention(
        3, 4, value_dim=5, output_shape=7, dropout=0.1, name="heads"
    )(dense(6, "query")(one), dense(5, "value")(two), dense(8, "key")(two))
    return keras.Model([one, two], dense(2)(x))


@model_of
def attention_with_a_gate_and_no_bias():
    x = inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(
        3, 4, use_gate=True, use_bias=False, name="heads"
    )(x, x, use_causal_mask=True)
    return keras.Model(inputs, dense(2)(x))


@model_of
def grouped_query_attention():
    x = inputs = keras.Input((5, 4))
    x = dense(6, "one")(x)
    y = layers.GroupQueryAttention(4, 6, 3, name="heads")(x, x)
    x = layers.Add()([x, y])
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def attention_without_weights():
    inputs = keras.Input((5, 4))
    query, key = dense(6, "query")(inputs), dense(6, "key")(inputs)
    value = dense(5, "value")(inputs)
    x = layers.Attention(use_scale=True)([query, value, key])
    y = layers.AdditiveAttention()([dense(6, "other")(inputs), x_to(6)(x)])
    return keras.Model(inputs, dense(2)(layers.Concatenate()([x, y])))


def x_to(units):
    return layers.Dense(units, name="narrow")


@model_of
def dot():
    inputs = keras.Input((5, 4))
    one, two = dense(6, "one")(inputs), dense(6, "two")(inputs)
    x = layers.Dot(axes=(2, 2))([one, two])
    y = layers.Dot(axes=(1, 1), normalize=True)(
        [one, dense(3, "three")(inputs)]
    )
    x = layers.Concatenate()([layers.Flatten()(x), ops.sum(y, axis=1)])
    return keras.Model(inputs, dense(2)(x))


# Recurrent layers.


def recurrent(make):
    return chain(
        (5, 4),
        dense(6, "one"),
        make(6, return_sequences=True, name="first"),
        make(5, name="second"),
        dense(2),
    )


@model_of
def simple_rnn():
    return recurrent(layers.SimpleRNN)


@model_of
def lstm():
    return recurrent(layers.LSTM)


@model_of
def gru():
    return recurrent(layers.GRU)


@model_of
def gru_with_the_other_bias():
    def make(*args, **kwargs):
        return layers.GRU(*args, reset_after=False, **kwargs)

    return recurrent(make)


@model_of
def recurrent_without_bias():
    def make(*args, **kwargs):
        return layers.LSTM(*args, use_bias=False, **kwargs)

    return recurrent(make)


@model_of
def encoder_and_decoder():
    one, two = keras.Input((5, 4)), keras.Input((3, 4))
    _, h, c = layers.LSTM(6, return_state=True, name="encoder")(one)
    x, h, _ = layers.LSTM(
        6, return_sequences=True, return_state=True, name="decoder"
    )(two, initial_state=[h, c])
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model([one, two], dense(2)(layers.Concatenate()([x, h])))


@model_of
def bidirectional():
    def both(units, name, mode, make=layers.LSTM):
        return layers.Bidirectional(
            make(units, return_sequences=True), merge_mode=mode, name=name
        )

    return chain(
        (5, 4),
        both(6, "side_by_side", "concat"),
        both(5, "added", "sum", layers.GRU),
        both(4, "multiplied", "mul", layers.SimpleRNN),
        layers.GlobalMaxPooling1D(),
        dense(2),
    )


@model_of
def bidirectional_apart():
    inputs = keras.Input((5, 4))
    one, two = layers.Bidirectional(
        layers.LSTM(6), merge_mode=None, name="apart"
    )(inputs)
    return keras.Model(inputs, dense(2)(layers.Subtract()([one, two])))


@model_of
def cells():
    return chain(
        (5, 4),
        layers.RNN(layers.GRUCell(6), return_sequences=True, name="one"),
        layers.RNN(
            [layers.LSTMCell(6), layers.SimpleRNNCell(5)], name="stacked"
        ),
        dense(2),
    )


def conv_lstm(rank):
    make = getattr(layers, f"ConvLSTM{rank}D")
    return chain(
        (3, *[5] * rank, 2),
        make(6, 3, padding="same", return_sequences=True, name="first"),
        make(4, 2, name="second"),
        layers.Flatten(),
        dense(2),
    )


@model_of
def conv_lstm_1d():
    return conv_lstm(1)


@model_of
def conv_lstm_2d():
    return conv_lstm(2)


@model_of
def conv_lstm_3d():
    return conv_lstm(3)


@model_of
def conv_lstm_channels_first():
    # Never as many channels as columns: see `channels_first`.
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 2, 5, 7))
    x = layers.ConvLSTM2D(
        8, 3, padding="same", return_sequences=True, name="first", **first
    )(x)
    x, state, _ = layers.ConvLSTM2D(
        4, 2, return_state=True, name="second", **first
    )(x)
    x = layers.Conv2D(5, 1, name="third", **first)(x + state)
    x = layers.Flatten(data_format="channels_first")(x)
    return keras.Model(inputs, dense(2)(x))


# Layers that hold others.


@model_of
def time_distributed():
    return chain(
        (3, 6, 6, 2),
        layers.TimeDistributed(conv(6), name="one"),
        layers.TimeDistributed(layers.MaxPooling2D(2)),
        layers.TimeDistributed(layers.DepthwiseConv2D(2)),
        layers.TimeDistributed(layers.Flatten()),
        layers.TimeDistributed(dense(5), name="two"),
        layers.LSTM(4, name="three"),
        dense(2),
    )


@model_of
def spectral_normalization():
    return chain(
        (6, 6, 2),
        layers.SpectralNormalization(conv(6), name="one"),
        layers.Flatten(),
        layers.SpectralNormalization(dense(5), name="two"),
        dense(2),
    )


# Normalizations.


@model_of
def rms_normalization():
    x = inputs = keras.Input((5,))
    x = layers.Dense(6, name="stem")(x)
    for block in "ab":
        y = layers.RMSNormalization(name=f"norm_{block}")(x)
        y = dense(7, f"up_{block}", "silu")(y)
        x = layers.Add()([x, layers.Dense(6, name=f"down_{block}")(y)])
    return keras.Model(inputs, dense(2)(layers.RMSNormalization()(x)))


@model_of
def unit_normalization():
    return chain((5,), dense(6, "one"), layers.UnitNormalization(), dense(2))


@model_of
def normalizations_over_other_axes():
    return chain(
        (4, 5),
        dense(6, "one"),
        layers.BatchNormalization(axis=1),
        layers.Softmax(axis=1),
        dense(2),
    )


@model_of
def instance_normalization():
    return chain(
        (5, 5, 2),
        conv(6, "one"),
        layers.GroupNormalization(groups=-1),
        conv(5, "two"),
        layers.GroupNormalization(groups=5, scale=False),
        layers.Flatten(),
        dense(2),
    )


# Each unit by itself.


@model_of
def parametric_relu():
    return chain(
        (5, 5, 2),
        conv(6, "one"),
        layers.PReLU(name="own"),
        conv(5, "two"),
        layers.PReLU(shared_axes=[1, 2], name="shared"),
        layers.Flatten(),
        dense(4, "three"),
        layers.PReLU(shared_axes=[1]),
        dense(2),
    )


@model_of
def rescaling():
    return chain(
        (5,),
        dense(6, "one"),
        layers.Rescaling(2.0, offset=1.0),
        dense(4, "two"),
        layers.Rescaling([1.0, 2.0, 3.0, 4.0], offset=[0.1, 0.2, 0.3, 0.4]),
        dense(2),
    )


@model_of
def masking():
    return chain(
        (5, 4), dense(6, "one"), layers.Masking(), layers.LSTM(5), dense(2)
    )


@model_of
def noise():
    return chain(
        (5, 6),
        dense(6, "one"),
        layers.GaussianNoise(0.1),
        layers.GaussianDropout(0.1),
        layers.AlphaDropout(0.1),
        layers.SpatialDropout1D(0.1),
        layers.ActivityRegularization(l2=0.1),
        layers.Flatten(),
        dense(2),
    )


# Masks, which travel with a tensor or as an argument of their own.


def words(length=5):
    """Word numbers, and their rows in a table that masks number 0."""
    inputs = keras.Input((length,), dtype="int32")
    table = layers.Embedding(7, 6, mask_zero=True, name=f"table_{length}")
    return inputs, table(inputs)


@model_of
def masked_text_classifier():
    inputs, x = words()
    x = layers.BatchNormalization()(dense(6, "one")(x))
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)
    x = layers.GRU(4, name="two")(layers.Dropout(0.1)(x))
    return keras.Model(inputs, dense(2)(x))


@model_of
def masked_means():
    inputs, x = words()
    x = layers.GlobalAveragePooling1D()(dense(6, "one")(x))
    return keras.Model(inputs, dense(2)(x))


@model_of
def masked_normalizations():
    inputs, x = words()
    x = layers.BatchNormalization()(x)
    x = layers.RMSNormalization()(dense(6, "one")(x))
    x = layers.UnitNormalization()(dense(5, "two")(x))
    x = layers.GroupNormalization(-1)(dense(4, "three")(x))
    return keras.Model(inputs, dense(2)(layers.SimpleRNN(4, name="last")(x)))


@model_of
def masked_attention():
    inputs, x = words()
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3, name="mha")(x, x)])
    query, key = dense(4, "query")(x), dense(4, "key")(x)
    x = layers.Attention()([query, dense(5, "value")(x), key])
    y = layers.GroupQueryAttention(2, 3, 1, name="gqa")(x, x)
    x = layers.LSTM(3, name="last")(layers.Concatenate()([x, y]))
    return keras.Model(inputs, dense(2)(x))


@model_of
def masked_steps_of_steps():
    inputs = keras.Input((3, 4), dtype="int32")
    x = layers.Embedding(7, 6, mask_zero=True, name="table")(inputs)
    x = layers.TimeDistributed(dense(5), name="one")(x)
    x = layers.TimeDistributed(layers.LSTM(4), name="two")(x)
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def masked_nested():
    inside = keras.Input((5, 6))
    x = layers.LSTM(4, return_sequences=True, name="inner")(inside)
    inner = keras.Model(inside, dense(6, "back")(x), name="block")
    around = keras.Sequential(
        [keras.Input((5, 6)), layers.Dense(6), layers.LSTM(4)]
    )
    inputs, x = words()
    x = layers.Add()([inner(x), x])
    return keras.Model(inputs, dense(2)(around(inner(x))))


@model_of
def masked_merges():
    """One mask, two, and none beside one."""
    (one, x), (two, y) = words(), words(4)
    y = layers.ZeroPadding1D((1, 0))(dense(6, "longer")(y))
    z = layers.Concatenate()([dense(5, "side")(x), y])
    x = layers.Maximum()([layers.LeakyReLU()(x), dense(6, "other")(x)])
    x = layers.Concatenate(axis=1)([dense(4, "a")(x), dense(4, "b")(z)])
    return keras.Model([one, two], dense(2)(layers.GRU(3, name="last")(x)))


@model_of
def mask_as_argument():
    inputs = keras.Input((5, 4))
    x = dense(6, "one")(inputs)
    mask = ops.any(ops.not_equal(inputs, 0), axis=-1)
    x = layers.LSTM(5, return_sequences=True, name="two")(x, mask=mask)
    inner = keras.Sequential(
        [keras.Input((5, 5)), layers.SimpleRNN(4, name="three")], name="block"
    )
    return keras.Model(inputs, dense(2)(inner(x, mask=mask)))


# Positions.


@model_of
def upsampling():
    return chain(
        (4, 4, 2),
        conv(6, "one"),
        layers.UpSampling2D(2),
        conv(5, "two"),
        layers.UpSampling2D(2, interpolation="bilinear"),
        conv(4, "three"),
        layers.Resizing(5, 5),
        layers.CenterCrop(3, 3),
        layers.Flatten(),
        dense(2),
    )


@model_of
def reshape():
    return chain(
        (5,),
        dense(24, "spread"),
        layers.Reshape((2, 2, 6)),
        conv(6, "one"),
        layers.Reshape((4, 6)),
        layers.Permute((2, 1)),
        layers.Reshape((24,)),
        dense(5, "two"),
        layers.RepeatVector(3),
        layers.Conv1D(4, 2, name="three"),
        layers.Flatten(),
        dense(2),
    )


@model_of
def adaptive_pooling():
    return chain(
        (6, 6, 2),
        conv(6, "one"),
        layers.AdaptiveAveragePooling2D(3),
        conv(5, "two"),
        layers.AdaptiveMaxPooling2D(2),
        layers.Flatten(),
        dense(2),
    )


# Merging.


@model_of
def squeeze_and_excite():
    inputs = keras.Input((6, 6, 3))
    x = conv(8, "expand")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", name="filter")(x)
    y = layers.GlobalAveragePooling2D()(x)
    y = layers.Reshape((1, 1, 8))(y)
    y = conv(4, "squeeze", 1)(y)
    y = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(y)
    x = layers.Multiply()([x, y])
    x = layers.Conv2D(3, 1, name="project")(x)
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def broadcasting():
    inputs = keras.Input((6, 6, 3))
    x = conv(6, "one")(inputs)
    y = dense(6, "bias")(layers.GlobalMaxPooling2D()(x))
    x = layers.Add()([x, y])  # Keras adds axes after the batch.
    z = layers.Conv2D(1, 1, activation="sigmoid", name="where")(x)
    x = layers.Multiply()([x, z])
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def many_merges():
    inputs = keras.Input((5,))
    parts = [dense(6, f"part_{n}")(inputs) for n in range(3)]
    x = layers.Average()(parts)
    y = layers.Minimum()([layers.Maximum()(parts[:2]), parts[2]])
    return keras.Model(inputs, dense(2)(layers.Multiply()([x, y])))


@model_of
def concatenate_steps():
    inputs = keras.Input((3, 4))
    one, two = dense(6, "one")(inputs), dense(6, "two")(inputs)
    x = layers.Concatenate(axis=1)([one, two])
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


# keras.ops.


@model_of
def arithmetic():
    inputs = keras.Input((5,))
    one, two = dense(6, "one")(inputs), dense(6, "two")(inputs)
    x = 2 * ops.relu(one - two) + one * two / 3 - 1
    x = ops.maximum(ops.tanh(x), 0.1 * ops.square(x))
    x = -x / (1 + ops.exp(-x))
    return keras.Model(inputs, dense(2)(ops.cast(x, "float32")))


@model_of
def shapes_by_functions():
    inputs = keras.Input((4, 4, 3))
    x = conv(6, "one")(inputs)
    x = ops.reshape(x, (-1, 16, 6))
    x = ops.transpose(x, (0, 2, 1))
    x = ops.expand_dims(x, 1)
    x = ops.swapaxes(ops.squeeze(x, 1), 1, 2)
    x = ops.pad(x, ((0, 0), (1, 0), (0, 0)))
    x = ops.concatenate([x[:, :1], x[:, 4:8]], axis=1)
    x = ops.flip(x, axis=-1)
    x = dense(5, "two")(x)
    x = ops.stack([x, ops.relu(x)], axis=1)
    return keras.Model(inputs, dense(2)(layers.Flatten()(x)))


@model_of
def reductions():
    inputs = keras.Input((4, 4, 3))
    x = conv(6, "one")(inputs)
    mean = ops.mean(x, axis=(1, 2))
    top = ops.max(x, axis=[1, 2], keepdims=True)
    spread = ops.var(x, axis=(1, 2))
    total = ops.sum(ops.sum(x, axis=-1), axis=-1)
    parts = [mean, ops.reshape(top, (-1, 6)), spread, total]
    return keras.Model(inputs, dense(2)(ops.concatenate(parts, axis=-1)))


@model_of
def gate_in_halves():
    inputs = keras.Input((4, 5))
    one, two = ops.split(dense(12, "both")(inputs), 2, axis=-1)
    x = one * ops.sigmoid(two)
    first, last = ops.split(x, 2, axis=1)
    return keras.Model(inputs, dense(2)(first + last))


@model_of
def einsum_and_matmul():
    inputs = keras.Input((4, 5))
    query, key = dense(6, "query")(inputs), dense(6, "key")(inputs)
    value = dense(7, "value")(inputs)
    scores = ops.einsum("...qd,...kd->...qk", query, key)
    scores = ops.softmax(scores, axis=-1)
    x = ops.matmul(scores, value) + ops.einsum("bqk,bkd->bqd", scores, value)
    return keras.Model(inputs, dense(2)(x))


@model_of
def patches_of_units():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(5, 1, name="one")(inputs)
    near = ops.image.extract_patches(x, 3, strides=1, padding="same")
    x = dense(6, "two")(near) + dense(6, "three")(x)
    return keras.Model(inputs, dense(2)(ops.image.extract_patches(x, 2)))


@model_of
def windows_become_rows_of_the_batch():
    inputs = keras.Input((4, 4, 3))
    x = ops.reshape(dense(6, "one")(inputs), (-1, 2, 2, 2, 2, 6))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 6))
    x = ops.reshape(dense(5, "two")(x), (-1, 2, 2, 2, 2, 5))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 4, 5))
    return keras.Model(inputs, dense(2)(x))


# Models.


@model_of
def nested_several_times():
    inside = keras.Input((6,))
    x = layers.BatchNormalization()(dense(5, "inner")(inside))
    x = layers.Dense(6, name="back")(x)
    block = keras.Model(inside, x, name="block")
    around = keras.Sequential([keras.Input((6,)), block, dense(6, "o")])
    inputs = keras.Input((3,))
    x = dense(6, "stem")(inputs)
    x = layers.Add()([x, block(x)])
    x = layers.Add()([x, around(x)])
    return keras.Model(inputs, dense(2)(x))


@model_of
def fixed_places():
    inputs = keras.Input((4, 5))
    x = dense(8, "one")(inputs)
    a, b = ops.split(dense(9, "two")(x), [4], axis=-1)
    x = x[..., :4] * ops.sigmoid(x[..., 4:])
    x = ops.roll(layers.Dense(6, name="three")(x), 2, axis=-1)
    x = ops.where(np.arange(6) % 3 == 0, x, ops.relu(x) * np.arange(6))
    y = ops.concatenate([x, a, ops.take(b, [3, 0, 4, 1, 2], axis=-1)], -1)
    return keras.Model(inputs, dense(2)(layers.Flatten()(y)))


@model_of
def mixed_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    return chain(
        (6, 6, 2),
        layers.Conv2D(6, 3, dtype=policy, name="one"),
        layers.BatchNormalization(dtype=policy),
        layers.ReLU(dtype=policy),
        layers.Flatten(dtype=policy),
        layers.Dense(5, dtype=policy, name="two"),
        layers.Dense(2, dtype="float32"),
    )


@model_of
def channels_first():
    # Never as many channels as columns: Keras 3.15 on TensorFlow then adds
    # biases along the wrong axis.
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 7, 7))
    x = layers.Conv2D(6, 3, padding="same", name="one", **first)(x)
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.DepthwiseConv2D(3, padding="same", **first)(x)
    x = layers.MaxPooling2D(2, **first)(x)
    y = layers.Conv2D(6, 1, name="two", **first)(x)
    x = layers.Concatenate(axis=1)([x, y])
    x = layers.SeparableConv2D(5, 2, name="three", **first)(x)
    x = layers.Flatten(**first)(x)
    return keras.Model(inputs, dense(2)(x))

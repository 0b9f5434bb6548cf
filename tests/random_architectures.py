"""Random models of all rules: branches, merges, nesting and shared layers."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

MIN_SIZE, MAX_SIZE = 3, 7  # Units of a layer.


def generate(seed: int) -> keras.Model:
    """A random model on vectors, sequences or images."""
    rng = np.random.default_rng(seed)
    kind = ("vector", "sequence", "image")[rng.integers(3)]
    shape = {"vector": (5,), "sequence": (6, 4), "image": (7, 7, 2)}[kind]
    inputs = keras.Input(shape)
    x = Grower(rng, kind).grow(inputs, int(rng.integers(3, 8)))
    if kind != "vector":
        x = Grower(rng, kind).to_vector(x)
        x = Grower(rng, "vector").grow(x, int(rng.integers(2)))
    return keras.Model(inputs, layers.Dense(3)(x))


class Grower:
    """Appends random layers to a tensor of one kind."""

    def __init__(self, rng, kind, may_nest=True):
        self.rng = rng
        self.kind = kind
        self.may_nest = may_nest

    def grow(self, x, depth):
        steps = [
            self.unit_layer,
            self.normalized,
            self.carrier,
            self.function,
            self.residual,
            self.side_by_side,
            self.gate,
            self.shared,
            self.special,
        ]
        if self.may_nest:
            steps.append(self.nested)
        for _ in range(depth):
            x = self.pick(steps)(x)
        return x

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def size(self):
        return int(self.rng.integers(MIN_SIZE, MAX_SIZE + 1))

    def make(self, units=None, bias=None):
        """A layer that makes units, and keeps the shape of positions."""
        units = self.size() if units is None else units
        bias = bool(self.rng.integers(2)) if bias is None else bias
        size = int(self.rng.integers(1, 4))
        options = {"padding": "same", "use_bias": bias}
        return {
            "vector": [lambda: layers.Dense(units, use_bias=bias)],
            "sequence": [
                lambda: layers.Dense(units, use_bias=bias),
                lambda: layers.Conv1D(units, size, **options),
                lambda: layers.SeparableConv1D(units, size, **options),
                lambda: layers.EinsumDense(
                    "...c,cd->...d", units, bias_axes="d"
                ),
                lambda: layers.LSTM(units, return_sequences=True),
                lambda: layers.GRU(units, return_sequences=True),
                lambda: layers.TimeDistributed(layers.Dense(units)),
            ],
            "image": [
                lambda: layers.Conv2D(units, size, **options),
                lambda: layers.Conv2DTranspose(units, size, **options),
                lambda: layers.SeparableConv2D(units, size, **options),
                lambda: layers.Dense(units, use_bias=bias),
                lambda: layers.SpectralNormalization(
                    layers.Conv2D(units, size, **options)
                ),
            ],
        }[self.kind]

    def unit_layer(self, x, units=None):
        return self.pick(self.make(units))()(x)

    def normalized(self, x):
        x = self.unit_layer(x)
        norms = [
            layers.BatchNormalization,
            layers.RMSNormalization,
            layers.UnitNormalization,
        ]
        if self.kind != "vector":
            norms.append(lambda: layers.GroupNormalization(groups=-1))
        return self.activation(self.pick(norms)()(x))

    def activation(self, x):
        return self.pick(
            [
                layers.ReLU(),
                layers.LeakyReLU(),
                layers.PReLU(),
                layers.Activation("tanh"),
                layers.Activation("gelu"),
                layers.Identity(),
            ]
        )(x)

    def carrier(self, x):
        """What units pass through."""
        choices = [layers.Dropout(0.5), layers.Rescaling(0.5, 0.1)]
        if self.kind == "sequence":
            choices += [
                layers.DepthwiseConv1D(2, padding="same", depth_multiplier=2),
                layers.MaxPooling1D(2, strides=1),
                layers.ZeroPadding1D(1),
                layers.UpSampling1D(2),
            ]
        if self.kind == "image" and min(x.shape[1:3]) > 3:
            choices += [
                layers.DepthwiseConv2D(3, padding="same"),
                layers.DepthwiseConv2D(2, depth_multiplier=2),
                layers.MaxPooling2D(2),
                layers.AveragePooling2D(2, padding="same"),
                layers.ZeroPadding2D(1),
                layers.Cropping2D(((1, 0), (0, 1))),
            ]
        elif self.kind == "image":
            choices += [layers.UpSampling2D(2, interpolation="bilinear")]
        # Widths must not run away.
        return self.pick(choices)(x) if x.shape[-1] < 20 else x

    def function(self, x):
        """Functions of `keras.ops`."""
        rank = len(x.shape)
        return self.pick(
            [
                ops.relu,
                lambda x: 2 * x - 1,
                lambda x: x * ops.sigmoid(x),
                lambda x: ops.maximum(x, 0.1 * x),
                lambda x: ops.flip(x, axis=-1),
                lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
                lambda x: ops.transpose(
                    ops.transpose(x, (0, rank - 1, *range(1, rank - 1))),
                    (0, *range(2, rank), 1),
                ),
                lambda x: (
                    ops.concatenate([x, ops.tanh(x)], axis=-1)
                    if x.shape[-1] < 20
                    else x
                ),
            ]
        )(x)

    def residual(self, x):
        x = self.unit_layer(x)
        y = self.activation(self.unit_layer(x))
        y = self.unit_layer(y, x.shape[-1])
        merge = self.pick(
            [
                layers.Add(),
                layers.Subtract(),
                layers.Maximum(),
                layers.Multiply(),
                layers.Average(),
            ]
        )
        return self.activation(merge([x, y]))

    def side_by_side(self, x):
        sides = [self.activation(self.unit_layer(x)) for _ in range(2)]
        if self.rng.integers(2) and x.shape[-1] < 20:
            sides.append(x)
        return layers.Concatenate()(sides)

    def gate(self, x):
        """Squeeze and excite, or a gate of half the units."""
        if self.kind != "image" or self.rng.integers(2):
            units = self.size()
            one, two = ops.split(self.unit_layer(x, 2 * units), 2, axis=-1)
            return one * ops.sigmoid(two)
        x = self.activation(self.unit_layer(x))
        y = layers.GlobalAveragePooling2D()(x)
        y = layers.Dense(self.size(), "relu")(y)
        y = layers.Dense(x.shape[-1], "sigmoid")(y)
        y = layers.Reshape((1, 1, x.shape[-1]))(y)
        return layers.Multiply()([x, y])

    def shared(self, x):
        """One layer that is called twice."""
        x = self.unit_layer(x)
        layer = self.pick(self.make(x.shape[-1]))()
        return layer(self.activation(layer(x)))

    def special(self, x):
        if self.kind == "sequence":
            return self.pick([self.attention, self.bidirectional])(x)
        if self.kind == "image":
            return self.grouped(x)
        return self.spread(x)

    def attention(self, x):
        x = self.unit_layer(x)
        y = self.pick(
            [
                layers.MultiHeadAttention(3, 4),
                layers.MultiHeadAttention(3, 4, use_gate=True),
                layers.GroupQueryAttention(4, 4, 2),
            ]
        )(x, x)
        return layers.Add()([x, y])

    def bidirectional(self, x):
        mode = self.pick(["concat", "sum", "mul", "ave"])
        make = self.pick([layers.LSTM, layers.GRU, layers.SimpleRNN])
        return layers.Bidirectional(
            make(self.size(), return_sequences=True), merge_mode=mode
        )(x)

    def grouped(self, x):
        x = self.unit_layer(x, 8)
        groups = int(self.pick([2, 4, 8]))
        return layers.Conv2D(8, 3, padding="same", groups=groups)(x)

    def spread(self, x):
        """A vector that becomes an image, and a vector again."""
        units = self.size()
        x = layers.Dense(4 * units)(x)
        x = layers.Reshape((2, 2, units))(x)
        x = layers.Conv2D(self.size(), 2, padding="same")(x)
        return layers.Flatten()(x)

    def nested(self, x):
        inside = keras.Input(x.shape[1:])
        grower = Grower(self.rng, self.kind, may_nest=False)
        return keras.Model(inside, grower.grow(inside, 2))(x)

    def to_vector(self, x):
        if self.kind == "sequence":
            choices = [
                layers.LSTM(self.size()),
                layers.GlobalMaxPooling1D(),
                layers.Flatten(),
            ]
        else:
            choices = [
                layers.Flatten(),
                layers.GlobalAveragePooling2D(),
                layers.GlobalMaxPooling2D(),
            ]
        return self.pick(choices)(x)

"""Random models of all rules.

Branches, merges, nesting, layers shared with each other and with inputs, masks,
scores of attention, padding with numbers, states, augmentation, dtypes, and
layers of layers; some models are inlined.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

import keras_apoptosis as ka
from tests.architectures import sample

MIN_SIZE, MAX_SIZE = 3, 7  # Units of a layer.
BATCH = 8  # Stateful layers and constants want to know.
SHAPES = {
    "vector": (5,),
    "sequence": (6, 4),
    "image": (7, 7, 2),
    "words": (6,),
}
DTYPES = (*["float32"] * 9, "float64", "float16", "bfloat16")


def generate(seed: int) -> keras.Model:
    """Returns a random model on vectors, sequences, images or words."""
    rng = np.random.default_rng(seed)
    kind = list(SHAPES)[rng.integers(len(SHAPES))]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_of(seed))
    try:
        model = _model(rng, kind)
        return ka.inline(model) if seed % 5 == 4 else model
    finally:
        keras.config.set_dtype_policy(before)


def dtype_of(seed: int) -> str:
    """Returns the dtype of all layers of a random model."""
    return DTYPES[seed % len(DTYPES)]


def inputs_of(model: keras.Model, seed: int):
    """Returns inputs for a random model, some steps of which are masked."""
    inputs = sample(model, BATCH, seed)
    if inputs.ndim == 3:
        inputs[::2, 4:] = 0
    return inputs


def _model(rng, kind):
    dtype = "int32" if kind == "words" else None
    x = inputs = keras.Input(SHAPES[kind], batch_size=BATCH, dtype=dtype)
    if kind == "words":
        x = layers.Embedding(7, 4, mask_zero=True)(x)
        kind = "sequence"
    grower = Grower(rng, kind)
    x = grower.grow(grower.first(x), int(rng.integers(3, 8)))
    if kind != "vector":
        x = Grower(rng, kind).to_vector(x)
        x = Grower(rng, "vector").grow(x, int(rng.integers(2)))
    return keras.Model(inputs, layers.Dense(3)(x))


def recurrent(make, units, **options):
    """Returns a recurrent layer that starts in any dtype."""
    # PyTorch makes no orthogonal matrices of 16 bits.
    options = {"return_sequences": True, **options}
    return make(units, recurrent_initializer="glorot_uniform", **options)


def attending() -> dict:
    """Returns options of attention that its backend can compute."""
    half = keras.config.dtype_policy().compute_dtype == "float16"
    if half and keras.backend.backend() == "jax":
        return {"dtype": "float32"}  # On CPUs it has none in float16.
    return {}


class Block(layers.Layer):
    """A pair of layers, with weights of its own, and maybe a residual."""

    def __init__(self, hidden: int, residual: bool, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.residual = hidden, residual
        self.supports_masking = True

    def build(self, shape: tuple) -> None:
        kind = {"dtype": self.dtype_policy}
        self.up = layers.Dense(self.hidden, "gelu", name="up", **kind)
        self.up.build(shape)
        self.down = layers.Dense(shape[-1], name="down", **kind)
        self.down.build((*shape[:-1], self.hidden))
        self.scale = self.add_weight(shape=(self.hidden,), name="scale")

    def call(self, inputs):
        x = self.down(self.up(inputs) * self.scale)
        return inputs + x if self.residual else x

    def get_config(self) -> dict:
        own = {"hidden": self.hidden, "residual": self.residual}
        return {**super().get_config(), **own}


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
            self.composite,
        ]
        if self.may_nest:
            steps.append(self.nested)
        for _ in range(depth):
            x = self.pick(steps)(x)
        return x

    def first(self, x):
        """Returns what an input may pass before anything else."""
        choice = self.rng.integers(6)
        if choice == 0:  # One layer for units and for what is none.
            layer = self.pick(self.make())()
            y = layer(layers.Dense(x.shape[-1])(x))
            return layers.Concatenate()([y, layer(x)])
        if choice == 1 and self.kind == "image":
            return self.pick(
                [
                    layers.RandomTranslation(0.3, 0.3),
                    layers.RandomRotation(0.5),
                    layers.RandomErasing(1.0),
                ]
            )(x)
        if choice == 1 and self.kind == "sequence":
            return layers.Masking()(x)
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
                lambda: recurrent(layers.LSTM, units),
                lambda: recurrent(layers.GRU, units),
                lambda: recurrent(layers.GRU, units, stateful=True),
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
        shape = [1 if self.rng.integers(2) else n for n in x.shape[1:]]
        choices = [
            layers.Dropout(0.5),
            layers.Dropout(0.5, noise_shape=(None, *shape)),
            layers.Rescaling(0.5, 0.1),
            self.padded,
        ]
        if self.kind == "sequence":
            choices += [
                layers.Masking(),
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

    def padded(self, x):
        """Adds zeros or other numbers around positions, or units."""
        along = self.rng.integers(1, len(x.shape))
        width = [[0, 0] for _ in x.shape]
        width[along] = [1, 0]
        number = self.pick([0, 0, 0.5])
        return ops.pad(x, width, constant_values=number)

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
            choices = [self.attention, self.bidirectional, self.scores]
            return self.pick(choices)(x)
        if self.kind == "image":
            return self.grouped(x)
        return self.spread(x)

    def attention(self, x):
        x = self.unit_layer(x)
        y = self.pick(
            [
                layers.MultiHeadAttention(3, 4, **attending()),
                layers.MultiHeadAttention(3, 4, use_gate=True, **attending()),
                layers.GroupQueryAttention(4, 4, 2, **attending()),
            ]
        )(x, x)
        return layers.Add()([x, y])

    def scores(self, x):
        """Attention whose scores are read, or only computed."""
        x = self.unit_layer(x)
        y, scores = layers.MultiHeadAttention(3, 4, **attending())(
            x, x, return_attention_scores=True
        )
        if self.rng.integers(2):
            return y
        return layers.Concatenate()([y, ops.mean(scores, axis=1)])

    def bidirectional(self, x):
        mode = self.pick(["concat", "sum", "mul", "ave", None])
        make = self.pick([layers.LSTM, layers.GRU, layers.SimpleRNN])
        x = layers.Bidirectional(recurrent(make, self.size()), merge_mode=mode)(
            x
        )
        return layers.Concatenate()(x) if mode is None else x

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

    def composite(self, x):
        """A layer of layers, which has no rule."""
        x = self.unit_layer(x)
        return Block(self.size(), bool(self.rng.integers(2)))(x)

    def nested(self, x):
        inside = keras.Input(x.shape[1:], batch_size=BATCH)
        grower = Grower(self.rng, self.kind, may_nest=False)
        return keras.Model(inside, grower.grow(inside, 2))(x)

    def to_vector(self, x):
        if self.kind == "sequence":
            choices = [
                recurrent(layers.LSTM, self.size(), return_sequences=False),
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

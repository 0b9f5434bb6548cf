"""FLOPs of models whose inputs leave lengths open, worked out by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.accounting.costs import flop_cost, widths_of
from keras_apoptosis.graph import analyse
from tests.every_layer import chain


def text():
    return chain((None,), layers.Embedding(100, 4), layers.LSTM(8))


def image():
    return chain(
        (None, None, 3),
        layers.Conv2D(4, 3, strides=2, padding="same"),
        layers.Conv2D(5, 3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )


def attention():
    x = inputs = keras.Input((None, 4))
    return keras.Model(
        inputs, layers.MultiHeadAttention(2, 3, value_dim=6)(x, x)
    )


def attention_without_projections():
    x = inputs = keras.Input((None, 4))
    return keras.Model(inputs, layers.Attention()([x, layers.Dense(4)(x)]))


def two_inputs():
    left = keras.Input((None, 4), name="left")
    right = keras.Input((None, None, 3), name="right")
    a = layers.GlobalMaxPooling1D()(layers.Dense(5)(left))
    b = layers.GlobalMaxPooling2D()(layers.Conv2D(5, 2)(right))
    return keras.Model([left, right], layers.Dense(2)(layers.add([a, b])))


class Pooled(layers.Layer):
    """Uses weights of its own; where it is cut into windows, samples stand."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6))

    def call(self, inputs):
        size = ops.shape(inputs)
        windows = ops.reshape(inputs, (-1, 4, size[-1]))
        made = ops.matmul(windows, self.kernel)
        scores = ops.matmul(made, ops.transpose(made, (0, 2, 1)))
        return ops.reshape(ops.matmul(scores, made), (size[0], size[1], 6))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 6)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Conv1D(4, 3), layers.Dense(2)

    def call(self, inputs):
        return ops.mean(self.two(self.one(inputs)), 1)


def subclass():
    model = Subclass()
    model.build((None, None, 3))
    return model


def functions():
    x = inputs = keras.Input((None, 4))
    y = layers.Dense(4)(x)
    scores = ops.einsum("...qd,...kd->...qk", x, y)
    return keras.Model(inputs, ops.einsum("bqk,bkd->bqd", scores, x))


# What is to be called, a shape, the multiplications at that shape, and those
# for each position.
BY_HAND = {
    # Four gates of 8 units from 4 inputs and themselves.
    "text": (text, (10,), 10 * 4 * 8 * (4 + 8), 4 * 8 * (4 + 8)),
    # 8 x 7 pixels become 4 x 4, then 2 x 2. Each pixel is a quarter of one.
    "image": (
        image,
        (8, 7, 3),
        16 * 9 * 3 * 4 + 4 * 9 * 4 * 5 + 5 * 2,
        9 * 3 * 4 / 4 + 9 * 4 * 5 / 4 + 5 * 2,
    ),
    # 4 to 2 heads of 3, 3 and 6; 2 heads of 5 x 5 scores of 3 and 6 entries;
    # back from 12 to 4.
    "attention": (
        attention,
        (5, 4),
        5 * (2 * 4 * 6 + 4 * 12) + 2 * 5 * 5 * (3 + 6) + 5 * 12 * 4,
        2 * 4 * 6 + 4 * 12 + 2 * (3 + 6) + 12 * 4,
    ),
    "attention without projections": (
        attention_without_projections,
        (5, 4),
        5 * 4 * 4 + 2 * 5 * 5 * 4,
        4 * 4 + 2 * 4,
    ),
    "two inputs": (
        two_inputs,
        [(7, 4), (3, 4, 3)],
        7 * 4 * 5 + 2 * 3 * 4 * 3 * 5 + 5 * 2,
        4 * 5 + 4 * 3 * 5 + 5 * 2,
    ),
    # Windows of 4: 3 to 6, 4 x 4 scores of 6 entries, and back.
    "windows": (
        lambda: chain((None, 3), Pooled()),
        (8, 3),
        8 * 3 * 6 + 2 * (2 * 4 * 4 * 6),
        3 * 6 + 2 * 4 * 4 * 6 / 4,
    ),
    "subclass": (subclass, (8, 3), 6 * (9 * 4 + 4 * 2), 9 * 4 + 4 * 2),
    "functions": (
        functions,
        (5, 4),
        5 * 4 * 4 + 2 * 5 * 5 * 4,
        4 * 4 + 2 * 4,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_flops_at_a_given_length(name):
    build, shape, expected, _ = BY_HAND[name]
    model = build()
    assert ka.flops(model, input_shape=shape) == 2 * expected
    assert ka.flops(model, training=True, input_shape=shape) == 6 * expected
    assert ka.accounting.size_of(model, shape).flops == 2 * expected


@pytest.mark.parametrize("name", BY_HAND)
def test_flops_for_each_position(name):
    build, _, _, expected = BY_HAND[name]
    with pytest.warns(UserWarning, match="each position of the input"):
        assert ka.flops(build()) == pytest.approx(2 * expected, rel=1e-12)
    assert ka.accounting.size_of(build()).flops == pytest.approx(2 * expected)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_model_of_that_shape_costs_the_same(name):
    build, shape, expected, _ = BY_HAND[name]
    if name == "subclass":
        model = Subclass()
        model.build((None, *shape))
    else:
        open_model = build()
        shapes = shape if isinstance(shape, list) else [shape]
        inputs = [
            keras.Input(each, dtype=tensor.dtype)
            for each, tensor in zip(shapes, open_model.inputs, strict=True)
        ]
        outputs = open_model(inputs if len(inputs) > 1 else inputs[0])
        model = keras.Model(inputs, outputs)
    assert ka.flops(model) == 2 * expected


def test_shapes_by_name():
    shapes = {"right": (3, 4, 3), "left": (7, 4)}
    assert ka.flops(two_inputs(), input_shape=shapes) == ka.flops(
        two_inputs(), input_shape=[(7, 4), (3, 4, 3)]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        (7, 4),
        [(7, 4)],
        [(7, 5), (3, 4, 3)],
        [(7, 4), (None, 4, 3)],
        [(7, 4), (3, 4)],
        {"left": (7, 4)},
        {"left": (7, 4), "middle": (3, 4, 3)},
        7,
    ],
    ids=str,
)
def test_wrong_shapes(wrong):
    with pytest.raises(ValueError, match=r"Expected `input_shape`.*Received"):
        ka.flops(two_inputs(), input_shape=wrong)


def test_shapes_that_are_too_small_for_the_model():
    with pytest.raises(ValueError, match=r"Expected `input_shape`.*Received"):
        ka.flops(image(), input_shape=(2, 2, 3))


def test_tables_say_what_they_count():
    assert "FLOPs per position" in ka.accounting.cost_table(text())
    assert "per position" not in ka.accounting.cost_table(text(), (10,))
    assert "FLOPs a unit per position" in ka.report(attention())
    assert "per position" not in ka.report(attention(), (5, 4))


def test_the_report_says_what_a_unit_saves():
    model = image()
    line = next(e for e in ka.report(model).splitlines() if "conv2d" in e)
    # A quarter of 27 from the input, and of 9 to each of 5.
    assert float(line.split()[3]) == 2 * (27 + 45) / 4
    line = ka.report(model, (8, 7, 3)).splitlines()[2]
    assert int(line.split()[3].replace(",", "")) == 2 * (16 * 27 + 4 * 45)


def test_weights_that_a_layer_uses_itself_are_counted():
    costs = ka.accounting.layer_costs(chain((8, 3), Pooled()))
    assert sum(each.parameters for each in costs) == 3 * 6


@pytest.mark.parametrize("shape", [None, (8, 6, 3)])
def test_costs_are_those_of_the_model_that_is_pruned_so(shape):
    model = image()
    analysis = analyse(model)
    cost = flop_cost(analysis, shape)
    first = analysis.groups[0]
    after = widths_of(analysis) - [2 * (g is first) for g in analysis.groups]
    ka.shrink(model, ka.Removal({first.name: [0, 3]}))
    assert cost(after) == ka.accounting.size_of(model, shape).flops


def test_a_layer_that_takes_short_sequences_only():
    class Short(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(5)

        def build(self, shape):
            self.inner.build(shape)
            self.places = self.add_weight(shape=(10, shape[-1]))

        def call(self, inputs):
            length = ops.shape(inputs)[1]
            if length > 10:
                raise ValueError("too long")
            return self.inner(inputs + self.places[:length])

        def compute_output_shape(self, shape):
            return (*shape[:-1], 5)

    model = chain((None, 3), Short())
    with pytest.warns(UserWarning, match="each position"):
        assert ka.flops(model) == 2 * 3 * 5
    assert ka.flops(model, input_shape=(9, 3)) == 9 * 2 * 3 * 5
    with pytest.raises(ValueError, match="too long"):
        ka.flops(model, input_shape=(11, 3))


def test_flops_that_cannot_be_counted_name_the_layer():
    class Odd(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(5, name="inner")

        def build(self, shape):
            self.inner.build(shape)

        def call(self, inputs):
            if ops.shape(inputs)[1] not in (9, None):
                raise ValueError("not 9")
            return self.inner(inputs)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 5)

    model = chain(
        (None, 3), Odd(), layers.Dense(4), layers.Dense(2, name="last")
    )
    with pytest.raises(ValueError, match=r"the FLOPs of .*'last'"):
        flop_cost(analyse(model))
    with pytest.raises(ValueError, match=r"FLOPs of layer 'odd.*Received"):
        ka.accounting.cost_table(model)
    assert np.isnan(ka.accounting.size_of(model).flops)
    assert "unknown" in ka.report(model)

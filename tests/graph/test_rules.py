"""Rules: what cannot be seen by masking, worked out by hand."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from tests.architectures import randomize, sample
from tests.every_layer import chain, dense
from tests.masking import masked_outputs, outputs_of


def groups_of(model):
    return {group.name: group for group in ka.unit_groups(model)}


class MeanOfKept(layers.Layer):
    """Replaces entries by the mean of the others of their group."""

    def __init__(self, gone, groups, positions):
        super().__init__()
        self.gone, self.groups, self.positions = gone, groups, positions

    def call(self, inputs):
        shape = tuple(inputs.shape[1:])
        kept = np.ones(shape[-1], "float32")
        kept[self.gone] = 0
        kept = kept.reshape(self.groups, -1)
        values = ops.reshape(inputs, (-1, *shape[:-1], *kept.shape))
        where = ops.ones_like(values) * kept
        over = (-1, *range(1, len(shape))) if self.positions else (-1,)
        count = ops.sum(where, over, keepdims=True)
        mean = ops.sum(values * where, over, keepdims=True) / count
        replaced = values * where + mean * (1 - where)
        return ops.reshape(replaced, (-1, *shape))


@pytest.mark.parametrize("kind", ["layer", "small epsilon", "group"])
def test_a_normalization_takes_the_mean_of_those_that_stay(kind):
    """Its statistics are then those of the kept units, but for the count."""
    norm, gone, groups = {
        "layer": (layers.LayerNormalization(epsilon=0.1), [1, 4], 1),
        "small epsilon": (layers.LayerNormalization(), [0, 2], 1),
        "group": (layers.GroupNormalization(2, epsilon=0.1), [1, 4], 2),
    }[kind]
    inputs = keras.Input((5, 4))
    first = layers.Dense(6, name="one")
    last = layers.Dense(2)
    x = first(inputs)
    model = keras.Model(inputs, last(layers.ReLU()(norm(x))))
    randomize(model, seed=0)
    # The reader takes zeros, the normalization the mean of the kept.
    replaced = MeanOfKept(gone, groups, positions=kind == "group")(x)
    kept = np.ones(6, "float32")
    kept[gone] = 0
    full = keras.Model(inputs, last(ops.relu(norm(replaced)) * kept))
    data = sample(model)
    expected = outputs_of(full, data)
    del full  # It would hold the units back.
    gc.collect()
    groups = ka.unit_groups(model, prune_normalized=True)
    (name,) = [group.name for group in groups if group.removable]
    units = gone if kind != "group" else [1]  # One of each half.
    (before,) = outputs_of(model, data)
    report = ka.shrink(
        model, ka.Removal({name: units}), prune_normalized=True, data=data
    )
    np.testing.assert_allclose(
        outputs_of(model, data)[0], expected[0], rtol=1e-4, atol=1e-4
    )
    assert "as the mean of those that stay" in report.notes[0]
    change = np.linalg.norm(expected[0] - before) / np.linalg.norm(before)
    assert report.output_change == pytest.approx(change, rel=1e-3)
    assert f"outputs changed by {report.output_change:.2%}" in str(report)


def test_a_normalization_over_units_holds_them_unless_asked():
    model = chain((4,), dense(6, "one"), layers.LayerNormalization(), dense(2))
    group = groups_of(model)["one"]
    assert not group.removable
    assert "`prune_normalized=True` accepts" in group.reason
    with pytest.raises(ValueError, match="prune_normalized"):
        ka.shrink(model, ka.Removal({"one": [0]}))


def test_heads_and_widths_are_groups_of_their_own():
    x = inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(3, 4, value_dim=4, name="mha", dropout=0.1)(
        x, x
    )
    model = keras.Model(inputs, layers.Dense(2)(x))
    groups = groups_of(model)
    sizes = {name: group.size for name, group in groups.items()}
    assert sizes == {
        "mha/query/query_heads": 3,
        "mha/query/query_dim": 4,
        "mha/value/value_dim": 4,
        "mha/attention_output": 4,
        "dense": 2,
    }
    layer = model.get_layer("mha")
    assert groups["mha/query/query_heads"].producers == [layer]
    ka.shrink(
        model,
        ka.Removal(
            {
                "mha/query/query_heads": [0],
                "mha/query/query_dim": [1, 2, 3],
                "mha/value/value_dim": [2],
                "mha/attention_output": [0],
            }
        ),
    )
    assert (layer.num_heads, layer.key_dim, layer.value_dim) == (2, 1, 3)
    assert layer.get_config()["output_shape"] == (3,)
    again = keras.Model.from_config(model.get_config())
    assert again.count_params() == model.count_params()


def test_scores_keep_their_scale_when_keys_shrink():
    """4 key entries, all alike: 1 left has a score half as large, times 2."""
    x = inputs = keras.Input((3, 2))
    layer = layers.MultiHeadAttention(1, 4, use_bias=False, dropout=0.1)
    model = keras.Model(inputs, layer(x, x))
    query = ops.convert_to_numpy(layer.query_dense.kernel)
    ka.shrink(
        model,
        ka.Removal(
            {
                g.name: [0, 1, 2]
                for g in ka.unit_groups(model)
                if "query_dim" in g.name
            }
        ),
    )
    np.testing.assert_allclose(
        layer.query_dense.kernel, query[..., 3:] * np.sqrt(1 / 4), rtol=1e-6
    )


def test_an_lstm_loses_all_four_gates_of_a_unit():
    model = chain((5, 2), layers.LSTM(3, name="lstm"), dense(2))
    layer = model.get_layer("lstm")
    kernel, recurrent, bias = (
        ops.convert_to_numpy(each) for each in layer.weights[:3]
    )
    ka.shrink(model, ka.Removal({"lstm": [1]}))
    stay = [0, 2, 3, 5, 6, 8, 9, 11]  # Columns g * 3 + k without k = 1.
    np.testing.assert_array_equal(layer.weights[0], kernel[:, stay])
    np.testing.assert_array_equal(layer.weights[1], recurrent[[0, 2]][:, stay])
    np.testing.assert_array_equal(layer.weights[2], bias[stay])
    assert layer.units == layer.cell.units == 2


def test_grouped_convolutions_lose_one_channel_of_each_group():
    model = chain(
        (5, 5, 2),
        layers.Conv2D(6, 1, name="one"),
        layers.Conv2D(4, 1, groups=2, use_bias=False, name="two"),
        layers.Flatten(),
        dense(2),
    )
    assert groups_of(model)["one"].size == 3
    assert groups_of(model)["two"].size == 2
    ka.shrink(model, ka.Removal({"one": [1], "two": [0]}))
    one, two = model.get_layer("one"), model.get_layer("two")
    assert (one.filters, two.filters, two.groups) == (4, 2, 2)
    assert tuple(two.kernel.shape) == (1, 1, 2, 2)


def test_patches_hold_all_channels_of_a_place_side_by_side():
    """A patch of 2 x 2 of 3 channels: 12 numbers, channel c at 3 p + c."""
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, name="one")(inputs)
    last = dense(2, "last")
    model = keras.Model(inputs, last(ops.image.extract_patches(x, 2)))
    kernel = ops.convert_to_numpy(last.kernel)
    assert groups_of(model)["one"].size == 3
    ka.shrink(model, ka.Removal({"one": [1]}))
    np.testing.assert_array_equal(
        last.kernel, kernel[[0, 2, 3, 5, 6, 8, 9, 11]]
    )


class SquareRegularizer(keras.regularizers.Regularizer):
    """Takes nothing but 3 x 3 matrices."""

    def __call__(self, x):
        return ops.sum(ops.square(ops.reshape(x, (-1, 3, 3))))


class SquareConstraint(keras.constraints.Constraint):
    def __call__(self, x):
        return ops.reshape(x, (4, 9))


@pytest.mark.parametrize(
    "arguments",
    [
        {"activity_regularizer": SquareRegularizer()},
        {"bias_regularizer": SquareRegularizer()},
        {"kernel_constraint": SquareConstraint()},
    ],
)
def test_what_a_regularizer_or_constraint_takes_whole_stays(arguments):
    model = chain(
        (4,), layers.Dense(9, name="one", **arguments), dense(5, "two")
    )
    group = groups_of(model)["one"]
    assert not group.removable
    assert "Square" in group.reason
    assert "fails with fewer" in group.reason
    kept = {"activity_regularizer": "l2", "kernel_constraint": "max_norm"}
    model = chain((4,), layers.Dense(9, name="one", **kept), dense(5, "two"))
    assert groups_of(model)["one"].removable


def test_reshape_ties_what_becomes_one_column():
    model = chain(
        (3,), layers.Dense(12, name="one"), layers.Reshape((4, 3)), dense(2)
    )
    assert groups_of(model)["one"].size == 3
    ka.shrink(model, ka.Removal({"one": [1]}))
    assert model.get_layer("one").units == 8
    assert model.layers[2].target_shape == (4, 2)


def test_a_stream_that_grows_by_concatenation_is_two_groups():
    """The old units are read once more, so they are judged apart."""
    inputs = keras.Input((4,))
    x = dense(5, "first")(inputs)
    x = layers.Concatenate()([x, dense(3, "second")(x)])
    x = layers.Add()([x, layers.Dense(8, name="up")(dense(4, "in")(x))])
    model = keras.Model(inputs, dense(2)(x))
    groups = groups_of(model)
    assert {n: g.size for n, g in groups.items() if g.removable} == {
        "first": 5,
        "second": 3,
        "in": 4,
    }
    up = model.get_layer("up")
    assert groups["first"].producers == [model.get_layer("first"), up]
    ka.shrink(model, ka.Removal({"first": [0, 1], "second": [2]}))
    assert up.units == 5


def test_a_function_of_the_graph_follows_its_units():
    inputs = keras.Input((4, 3))
    x = ops.reshape(dense(6, "one")(inputs), (-1, 2, 2, 6))
    model = keras.Model(inputs, dense(2)(layers.Flatten()(x)))
    ka.shrink(model, ka.Removal({"one": [0]}))
    (function,) = [
        each for each in model.operations if not isinstance(each, layers.Layer)
    ]
    assert tuple(function.get_config()["newshape"]) == (-1, 2, 2, 5)
    again = keras.Model.from_config(model.get_config())
    assert again.count_params() == model.count_params()


class Block(layers.Layer):
    """A feed-forward pair with a gate, as transformers have it."""

    def __init__(self, hidden, together=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.together = hidden, together
        self.gate = None if together else layers.Dense(hidden, name="gate")
        self.up = layers.Dense(hidden * (1 + together), name="up")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        inner = (*shape[:-1], self.hidden)
        self.down = layers.Dense(shape[-1], name="down")
        for layer in filter(None, (self.gate, self.up)):
            layer.build(shape)
        self.norm.build(inner)
        self.down.build(inner)

    def call(self, inputs):
        if self.together:
            gate, up = ops.split(self.up(inputs), 2, axis=-1)
        else:
            gate, up = self.gate(inputs), self.up(inputs)
        return inputs + self.down(self.norm(ops.sigmoid(gate) * up))

    def get_config(self):
        config = {"hidden": self.hidden, "together": self.together}
        return {**super().get_config(), **config}


@pytest.mark.parametrize("together", [False, True])
def test_a_declared_feed_forward_pair(together):
    rule = ka.rules.FeedForward(
        "up" if together else ("up", "gate"),
        "down",
        size="hidden",
        between=("norm",),
        halves=together,
    )
    ka.register_rule(Block, rule)
    try:
        model = chain((4,), Block(6, together, name="block"), dense(2))
        randomize(model, seed=0)
        data = sample(model)
        (name,) = [g.name for g in ka.unit_groups(model) if g.removable]
        removal = ka.Removal({name: [0, 3]})
        model.compile("sgd", "mse")
        # Its units are no tensor of the model, such as the block's output.
        group = groups_of(model)[name]
        assert not any(each.measurable for each in group.observations)
        with pytest.raises(ValueError, match="activations can be measured"):
            ka.criteria.mean_replacement_saliency(
                model, (data[0], np.zeros((len(data[0]), 2)))
            )
        block = model.get_layer("block")
        small = ka.rebuild(model, removal)
        rows = ops.convert_to_numpy(block.down.kernel).copy()
        full = rows.copy()
        full[[0, 3]] = 0
        block.down.kernel.assign(full)
        expected = outputs_of(model, data)
        block.down.kernel.assign(rows)
        ka.shrink(model, removal)
        for each in (model, small):
            np.testing.assert_allclose(
                outputs_of(each, data)[0], expected[0], rtol=1e-4, atol=1e-5
            )
        assert block.hidden == 4
        assert block.up.units == 4 * (1 + together)
    finally:
        del ka.rules.RULES[Block]


def test_constants_enter_every_bias_of_an_attention_and_a_gru():
    inputs = keras.Input((5, 4))
    x = dense(6, "one")(inputs)
    y = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    z = layers.GRU(4, name="gru")(x)
    y = layers.GlobalAveragePooling1D()(y)
    model = keras.Model(inputs, dense(2)(layers.Concatenate()([y, z])))
    randomize(model, seed=0)
    point = groups_of(model)["one"].observations[0]
    assert point.combines
    assert point.shifts
    given = ka.Replacement(constant=[0.3, -0.5])
    removal = ka.Removal({"one": [1, 2]}, {"one": given})
    data = sample(model)
    expected = masked_outputs(model, removal, data)
    report = ka.shrink(model, removal)
    assert report.notes == ()
    np.testing.assert_allclose(
        outputs_of(model, data)[0], expected[0], rtol=1e-4, atol=1e-4
    )


def test_what_a_consumer_cannot_take_is_an_error():
    model = chain(
        (5, 4), layers.GRU(6, reset_after=False, name="gru"), dense(2)
    )
    given = ka.Replacement(constant=[1.0])
    with pytest.raises(ValueError, match="cannot use `constant`"):
        ka.shrink(model, ka.Removal({"gru": [0]}, {"gru": given}))


@pytest.mark.parametrize("make", [layers.Dropout, layers.AlphaDropout])
def test_the_shape_of_noise_follows_the_units(make):
    model = chain(
        (5, 4),
        dense(6, "one"),
        make(0.5, noise_shape=(None, 1, 6), name="noise"),
        layers.Flatten(),
        dense(2),
    )
    inputs = sample(model)
    removal = ka.Removal({"one": [0, 4]})
    expected = masked_outputs(model, removal, [inputs])[0]
    ka.shrink(model, removal)
    np.testing.assert_allclose(
        outputs_of(model, [inputs])[0], expected, rtol=1e-5, atol=1e-5
    )
    layer = model.get_layer("noise")
    assert tuple(layer.noise_shape) == (None, 1, 4)
    assert tuple(layer.get_config()["noise_shape"]) == (None, 1, 4)
    model(inputs, training=True)  # It raised.


def scored(use):
    """An attention of four heads whose scores something uses."""
    inputs = keras.Input((3, 4))
    x, scores = layers.MultiHeadAttention(4, 2, name="mha")(
        inputs, inputs, return_attention_scores=True
    )
    x = layers.Dense(1)(layers.Flatten()(x))
    return keras.Model(inputs, use(x, scores))


SCORES = {
    "returned": lambda x, scores: [x, scores],
    "flattened": lambda x, scores: layers.Add()(
        [x, layers.Dense(1)(layers.Flatten()(scores))]
    ),
    "pooled": lambda x, scores: layers.Add()(
        [x, layers.Dense(1)(layers.GlobalMaxPooling2D()(scores))]
    ),
    "averaged": lambda x, scores: x + ops.mean(scores, axis=(1, 2, 3)),
}


@pytest.mark.parametrize("use", SCORES)
def test_heads_stay_where_their_scores_are_used(use):
    groups = groups_of(scored(SCORES[use]))
    heads = groups.pop("mha/query/query_heads")
    assert not heads.removable
    assert "returns attention scores, which show each head" in heads.reason
    assert groups["mha/query/query_dim"].removable


def test_heads_may_go_where_their_scores_are_not_used():
    groups = groups_of(scored(lambda x, scores: x))
    assert groups["mha/query/query_heads"].removable


def test_heads_with_masks_of_their_own_stay():
    inputs, mask = keras.Input((3, 4)), keras.Input((2, 3, 3), dtype="bool")
    x = layers.MultiHeadAttention(2, 3, name="mha")(
        inputs, inputs, attention_mask=mask
    )
    model = keras.Model([inputs, mask], layers.Flatten()(x))
    heads = groups_of(model)["mha/query/query_heads"]
    assert "is given an attention mask for each head" in heads.reason


@pytest.mark.parametrize("mode", [None, "concat", "sum"])
def test_both_directions_stay_equally_wide(mode):
    """Keras takes the second to be as wide as the first."""
    inputs = keras.Input((5, 3))
    layer = layers.Bidirectional(
        layers.LSTM(4, return_sequences=True),
        backward_layer=layers.LSTM(
            4, return_sequences=True, go_backwards=True, name="back"
        ),
        merge_mode=mode,
    )
    x = layer(inputs)
    if mode is None:
        x = layers.Concatenate()(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    (group,) = [g for g in ka.unit_groups(model) if g.removable]
    ka.shrink(model, ka.Removal({group.name: [0, 2]}))
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    data = sample(model)
    np.testing.assert_allclose(
        outputs_of(copy, data)[0], outputs_of(model, data)[0], rtol=1e-6
    )
    assert layer.forward_layer.units == layer.backward_layer.units == 2


def test_a_tensor_that_a_state_is_made_of_ties_both():
    """Which an LSTM returns beside its outputs."""
    inputs = keras.Input((5, 3))
    _, h, c = layers.LSTM(4, return_state=True, name="lstm")(inputs)
    groups = groups_of(keras.Model(inputs, [layers.Dense(2)(h), c]))
    assert not groups["lstm"].removable


def test_a_factor_of_lower_rank_is_of_the_same_units():
    """Keras repeats it along the axes that it lacks."""
    inputs = keras.Input((5, 3))
    x = layers.Conv1D(4, 2, name="one")(inputs)
    scale = dense(4, "scale")(layers.GlobalMaxPooling1D()(x))
    y = layers.Multiply()([x, layers.Activation("sigmoid")(scale)])
    model = keras.Model(inputs, dense(2)(layers.GlobalMaxPooling1D()(y)))
    group = groups_of(model)["one"]
    assert group.removable
    assert [layer.name for layer in group.producers] == ["one", "scale"]
    data = sample(model)
    randomize(model, seed=0)
    removal = ka.Removal({"one": [1]})
    expected = masked_outputs(model, removal, data)
    ka.shrink(model, removal)
    np.testing.assert_allclose(
        outputs_of(model, data)[0], expected[0], rtol=1e-4, atol=1e-5
    )


def test_grouped_attention_returns_as_many_units_as_its_query():
    inputs = keras.Input((5, 3))
    x = dense(4, "one")(inputs)
    y = layers.GroupQueryAttention(2, 2, 1, name="gqa")(x, x)
    model = keras.Model(inputs, dense(2)(layers.GlobalMaxPooling1D()(y)))
    group = groups_of(model)["one"]
    assert {layer.name for layer in group.producers} == {"one", "gqa"}


def test_each_unit_normalized_by_itself():
    model = chain(
        (6, 6, 2),
        layers.Conv2D(4, 3, name="one"),
        layers.GroupNormalization(-1, name="norm"),
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(),
        dense(2),
    )
    randomize(model, seed=0)
    group = groups_of(model)["one"]
    names = ["norm", "relu", "global_average_pooling2d"]
    assert [layer.name for layer in group.carriers] == names
    data = sample(model)
    removal = ka.Removal({"one": [0, 2]})
    expected = masked_outputs(model, removal, data)
    ka.shrink(model, removal)
    assert tuple(model.get_layer("norm").gamma.shape) == (2,)
    np.testing.assert_allclose(
        outputs_of(model, data)[0], expected[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("function", "multiple"),
    [(lambda x: x * 2.0, True), (lambda x: x + 1.0, False)],
)
def test_only_multiples_scale_with_the_units(function, multiple):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, dense(2)(function(dense(4, "one")(inputs))))
    made = analyse(model).trace.sources[2]
    assert made.transfer.homogeneous is multiple

"""Unit groups: who is tied to whom, worked out by hand."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from tests.architectures import CATALOGUE


def roles(group):
    return tuple(
        [layer.name for layer in part]
        for part in (group.producers, group.consumers)
    )


def groups_of(model):
    return {group.name: group for group in ka.unit_groups(model)}


def test_mlp():
    groups = groups_of(CATALOGUE["mlp"]())
    assert list(groups) == ["one", "two", "logits"]
    assert [g.size for g in groups.values()] == [8, 7, 3]
    assert roles(groups["one"]) == (["one"], ["two"])
    assert groups["one"].removable
    assert not groups["logits"].removable
    assert groups["logits"].reason == "the model returns them"


def test_residual_stream_is_one_group_with_a_point_for_each_reader():
    groups = groups_of(CATALOGUE["residual"]())
    stream = groups["stem"]
    assert roles(stream) == (
        ["stem", "a_two", "b_two"],
        ["a_one", "b_one", "logits"],
    )
    assert [p.name for p in stream.observations] == [
        "stem_relu",
        "a_relu",
        "pool",
    ]
    assert roles(groups["a_one"]) == (["a_one"], ["a_two"])


def test_concatenation_keeps_groups_apart():
    model = CATALOGUE["branches"]()
    groups = groups_of(model)
    assert roles(groups["one"]) == (["one"], ["three", "logits"])
    assert roles(groups["two"]) == (["two"], ["three", "logits"])
    analysis = analyse(model)
    (flat,) = [
        consumer
        for consumer in analysis.trace.consumers
        if consumer.step.path == "logits"
    ]
    number = list(groups).index("one")
    # Channel c of `one` comes after the 4 of `three`, at each of 64 places.
    places = analysis.positions(flat.units.labels, number)
    expected = 8 * np.arange(64)[:, None] + 4 + np.arange(4)
    np.testing.assert_array_equal(places, expected)


def test_nested_models_are_opened():
    groups = groups_of(CATALOGUE["nested"]())
    assert list(groups) == [
        "outer",
        "inner/inner_one",
        "head/deep",
        "logits",
    ]
    assert roles(groups["outer"]) == (
        ["outer", "back"],
        ["inner_one", "deep"],
    )


def test_a_layer_that_is_called_twice_is_one_producer_and_one_reader():
    groups = groups_of(CATALOGUE["shared"]())
    assert roles(groups["first"]) == (["first"], ["second"])
    second = groups["twice/second"]
    assert roles(second) == (["second"], ["logits"])
    assert second.size == 5


def test_channels_first_flatten_keeps_channels_together():
    inputs = keras.Input((2, 3, 3))
    x = layers.Conv2D(4, 1, data_format="channels_first", name="one")(inputs)
    x = layers.Flatten(data_format="channels_last")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    analysis = analyse(model)
    (reader,) = [c for c in analysis.trace.consumers if c.step.path == "out"]
    expected = 9 * np.arange(4) + np.arange(9)[:, None]
    np.testing.assert_array_equal(
        analysis.positions(reader.units.labels, 0), expected
    )


class Odd(layers.Layer):
    def call(self, inputs):
        return keras.ops.sort(inputs, axis=-1)

    def compute_output_shape(self, shape):
        return shape


HELD = {
    "no rule": "Sort 'odd/sort' has no rule (see `ka.register_rule`)",
    "lambda": "Cumsum 'sums/cumsum' has no rule (see `ka.register_rule`)",
    "softmax": "Activation 'activation' mixes the units",
    "layer norm": "LayerNormalization 'norm' normalizes over the units",
    "constant": "combines them with a tensor",
    "every other": "selects units by their position",
    "triangle": "has no rule",
    "flat": "selects units by their position",
    "input": "combines them with a tensor that cannot be pruned",
}


def held_model(kind):
    inputs = keras.Input((6,))
    x = layers.Dense(4, name="one")(inputs)
    if kind == "input":
        inputs = keras.Input((4,))
        x = layers.Add()([layers.Dense(4, name="one")(inputs), inputs])
    else:
        middle = {
            "no rule": Odd(name="odd"),
            "lambda": layers.Lambda(
                lambda x: ops.cumsum(x, -1), name="sums", output_shape=(4,)
            ),
            "softmax": layers.Activation("softmax", name="activation"),
            "layer norm": layers.LayerNormalization(name="norm"),
            "constant": lambda x: x * keras.Variable(np.ones(4)),
            "every other": lambda x: x[:, 1:3:2],
            "triangle": lambda x: ops.tril(x),
            "flat": lambda x: ops.roll(x, 1),
        }
        x = middle[kind](x)
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.mark.parametrize("kind", HELD)
def test_what_is_not_known_is_not_prunable_with_a_reason(kind):
    group = groups_of(held_model(kind))["one"]
    assert not group.removable
    assert HELD[kind] in group.reason
    assert HELD[kind] in str(group)
    with pytest.raises(ValueError, match="cannot be removed"):
        ka.shrink(held_model(kind), ka.Removal({"one": [0]}))


def test_a_subclass_does_not_inherit_the_rule():
    class Reversed(layers.Dense):
        def call(self, inputs):
            return super().call(inputs)[:, ::-1]

    model = keras.Sequential(
        [keras.Input((3,)), Reversed(4, name="one"), layers.Dense(2)]
    )
    # Its outputs have no units, so there is nothing to remove from it.
    assert "one" not in groups_of(model)


def test_register_rule_lets_a_custom_layer_through():
    class Scale(layers.Layer):
        def build(self, shape):
            self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, inputs):
            # The backend's own function: no symbolic tensor passes it.
            return keras.src.backend.numpy.multiply(inputs, self.gamma)

    inputs = keras.Input((3,))
    x = layers.Dense(4, name="one")(inputs)
    x = Scale(name="scale")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    reason = groups_of(model)["one"].reason
    assert "cannot be followed beyond `return keras.src.backend" in reason
    ka.register_rule(Scale, ka.rules.Elementwise(weights={"gamma": 0}))
    try:
        assert groups_of(model)["one"].removable
        model.get_layer("scale").gamma.assign([1.0, 2.0, 3.0, 4.0])
        ka.shrink(model, ka.Removal({"one": [1]}))
        np.testing.assert_array_equal(
            model.get_layer("scale").gamma, [1.0, 3.0, 4.0]
        )
    finally:
        del ka.rules.RULES[Scale]


def test_register_rule_makes_a_custom_layer_shrink():
    class Linear(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], self.units), name="w")

        def call(self, inputs):
            return inputs @ self.w

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    model = keras.Sequential(
        [
            keras.Input((3,)),
            Linear(4, name="one"),
            layers.ReLU(),
            Linear(2, name="two"),
        ]
    )
    rule = ka.rules.Contraction(
        unit_axis=1, input_axis=0, size="units", kernel="w"
    )
    ka.register_rule(Linear, rule)
    try:
        x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
        one, two = (np.array(w) for w in model.get_weights())
        small = ka.rebuild(model, ka.Removal({"one": [2]}))
        ka.shrink(model, ka.Removal({"one": [2]}))
    finally:
        del ka.rules.RULES[Linear]
    stays = [0, 1, 3]
    expected = np.maximum(x @ one[:, stays], 0) @ two[stays]
    for each in (model, small):
        found = each.predict(x, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert model.get_layer("one").units == 3


@pytest.mark.parametrize(
    ("layer", "rule", "message"),
    [
        (layers.Dense(2), ka.rules.Elementwise(), "a class of Keras layers"),
        (Odd, "elementwise", "an instance of"),
    ],
)
def test_register_rule_checks(layer, rule, message):
    with pytest.raises(ValueError, match=message):
        ka.register_rule(layer, rule)


def test_prunable_layers_have_the_same_groups():
    for name, build in CATALOGUE.items():
        plain = build()
        prunable = ka.make_prunable(plain, track_statistics=True)
        found = [
            [(g.name, g.size, g.removable) for g in ka.unit_groups(model)]
            for model in (plain, prunable)
        ]
        assert found[0] == found[1], name


def test_report_says_what_is_not_prunable():
    text = ka.report(held_model("no rule"))
    assert "Sort 'odd/sort' has no rule (see `ka.register_rule`)" in text
    text = ka.report(CATALOGUE["mlp"]())
    # A unit of `one` has 6 + 1 weights in and 7 out; 2 * (6 + 7) operations.
    assert re.search(
        r"one +8 +14 +26 +apoptosis, saliency, demon$", text, re.MULTILINE
    )

"""A layer rule from outside: one class, one line to register it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka


class Gated(layers.Layer):
    """Multiplies every feature by the softplus of a weight of its own."""

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), name="gate")

    def call(self, inputs):
        return inputs * ops.softplus(self.gate)


class Sorted(layers.Layer):
    """Sorts its features: which unit stands where depends on the data."""

    def call(self, inputs):
        return ops.sort(inputs, axis=-1)


class Doubled(layers.Layer):
    """Lays its input beside its negative: unit i stands at i and n + i."""

    def call(self, inputs):
        return ops.concatenate([inputs, -inputs], axis=-1)


class Beside(ka.rules.Rule):
    """The rule of `Doubled`, of the user's own."""

    def trace(self, call):
        (axes,) = call.inputs
        axis = len(call.input_shapes[0]) - 1
        if axis not in axes:
            return [{}]
        units = axes[axis]
        call.carry(units)
        labels = np.concatenate([units.labels, units.labels])
        return [{axis: call.emit(axis, labels, ka.rules.Unknown(), [units])}]


@pytest.fixture
def registered():
    before = dict(ka.rules.RULES)
    ka.register_rule(Gated, ka.rules.Elementwise(weights={"gate": 0}))
    ka.register_rule(Doubled, Beside())
    yield
    ka.rules.RULES.clear()
    ka.rules.RULES.update(before)


def model_of(custom):
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", name="one"),
            custom,
            layers.Dense(2, name="two"),
        ]
    )


def test_without_a_rule_units_are_kept_where_the_layer_cannot_be_followed():
    group = ka.unit_groups(model_of(Sorted(name="sorted")))[0]
    assert not group.removable
    assert "Sort 'sorted/sort' has no rule" in group.reason


@pytest.mark.parametrize("make", [Gated, Doubled])
def test_with_a_rule_units_are_removed_exactly(make, registered):
    keras.utils.set_random_seed(0)
    model = model_of(make())
    one = model.get_layer("one")
    kernel, bias = one.get_weights()
    kernel[:, [0, 2]] = 0  # Dead units.
    one.set_weights([kernel, bias])
    inputs = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = model.predict(inputs, verbose=0)
    ka.shrink(model, ka.Removal({"one": [0, 2]}))
    assert one.units == 2
    found = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

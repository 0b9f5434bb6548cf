"""The probe of plain models, against what Keras itself computes."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.probe import collect, post_points
from tests.architectures import CATALOGUE, randomize, sample


def outputs_at(model, name, x):
    """A layer's outputs, by a model of its own."""
    part = keras.Model(model.inputs, model.get_layer(name).output)
    return part.predict(x, verbose=0).astype("float64")


def test_post_activations_and_second_moments():
    model = randomize(CATALOGUE["cnn"](), seed=0)
    x = sample(model, 20)
    found = ka.unit_statistics(model, x, gram=True, batch_size=6)
    # `one` is read after its pooling, `two` after the average, flattened.
    for group, name in (("one", "pool"), ("two", "average")):
        values = outputs_at(model, name, x)
        values = values.reshape(-1, values.shape[-1])
        moments = found[group][name]
        assert moments.count == len(values)
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-4)
        np.testing.assert_allclose(
            moments.covariance,
            np.cov(values.T, bias=True),
            rtol=1e-3,
            atol=1e-4,
        )
        np.testing.assert_allclose(
            moments.max_abs, abs(values).max(0), rtol=1e-5
        )


def test_pre_activations():
    model = randomize(CATALOGUE["mlp"](), seed=0)
    x = sample(model, 20)
    found = ka.unit_statistics(model, x, at="pre")
    layer = model.get_layer("two")
    before = outputs_at(model, "one", x)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(
        found["two"]["two"].mean,
        (before @ kernel + bias).mean(0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert layer.activation is keras.activations.tanh


def test_units_come_in_the_order_of_the_group():
    """Where they stand behind others, in a concatenation."""
    model = randomize(CATALOGUE["branches"](), seed=0)
    x = sample(model, 10)
    values = outputs_at(model, "norm", x)
    found = ka.unit_statistics(model, x)
    np.testing.assert_allclose(
        found["two"]["norm"].mean, values.mean((0, 1, 2))[4:9], atol=1e-5
    )


@pytest.mark.parametrize("kind", ["array", "dataset", "generator"])
def test_sources_of_data(kind):
    model = randomize(CATALOGUE["mlp"](), seed=0)
    x = sample(model, 20)
    if kind == "array":
        data = x
    elif kind == "dataset":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((x, x)).batch(7)
    else:
        data = ((x[i : i + 7], None) for i in range(0, 20, 7))
    found = ka.unit_statistics(model, data)["one"]["one"]
    assert found.count == 20
    np.testing.assert_allclose(
        found.mean, outputs_at(model, "one", x).mean(0), rtol=1e-4, atol=1e-6
    )


def test_several_inputs_and_shared_layers_are_pooled():
    model = randomize(CATALOGUE["shared"](), seed=0)
    x = sample(model, 10)
    found = ka.unit_statistics(model, x)
    assert found["first"]["first"].count == 20  # Both calls of the layer.


def test_measuring_leaves_no_trace():
    model = ka.make_prunable(CATALOGUE["mlp"](), track_statistics=True)
    before = [np.array(v) for v in model.get_weights()]
    ka.unit_statistics(model, sample(model))
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_what_is_needed_is_run():
    calls = []

    class Watched(layers.Identity):
        def call(self, inputs):
            calls.append(inputs.shape)
            return inputs

    ka.register_rule(Watched, ka.rules.SAME_VALUES)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="one"),
            layers.Dense(4, name="two"),
            Watched(),
            layers.Dense(2),
        ]
    )
    del ka.rules.RULES[Watched]
    analysis = analyse(model)
    del calls[:]  # It is followed by calling it.
    collect(analysis, post_points(analysis, 0), np.zeros((5, 3)))
    assert calls == []

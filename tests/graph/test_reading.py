"""A graph computes what the model predicts."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import Place, read
from tests.architectures import randomize, sample
from tests.every_layer import EVERY_LAYER
from tests.masking import masked_outputs, outputs_of
from tests.surgery.test_shrink import check_equal_to_masking


class Deeper(layers.Layer):
    """Adds 1 in training, which is its default."""

    def call(self, inputs, training=True):
        return inputs + 1 if training else inputs


class Holder(layers.Layer):
    """Takes no `training` and holds a layer that does."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


class Overridden(keras.Model):
    """Does more than its graph says."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


AUGMENTATIONS = {
    "translation": lambda: layers.RandomTranslation(0.5, 0.5, "constant"),
    "rotation": lambda: layers.RandomRotation(0.5),
    "contrast": lambda: layers.RandomContrast(0.9),
    "erasing": lambda: layers.RandomErasing(1.0),
    "dropout": lambda: layers.Dropout(0.9),
    "custom": Deeper,
    "held": lambda: Holder(Deeper()),
    "held twice": lambda: Holder(Holder(layers.RandomRotation(0.5))),
    "nested": lambda: keras.Sequential([keras.Input((6, 6, 3)), Deeper()]),
    "nested twice": lambda: keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.Sequential([layers.RandomRotation(0.5), Holder(Deeper())]),
        ]
    ),
}


def after(make, **arguments):
    inputs = keras.Input((6, 6, 3))
    x = layers.Flatten()(make()(inputs, **arguments))
    x = layers.Dense(4, activation="relu", name="hidden")(x)
    return randomize(keras.Model(inputs, layers.Dense(2)(x)), 0)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_differs_in_training_is_off(name):
    model = after(AUGMENTATIONS[name])
    inputs = sample(model)
    graph = read(model)
    (expected,) = outputs_of(model, [inputs])
    (key,) = graph.outputs
    found = ops.convert_to_numpy(graph.run(inputs, [key])[key])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    (masked,) = masked_outputs(model, ka.Removal({}), inputs)
    np.testing.assert_allclose(masked, expected, rtol=1e-6, atol=1e-6)


def test_training_that_was_asked_for_is_off():
    model = after(lambda: layers.Dropout(0.9), training=True)
    inputs = sample(model)
    graph = read(model)
    (expected,) = outputs_of(model, [inputs])
    (key,) = graph.outputs
    found = ops.convert_to_numpy(graph.run(inputs, [key])[key])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_units_that_only_augmentation_silences_are_alive():
    """The one unit sees the left border, which is never moved away."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.RandomTranslation(0.0, (-1.0, -0.5), fill_mode="constant"),
            layers.Flatten(),
            layers.Dense(2, activation="relu", name="hidden"),
            layers.Dense(1),
        ]
    )
    kernel = np.zeros((16, 2))
    kernel[0, 0] = kernel[3, 1] = 1
    model.get_layer("hidden").kernel.assign(kernel)
    inputs = np.zeros((8, 4, 4, 1), "float32")
    inputs[:, :, 0] = 1
    statistics = ka.unit_statistics(model, inputs)["hidden"]["hidden"]
    np.testing.assert_allclose(statistics.mean, [1, 0])
    dead = ka.selection.dead_units(model, inputs)
    assert {name: list(dead[name]) for name in dead} == {"hidden": [1]}


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_every_layer_computes_what_the_model_does(name):
    """So does the reference of the tests, which replaces on the way."""
    model = randomize(EVERY_LAYER[name](), seed=1)
    inputs = sample(model)
    flat = inputs if isinstance(inputs, list) else [inputs]
    expected = outputs_of(model, flat)
    found = masked_outputs(model, ka.Removal({}), flat)
    tolerance = 2e-2 if name == "mixed_precision" else 1e-5
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("before", [False, True])
def test_a_changed_tensor_keeps_its_mask(before):
    """The mean of the two steps that are not masked, after a change."""
    inputs = keras.Input((3,), dtype="int32")
    x = layers.Embedding(3, 2, mask_zero=True)(inputs)
    x = layers.Dense(2, activation="relu")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    graph = read(model)
    (key,) = graph.outputs
    steps = [s for s in graph.steps if isinstance(s.operation, layers.Dense)]
    numbers = np.arange(6.0).reshape(1, 3, 2)
    edits = {
        Place(steps[0].outputs[0], before): lambda value: (
            0 * value + ops.convert_to_tensor(numbers, value.dtype)
        )
    }
    found = graph.compute(np.array([[1, 0, 2]]), [key], edits)[key]
    expected = [[(0 + 4) / 2, (1 + 5) / 2]]
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected)


def test_a_mask_enters_a_nested_model():
    inputs = keras.Input((3, 2))
    inner = keras.Sequential(
        [keras.Input((3, 2)), layers.GlobalAveragePooling1D()]
    )
    mask = ops.any(ops.not_equal(inputs, 0), axis=-1)
    model = keras.Model(inputs, inner(inputs, mask=mask))
    graph = read(model)
    (key,) = graph.outputs
    found = graph.run(np.array([[[1.0, 2], [0, 0], [3, 4]]]), [key])[key]
    np.testing.assert_allclose(ops.convert_to_numpy(found), [[2, 3]])


def test_arguments_come_in_the_order_of_the_signature():
    """Keras records `initial_state` before `sequences`, by the alphabet."""
    one, two = keras.Input((3, 2)), keras.Input((4,))
    x = layers.Dense(5, name="values")(one)
    state = layers.Dense(4, name="start")(two)
    x = layers.GRU(4, name="gru")(sequences=x, initial_state=state)
    model = keras.Model([one, two], layers.Dense(1)(x))
    groups = {group.name: group for group in ka.unit_groups(model)}
    assert groups["values"].removable
    assert [layer.name for layer in groups["start"].producers] == [
        "start",
        "gru",
    ]


def test_units_that_are_a_mask_are_kept():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="one")(inputs)
    mask = ops.not_equal(layers.Dense(3, name="two")(inputs), 0)
    x = layers.Softmax(name="softmax")(x, mask=mask)
    model = keras.Model(inputs, layers.Dense(1)(x))
    groups = {group.name: group for group in ka.unit_groups(model)}
    assert "Softmax 'softmax' uses the units as a mask" in groups["two"].reason
    assert "Softmax 'softmax' mixes the units" in groups["one"].reason


def test_units_that_a_mask_tells_apart_are_kept():
    inputs, mask = keras.Input((4, 5)), keras.Input((4, 3), dtype="bool")
    x = layers.Dense(3, name="one")(inputs)
    x = layers.Softmax(axis=1)(x, mask=mask)
    model = keras.Model([inputs, mask], layers.Dense(1)(x))
    group = ka.unit_groups(model)[0]
    assert not group.removable
    assert "is given a mask with one entry per unit" in group.reason


def test_a_model_whose_call_does_more_is_followed_by_calling_it():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="one")(inputs)
    inner_in = keras.Input((3,))
    inner = Overridden(
        inner_in, layers.Dense(5, name="inner")(inner_in), name="more"
    )
    model = keras.Model(inputs, layers.Dense(1)(inner(x)))
    removal = ka.Removal({"one": [1], "more/inner": [0, 3]})
    check_equal_to_masking(model, removal)
    assert inner.get_layer("inner").units == 3
    assert inner.output.shape == (None, 3)


def test_a_whole_model_whose_call_does_more_is_followed():
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation="relu", name="one")(inputs)
    model = Overridden(inputs, layers.Dense(2, name="two")(x))
    one, two = ka.unit_groups(model)
    assert one.removable
    assert not two.removable
    x = np.ones((2, 4), "float32")
    model.get_layer("one").kernel.assign(np.eye(4, 3))
    model.get_layer("two").kernel.assign([[0, 0], [1, 2], [3, 4]])
    statistics = ka.unit_statistics(model, x)
    assert one.name in str(statistics)
    ka.shrink(model, ka.Removal({one.name: [0]}))
    found = ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(found, [[8, 12]] * 2)


def test_a_masked_state_is_told_from_its_sequence():
    """By name: `sequences` comes after `mask` in the alphabet."""
    inputs = keras.Input((5, 4))
    mask = ops.any(ops.not_equal(inputs, 0), axis=-1)
    x = layers.Dense(3, name="one")(inputs)
    x = layers.LSTM(2, name="two")(sequences=x, mask=mask)
    groups = ka.unit_groups(keras.Model(inputs, layers.Dense(1)(x)))
    assert [group.removable for group in groups] == [True, True, False]

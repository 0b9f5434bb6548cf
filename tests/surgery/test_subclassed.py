"""Subclassed models whose parts are Functional or Sequential."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from tests.every_layer import chain, conv, dense


class Pair(keras.Model):
    """Two parts, joined in a way that Keras does not record."""

    def __init__(self):
        super().__init__()
        self.image = chain(
            (6, 6, 2), conv(6, "one"), layers.Flatten(), dense(3, "left")
        )
        self.vector = keras.Sequential(
            [keras.Input((4,)), dense(8, "hidden"), dense(3, "right")]
        )
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        image, vector = inputs
        return self.head(self.image(image) * self.vector(vector))


def data(size=8):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=shape).astype("float32")
        for shape in ((size, 6, 6, 2), (size, 4))
    ]


def built(kind=Pair):
    model = kind()
    model.compile("adam", "mse")
    x, y = data(), np.zeros((8, 2), "float32")
    model.fit(x, y, verbose=0)
    return model, x, y


def test_inner_units_of_parts_leave():
    model, x, y = built()
    groups = {g.name.split("/")[-1]: g for g in ka.unit_groups(model)}
    names = {n for n, g in groups.items() if g.removable}
    assert names == {"one", "hidden", "left"}
    kernel = model.image.get_layer("left").kernel
    full = ops.convert_to_numpy(kernel)
    zeroed = full.copy().reshape(36, 6, 3)
    zeroed[:, 1] = 0
    kernel.assign(zeroed.reshape(full.shape))
    expected = model.predict(x, verbose=0)
    kernel.assign(full)
    ka.shrink(model, ka.Removal({groups["one"].name: [1]}))
    assert model.image.get_layer("one").filters == 5
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    model.fit(x, y, verbose=0)


def test_how_parts_are_joined_is_followed():
    model, x, _ = built()
    names = [g.name for g in ka.unit_groups(model) if g.removable]
    assert set(ka.unit_statistics(model, x)) >= set(names)
    (name, *_) = names
    with pytest.raises(ValueError, match="config of its own"):
        ka.rebuild(model, ka.Removal({name: [0]}))
    report = ka.shrink(model, ka.Removal({name: [0]}))
    (note,) = report.notes
    assert "could not be loaded" in note


class Opaque(Pair):
    def call(self, inputs):
        image, vector = inputs
        both = keras.src.backend.numpy.multiply(
            self.image(image), self.vector(vector)
        )
        return self.head(both)


def test_of_a_model_that_is_not_followed_the_parts_are_read():
    model, x, _ = built(Opaque)
    groups = {g.name.split("/")[-1]: g for g in ka.unit_groups(model)}
    assert {n for n, g in groups.items() if g.removable} == {"one", "hidden"}
    assert groups["left"].reason == "a part of the model returns them"
    with pytest.raises(ValueError, match="is not recorded"):
        ka.unit_statistics(model, x)
    report = ka.shrink(model, ka.Removal({groups["one"].name: [0]}))
    assert "could not be loaded" in str(report.notes)


def test_a_model_that_is_not_built_is_pruned_in_fit():
    """Keras does not build a model whose `train_step` calls its parts."""

    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.part = keras.Sequential(
                [
                    keras.Input((3,)),
                    keras.layers.Dense(4, name="one"),
                    keras.layers.Dense(2),
                ]
            )

    model = Pair()
    assert not model.built
    pruning = ka.callbacks.SaliencyPruning(
        "l1_norm", replacement="zero", schedule=ka.schedules.OneShot(0.5)
    )
    pruning.set_model(model)
    pruning.begin(analyse(model))
    report = pruning.fire(0.5)
    assert report.parameters_after == 3 * 2 + 2 + 2 * 2 + 2
    assert model.part.get_layer("one").units == 2


def test_functions_that_a_class_compiles_are_made_anew():
    """As KerasHub's `generate` does, by the names that Keras uses itself."""

    class Generates(keras.Model):
        generate_function = None

        def make_generate_function(self):
            if self.generate_function is None:
                self.generate_function = compiled(self)
            return self.generate_function

    def compiled(model):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.function(lambda x: model(x, training=False))
        return lambda x: model(x, training=False)

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, "relu", name="hidden")(inputs)
    model = Generates(inputs, keras.layers.Dense(2)(hidden))
    x = np.ones((2, 4), "float32")
    model.make_generate_function()(x)
    ka.shrink(model, ka.Removal({"hidden": [0, 3]}))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model.make_generate_function()(x)),
        keras.ops.convert_to_numpy(model(x)),
        rtol=1e-5,
    )

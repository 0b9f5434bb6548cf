"""Models of classes with configs of their own, saved after a removal."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
REMOVAL = ka.Removal({"h": [0, 1, 2]})
register = keras.saving.register_keras_serializable("tests.saving")


def parts(width):
    inputs = keras.Input((4,))
    hidden = layers.Dense(width, activation="relu", name="h")(inputs)
    return inputs, layers.Dense(2, name="o")(hidden)


@register
class Net(keras.Model):
    """As backbones of KerasHub: made of inputs and outputs, by a width."""

    def __init__(self, width=8, **kwargs):
        inputs, outputs = parts(width)
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.width = width
        self.extra = outputs._keras_history.operation

    def get_config(self):
        return {"width": self.width, "name": self.name}

    def method(self):
        return "its own"


@register
class Stack(keras.Sequential):
    def __init__(self, width=8, **kwargs):
        hidden = layers.Dense(width, activation="relu", name="h")
        super().__init__([keras.Input((4,)), hidden, layers.Dense(2)])
        self.width = width

    def get_config(self):
        return {"width": self.width}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


@register
class OwnCompile(Net):
    """Takes other arguments to `compile` than Keras does."""

    def compile(self, rate):
        super().compile(keras.optimizers.SGD(rate), "mse")


@register
class Honest(Net):
    """Its config asks the layers for their sizes."""

    def get_config(self):
        return {"width": self.get_layer("h").units, "name": self.name}


@register
class OwnCall(Net):
    def call(self, inputs):
        return 2 * super().call(inputs)


@register
class Holder(keras.Model):
    """A part that is made by the class itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.part = keras.Model(*parts(8), name="part")

    def call(self, inputs):
        return self.part(inputs)

    def get_config(self):
        return {}


@register
class Wrapper(keras.Model):
    """A part that is an argument, which Keras puts into the config."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.part = part

    def call(self, inputs):
        return self.part(inputs)

    def get_config(self):
        return {"part": keras.saving.serialize_keras_object(self.part)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["part"]))


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def reloaded(model, tmp_path, **arguments):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras", **arguments)


@pytest.mark.parametrize("kind", [Net, Stack])
def test_a_class_with_its_own_sizes_loads_as_a_plain_model(kind, tmp_path):
    model = kind()
    model.compile("adam", "mse")
    model.fit(X, X[:, :2], verbose=0)
    report = ka.shrink(model, REMOVAL)
    (note,) = report.notes
    assert f"of its class {kind.__name__} does not know the new sizes" in note
    assert isinstance(model, kind)
    assert kind is Stack or model.method() == "its own"
    loaded = reloaded(model, tmp_path)
    assert type(loaded) in (type(keras.Model(*parts(1))), keras.Sequential)
    assert loaded.get_layer("h").units == 5
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-6)
    for each in (model, loaded):
        each.fit(X, X[:, :2], epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        numpy(loaded(X)), numpy(model(X)), rtol=1e-4, atol=1e-5
    )
    # A second removal has nothing more to say.
    assert ka.shrink(model, ka.Removal({"h": [0]})).notes == ()
    assert reloaded(model, tmp_path).get_layer("h").units == 4


def test_nested_in_a_plain_model(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(Net(name="net")(inputs)))
    (name,) = [g.name for g in ka.unit_groups(model) if g.name[-1] == "h"]
    rebuilt = ka.rebuild(model, ka.Removal({name: [0, 1, 2]}))
    assert type(model.get_layer("net")) is Net
    ka.shrink(model, ka.Removal({name: [0, 1, 2]}))
    loaded = reloaded(model, tmp_path)
    for each in (loaded, rebuilt):
        np.testing.assert_allclose(numpy(each(X)), numpy(model(X)), atol=1e-6)


@pytest.mark.parametrize("kind", [Net, Stack])
def test_rebuilt_as_a_plain_model(kind):
    model = kind()
    rebuilt = ka.rebuild(model, REMOVAL)
    assert type(model) is kind
    assert not isinstance(rebuilt, kind)
    ka.shrink(model, REMOVAL)
    np.testing.assert_allclose(numpy(rebuilt(X)), numpy(model(X)), atol=1e-6)


@pytest.mark.parametrize("kind", [Net, Stack])
def test_copies_are_plain_models(kind):
    model = kind()
    ka.shrink(model, REMOVAL)
    for copy in (keras.models.clone_model(model), ka.strip_pruning(model)):
        assert not isinstance(copy, kind)
        copy.set_weights(model.get_weights())
        np.testing.assert_allclose(numpy(copy(X)), numpy(model(X)), atol=1e-6)


def test_a_compile_of_its_own(tmp_path):
    model = OwnCompile()
    model.compile(rate=0.1)
    ka.shrink(model, REMOVAL)
    loaded = reloaded(model, tmp_path)
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-6)


def test_a_config_that_knows_the_sizes_is_kept(tmp_path):
    model = Honest()
    assert ka.shrink(model, REMOVAL).notes == ()
    assert type(model) is Honest
    loaded = reloaded(model, tmp_path)
    assert type(loaded) is Honest
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-6)


def test_parts_in_the_config_of_a_subclassed_model(tmp_path):
    model = Wrapper(keras.Model(*parts(8), name="part"))
    model(X)
    assert ka.shrink(model, ka.Removal({"part/h": [0, 1]})).notes == ()
    loaded = reloaded(model, tmp_path)
    assert type(loaded) is Wrapper
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-6)


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    model = Holder()
    model(X)
    (note,) = ka.shrink(model, ka.Removal({"part/h": [0, 1]})).notes
    assert "class Holder does not know the sizes" in note
    assert "save_weights" in note
    with pytest.raises(ValueError, match="could not be loaded"):
        model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    assert isinstance(model, Holder)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)


def test_a_call_of_its_own_with_a_config_that_follows(tmp_path):
    model = OwnCall()
    model(X)
    assert ka.shrink(model, ka.Removal({"h": [0, 1]})).notes == ()
    assert model.get_config()["width"] == 6
    loaded = reloaded(model, tmp_path)
    assert type(loaded) is OwnCall
    np.testing.assert_allclose(numpy(loaded(X)), numpy(model(X)), atol=1e-6)

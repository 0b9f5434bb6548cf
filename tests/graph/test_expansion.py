"""Layers without a rule are followed by calling them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.activations import is_homogeneous
from keras_apoptosis.graph.expansion import Expansion, NotFollowed
from tests.architectures import randomize, sample
from tests.graph.composites import (
    ACTIVATIONS,
    COMPOSITES,
    Blocks,
    Mixer,
    Positions,
    TransformerBlock,
    around,
)
from tests.masking import masked_outputs, outputs_of
from tests.processes import output_of
from tests.surgery.test_shrink import check_equal_to_masking


def third_of(model, names=None):
    rng = np.random.default_rng(0)
    return ka.Removal(
        {
            group.name: rng.choice(
                group.size, max(1, group.size // 3), replace=False
            )
            for group in ka.unit_groups(model)
            if group.removable and (names is None or group.name in names)
        }
    )


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_shrink_exactly(name):
    make, sizes = COMPOSITES[name]
    model = randomize(make(), seed=1)
    groups = {g.name: g.size for g in ka.unit_groups(model) if g.removable}
    assert sizes.items() <= groups.items()
    report, small = check_equal_to_masking(model, third_of(model))
    assert report.notes == ()
    assert small.get_config() == model.get_config()
    again = third_of(model)  # What was found is found anew at the new sizes.
    check_equal_to_masking(model, again)


def test_settings_and_what_follows_them_are_those_of_a_new_layer():
    model = around(TransformerBlock(name="block"))
    ka.shrink(
        model,
        ka.Removal({"block/up": [0, 5], "block/heads/query/query_heads": [1]}),
    )
    block = model.get_layer("block")
    assert (block.hidden, block.heads, block.width) == (6, 1, 3)
    assert block.up.units == 6
    assert block.attention.num_heads == 1
    assert block.down.input_spec.axes == {-1: 6}
    config = block.get_config()
    assert (config["hidden"], config["heads"]) == (6, 1)


class Draws(layers.Layer):
    """Draws from a distribution in training, else takes its mean."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(7)

    def call(self, inputs, training=None):
        mean, deviation = inputs
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + deviation * noise


def test_what_is_tied_in_training_only_stays():
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="stem")(inputs)
    mean = layers.Dense(6, name="mean")(x)
    deviation = layers.Dense(6, name="deviation")(x)
    x = Draws(name="draws")([mean, deviation])
    model = keras.Model(inputs, layers.Dense(2)(x))
    groups = {group.name: group for group in ka.unit_groups(model)}
    assert groups["stem"].removable
    for name in ("mean", "deviation"):
        assert not groups[name].removable
        assert "in training" in groups[name].reason
    ka.shrink(model, ka.Removal({"stem": [1]}))
    assert model(np.zeros((3, 4), "float32"), training=True).shape == (3, 2)


def test_names_stay_though_a_layer_is_made_again():
    """Keras numbers layers that have no name anew, each time."""

    class Block(layers.Layer):
        def __init__(self, hidden=6, **kwargs):
            super().__init__(**kwargs)
            self.hidden = hidden
            self.feed = keras.Sequential(
                [layers.Dense(hidden, activation="relu"), layers.Dense(3)]
            )

        def call(self, inputs):
            return self.feed(inputs)

        def get_config(self):
            return {**super().get_config(), "hidden": self.hidden}

    model = around(Block(name="block"))
    names = [group.name for group in ka.unit_groups(model)]
    ka.shrink(model, third_of(model))
    assert [group.name for group in ka.unit_groups(model)] == names


def test_a_snapshot_brings_back_what_is_inside():
    model = randomize(
        around(TransformerBlock(name="one"), Mixer(name="two")), seed=1
    )
    model.compile("adam", "mse")
    x, y = sample(model), np.zeros((8, 2), "float32")
    before = ka.snapshot(model)
    config, expected = model.get_config(), outputs_of(model, x)[0]
    ka.shrink(model, third_of(model))
    model.fit(x, y, verbose=0)
    before.restore()
    assert model.get_config() == config
    assert model.get_layer("two").two.layers[0].units == 7
    np.testing.assert_array_equal(outputs_of(model, x)[0], expected)
    model.fit(x, y, verbose=0)


def test_a_block_learns_on_after_shrinking():
    model = around(TransformerBlock(name="block"))
    model.compile("adam", "mse")
    x, y = sample(model), np.zeros((8, 2), "float32")
    model.fit(x, y, verbose=0)
    ka.shrink(model, third_of(model))
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before


def test_files_load_without_this_package(tmp_path):
    models = {
        "block": around(Mixer(name="block"), TransformerBlock(name="other")),
        "subclassed": Blocks(),
    }
    models["subclassed"](np.zeros((2, 6), "float32"))
    for name, model in models.items():
        randomize(model, seed=1)
        report = ka.shrink(model, third_of(model))
        assert report.notes == ()
        shape = (6,) if name == "subclassed" else model.input_shape[1:]
        x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        y = outputs_of(model, x)[0]
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    script = """
import pathlib, sys
import keras, numpy as np
from tests.graph.composites import Blocks, Mixer, TransformerBlock, randomly
for file in pathlib.Path(sys.argv[1]).glob("*.keras"):
    model = keras.saving.load_model(file, custom_objects={
        each.__name__: each for each in (Blocks, Mixer, TransformerBlock)
    })
    data = np.load(file.with_suffix(".npz"))
    found = keras.ops.convert_to_numpy(model(data["x"]))
    np.testing.assert_allclose(found, data["y"], rtol=1e-4, atol=1e-5)
assert "keras_apoptosis" not in sys.modules
"""
    output_of(script, tmp_path)


def test_a_subclassed_model_is_followed():
    model = Blocks()
    model(np.zeros((2, 6), "float32"))
    randomize(model, seed=1)
    groups = {g.name: g for g in ka.unit_groups(model)}
    name = "one"
    assert groups[name].removable
    assert groups["stem"].removable
    assert "returns them" in groups["head"].reason
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    removal = third_of(model)
    expected = masked_outputs(model, removal, [x])
    report = ka.shrink(model, removal)
    assert report.notes == ()
    assert model.hidden == 4
    np.testing.assert_allclose(
        outputs_of(model, x)[0], expected[0], rtol=1e-4, atol=1e-5
    )
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((8, 2), "float32"), verbose=0)


def test_data_sees_inside():
    """Reconstruction replaces units that only a followed layer knows."""
    model = randomize(around(Mixer(name="block")), seed=1)
    x = sample(model, 64)
    statistics = ka.unit_statistics(model, x)
    (moments,) = statistics["block/channels/channels_up"].values()
    graph = analyse(model).graph
    (step,) = [s for s in graph.steps if s.path.endswith("channels_up")]
    (key,) = step.outputs
    # Batches of two sizes, neither that of the first reading.
    parts = [graph.run(part, [key])[key] for part in (x[:50], x[50:])]
    values = np.concatenate([ops.convert_to_numpy(part) for part in parts])
    np.testing.assert_allclose(
        moments.mean, values.reshape(-1, 7).mean(0), rtol=1e-4, atol=1e-5
    )


class BackendOnly(layers.Layer):
    """Calls the backend itself, as `tf.*` and `torch.*` do."""

    def call(self, inputs):
        return keras.src.backend.numpy.square(inputs)


class Fixed(layers.Layer):
    """Has a width that no setting says."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up = layers.Dense(5, activation="relu", name="up")
        self.down = layers.Dense(4, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 5))

    def call(self, inputs):
        return self.down(self.up(inputs))


class Ambiguous(Fixed):
    """Has two settings that say the same."""

    def __init__(self, one=5, two=5, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"one": one, "two": two}
        self.up = layers.Dense(min(one, two), activation="relu", name="up")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], min(self.settings.values())))

    def get_config(self):
        return {**super().get_config(), **self.settings}


class Scaled(Fixed):
    """Computes with a number that follows its width."""

    def __init__(self, hidden=5, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.up = layers.Dense(hidden, activation="relu", name="up")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], self.hidden))

    def call(self, inputs):
        return self.down(self.up(inputs) / self.hidden**0.5)

    def get_config(self):
        return {**super().get_config(), "hidden": self.hidden}


class Lying(layers.Layer):
    """Does something else on symbolic tensors."""

    def call(self, inputs):
        return 2 * inputs if keras.backend.is_keras_tensor(inputs) else inputs


class OfItsWeights(layers.Layer):
    """Uses a function of its weights."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, inputs):
        return inputs * ops.softmax(self.scale)


REASONS = {
    BackendOnly: ("stem", "beyond `return keras.src.backend.numpy.square"),
    Fixed: ("block/up", "has no setting that says how many there are"),
    Ambiguous: ("block/up", "'one' or 'two', and it is not clear which"),
    Scaled: ("block/up", "computes with a number at 'truedivide'"),
    Lying: ("stem", "gives other outputs than the calls"),
    OfItsWeights: ("stem", "combines them with a tensor that cannot be pruned"),
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_is_not_followed_says_why(kind):
    name, reason = REASONS[kind]
    groups = {g.name: g for g in ka.unit_groups(around(kind(name="block")))}
    assert not groups[name].removable
    assert reason.replace("truedivide", "true_divide") in groups[name].reason


def test_one_opaque_layer_holds_only_what_touches_it():
    class Holder(layers.Layer):
        def __init__(self, hidden=6, **kwargs):
            super().__init__(**kwargs)
            self.hidden = hidden
            self.up = layers.Dense(hidden, name="up")
            self.odd = BackendOnly(name="odd")
            self.down = layers.Dense(4, name="down")

        def build(self, shape):
            self.up.build(shape)
            self.down.build((*shape[:-1], self.hidden))

        def call(self, inputs):
            return self.odd(inputs) + self.down(self.up(inputs))

        def get_config(self):
            return {**super().get_config(), "hidden": self.hidden}

    model = around(Holder(name="block"))
    groups = {g.name: g for g in ka.unit_groups(model)}
    assert groups["block/up"].removable
    assert "BackendOnly 'block/odd' cannot be followed" in groups["stem"].reason


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_known_by_what_they_do(name):
    activation, expected = ACTIVATIONS[name]
    assert is_homogeneous(activation) is expected


def test_a_shared_layer_inside_and_outside_is_one():
    shared = layers.Dense(4, name="shared")

    class Holder(layers.Layer):
        def build(self, shape):
            self.inner = shared

        def call(self, inputs):
            return ops.relu(self.inner(inputs))

    inputs = keras.Input((4,))
    x = shared(Holder(name="block")(shared(inputs)))
    model = keras.Model(inputs, layers.Dense(1)(x))
    (group, *_) = ka.unit_groups(model)
    assert not group.removable  # It reads the inputs, too.


def test_masks_enter_and_leave():
    class Block(layers.Layer):
        supports_masking = True

        def __init__(self, hidden=6, **kwargs):
            super().__init__(**kwargs)
            self.supports_masking = True
            self.hidden = hidden
            self.up = layers.Dense(hidden, activation="relu", name="up")
            self.down = layers.Dense(4, name="down")

        def build(self, shape):
            self.up.build(shape)
            self.down.build((*shape[:-1], self.hidden))

        def call(self, inputs, mask=None):
            x = self.down(self.up(inputs))
            return x * ops.cast(mask, x.dtype)[..., None]

        def get_config(self):
            return {**super().get_config(), "hidden": self.hidden}

    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(4, 4, mask_zero=True, name="stem")(inputs)
    x = layers.LSTM(3, name="lstm")(Block(name="block")(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    randomize(model, seed=1)
    groups = {g.name: g for g in ka.unit_groups(model)}
    assert groups["block/up"].removable
    x = np.random.default_rng(0).integers(0, 4, (8, 5))
    graph = analyse(model).graph
    found = graph.run(x, graph.outputs)[graph.outputs[0]]
    np.testing.assert_allclose(
        ops.convert_to_numpy(found), outputs_of(model, [x])[0], rtol=1e-5
    )
    removal = third_of(model, ["block/up", "lstm"])
    expected = masked_outputs(model, removal, [x])
    ka.shrink(model, removal)
    np.testing.assert_allclose(
        outputs_of(model, [x])[0], expected[0], rtol=1e-4, atol=1e-5
    )


def test_following_leaves_no_trace():
    model = around(TransformerBlock(name="block"), Positions(name="places"))
    every = list(model._flatten_layers())
    before = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in every]
    call, multiply = layers.Layer.symbolic_call, keras.Variable.__mul__
    ka.unit_groups(model)
    after = [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in every]
    assert before == after
    assert layers.Layer.symbolic_call is call
    assert keras.Variable.__mul__ is multiply


def test_other_calls_for_other_shapes_are_refused():
    class Long(layers.Layer):
        def call(self, inputs):
            return ops.relu(inputs) if inputs.shape[0] == 3 else inputs

    model = around(Long(name="block"))
    (expansion,) = analyse(model).graph.expansions
    assert isinstance(expansion, Expansion)
    with pytest.raises(NotFollowed, match="does other things for inputs"):
        expansion.at([(4, 5, 4)])


class Hard(keras.Model):
    """Has sizes that no argument says."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = layers.Dense(6, activation="relu", name="one")
        self.two = layers.Dense(2, name="two")

    def call(self, inputs):
        return self.two(self.one(inputs))


def test_a_model_that_no_file_could_hold_says_so(tmp_path):
    model = Hard()
    x = np.ones((2, 3), "float32")
    model(x)
    removal = ka.Removal({"one": [0, 3]})
    expected = masked_outputs(model, removal, [x])
    (note,) = ka.shrink(model, removal).notes
    assert "cannot be saved as a whole" in note
    np.testing.assert_allclose(outputs_of(model, x)[0], expected[0], 1e-5)
    with pytest.raises(ValueError, match="cannot be saved as a whole"):
        model.save(tmp_path / "small.keras")
    model.save_weights(tmp_path / "small.weights.h5")

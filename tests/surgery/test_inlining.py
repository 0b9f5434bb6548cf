"""Layers of layers become a flat functional model of what they call."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from tests.architectures import randomize, sample
from tests.graph.composites import COMPOSITES, Blocks, TransformerBlock, around
from tests.graph.test_expansion import third_of
from tests.masking import outputs_of
from tests.processes import output_of
from tests.surgery.test_shrink import check_equal_to_masking


class Rms(layers.Layer):
    """A normalization in own words."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, inputs):
        square = ops.mean(ops.square(inputs), axis=-1, keepdims=True)
        return inputs * ops.rsqrt(square + 0.1) * (1 + self.scale)


class Standard(layers.Layer):
    """A transformer block as most write it: by heads, of a width that fits."""

    def __init__(self, heads=2, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape):
        width = shape[-1]
        self.norm = Rms(name="norm")
        self.norm.build(shape)
        self.attention = layers.MultiHeadAttention(
            self.heads, width // self.heads, name="attention"
        )
        self.attention.build(shape, shape)
        self.up = layers.Dense(3 * width, "relu", name="up")
        self.up.build(shape)
        self.down = layers.Dense(width, name="down")
        self.down.build((*shape[:-1], 3 * width))
        self.token = self.add_weight(shape=(1, 1, width), name="token")

    def call(self, inputs):
        x = self.norm(inputs)
        x = inputs + self.attention(x, x, use_causal_mask=True)
        x = x + self.down(self.up(x))
        token = ops.broadcast_to(
            self.token, (ops.shape(x)[0], 1, ops.shape(x)[-1])
        )
        return ops.concatenate([token, x], axis=1)


class Noisy(layers.Layer):
    def build(self, shape):
        self.dense = layers.Dense(shape[-1], name="dense")
        self.dense.build(shape)

    def call(self, inputs, training=False):
        x = self.dense(inputs)
        return x * keras.random.uniform(ops.shape(x)) if training else x


class CountsItsBatch(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, inputs):
        batch = ops.cast(ops.shape(inputs)[0], inputs.dtype)
        return self.scale * inputs / batch


class Windows(layers.Layer):
    """Attends within windows, which become rows of the batch."""

    def build(self, shape):
        self.width = shape[-1]
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.attention.build((None, 2, shape[-1]), (None, 2, shape[-1]))
        self.token = self.add_weight(shape=(shape[-1],), name="token")

    def call(self, inputs):
        x = ops.reshape(inputs, (-1, 2, self.width))
        x = ops.reshape(self.attention(x, x), (-1, 6, self.width))
        token = ops.expand_dims(self.token, (0, 1))
        token = ops.broadcast_to(token, (ops.shape(x)[0], 1, self.width))
        return ops.concatenate([token, x], axis=1)


def standard(length=5, width=4):
    return randomize(
        around(Standard(name="block"), width=width, length=length), seed=1
    )


@pytest.mark.parametrize("name", COMPOSITES)
def test_computes_the_same_and_shrinks_exactly(name):
    model = randomize(COMPOSITES[name][0](), seed=1)
    inlined = ka.inline(model)
    assert type(inlined) is type(model)
    data = sample(model)
    np.testing.assert_allclose(
        outputs_of(inlined, data)[0], outputs_of(model, data)[0], atol=1e-5
    )
    check_equal_to_masking(inlined, third_of(inlined))


def test_heads_follow_no_setting_and_are_units():
    model = standard()
    before = {g.name: g.size for g in ka.unit_groups(model) if g.removable}
    assert not [name for name in before if name.startswith("block")]
    inlined = ka.inline(model)
    groups = [group for group in ka.unit_groups(inlined) if group.removable]
    sizes = {group.name: group.size for group in groups}
    assert sizes == {
        "stem": 4,
        "block_attention_query/d": 2,
        "block_attention_query/e": 2,
        "block_up": 12,
    }
    # Every method can measure them.
    assert all(o.measurable for group in groups for o in group.observations)
    check_equal_to_masking(inlined, third_of(inlined))


def test_windows_are_rows_of_the_batch():
    model = randomize(around(Windows(name="block"), length=6), seed=1)
    inlined = ka.inline(model)
    groups = {g.name: g.size for g in ka.unit_groups(inlined) if g.removable}
    assert groups == {
        "stem": 4,
        "block_attention_query/d": 2,
        "block_attention_query/e": 3,
        "block_token": 4,
    }
    check_equal_to_masking(inlined, third_of(inlined))


def test_trains_as_the_model_that_it_was_made_of():
    model = standard()
    inlined = ka.inline(model)
    x = sample(model, size=16)
    y = np.random.default_rng(0).normal(size=(16, 2)).astype("float32")
    losses = []
    for each in (model, inlined):
        each.compile(keras.optimizers.SGD(1e-3), "mse")
        fitted = each.fit(x, y, epochs=3, shuffle=False, verbose=0)
        losses.append(fitted.history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_the_model_is_left_as_it_is():
    model = standard()
    config, weights = model.get_config(), model.get_weights()
    ka.shrink(inlined := ka.inline(model), third_of(inlined))
    assert model.get_config() == config
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_files_load_without_the_classes_and_this_package(tmp_path):
    inlined = ka.inline(standard())
    ka.shrink(inlined, third_of(inlined))
    x = sample(inlined)
    inlined.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=outputs_of(inlined, x)[0])
    script = """
import sys
import warnings
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
data = np.load(sys.argv[1] + "/data.npz")
found = keras.ops.convert_to_numpy(model(data["x"]))
np.testing.assert_allclose(found, data["y"], rtol=1e-4, atol=1e-5)
assert not {"keras_apoptosis", "tests"} & set(sys.modules)
"""
    output_of(script, tmp_path)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_dtypes_are_those_of_the_layers(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = standard()
        inlined = ka.inline(model)
    finally:
        keras.config.set_dtype_policy("float32")
    (one,), (other,) = (
        outputs_of(each, sample(model)) for each in (model, inlined)
    )
    assert one.dtype == other.dtype
    np.testing.assert_allclose(
        one.astype("float32"), other.astype("float32"), rtol=0.05, atol=0.1
    )


def test_masks_reach_what_they_reached():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="words")(inputs)
    x = _Attends(name="block")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        inlined = ka.inline(model)
    data = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    np.testing.assert_allclose(
        outputs_of(inlined, data)[0], outputs_of(model, data)[0], atol=1e-5
    )
    check_equal_to_masking(inlined, third_of(inlined))


class _Words(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(9, 4, name="words")

    def call(self, inputs):
        return self.words(inputs) * 2.0

    def compute_mask(self, inputs, mask=None):
        return ops.not_equal(inputs, 0)


def test_masks_that_an_inlined_layer_computes_leave_it():
    inputs = keras.Input((6,), dtype="int32")
    x = _Attends(name="block")(_Words(name="words")(inputs))
    x = layers.LSTM(3, name="lstm")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), seed=1)
    assert {"words/words", "block/attention/query/query_dim", "lstm"} <= {
        group.name for group in ka.unit_groups(model)
    }
    inlined = ka.inline(model)
    data = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    np.testing.assert_allclose(
        outputs_of(inlined, data)[0], outputs_of(model, data)[0], atol=1e-5
    )
    check_equal_to_masking(inlined, third_of(inlined))


def test_lambdas_are_copied():
    """The first computes with the backend, so that it stays as it is."""

    def halves(x):
        return ops.convert_to_tensor(ops.convert_to_numpy(x)) / 2

    inputs = keras.Input((4,))
    x = layers.Lambda(halves, output_shape=(4,))(inputs)
    x = layers.Lambda(ops.sin)(layers.Dense(6, name="one")(x))
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), seed=1)
    inlined = ka.inline(model)
    data = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(inlined(data)),
        ops.convert_to_numpy(model(data)),
        atol=1e-6,
    )


class _Attends(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.attention.build(shape, shape)

    def call(self, inputs, mask=None):
        return inputs + self.attention(inputs, inputs)


def test_subclassed_models_are_inlined():
    model = Blocks()
    model(np.zeros((2, 6), "float32"))
    randomize(model, seed=1)
    inlined = ka.inline(model)
    data = sample(inlined)
    np.testing.assert_allclose(
        outputs_of(inlined, data)[0],
        ops.convert_to_numpy(model(data)),
        atol=1e-5,
    )
    assert [layer.name for layer in inlined.layers[1:]] == [
        "stem",
        "one",
        "two",
        "head",
    ]
    check_equal_to_masking(inlined, third_of(inlined))


def test_unknown_lengths_stay_unknown_or_are_given():
    inputs = keras.Input((None, 3), name="words")
    x = layers.Dense(4, name="stem")(inputs)
    x = TransformerBlock(name="block")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), seed=1)
    inlined = ka.inline(model, length={"words": 6})
    assert inlined.input_shape == (None, 6, 3)
    assert "block_up" in {g.name for g in ka.unit_groups(inlined)}
    with pytest.warns(UserWarning, match="size of its inputs"):
        kept = ka.inline(model)  # Causal masks are of one length.
    assert kept.input_shape == (None, None, 3)
    for length in (3, 6, 8):
        data = np.ones((2, length, 3), "float32")
        np.testing.assert_allclose(
            outputs_of(kept, data)[0], outputs_of(model, data)[0], atol=1e-5
        )


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Noisy(name="block"), "does something else in training"),
        (CountsItsBatch(name="block"), "computes with the size of its inputs"),
    ],
)
def test_layers_stay_whose_calls_do_not_say_all(layer, why):
    model = around(layer)
    with pytest.warns(UserWarning, match=why):
        inlined = ka.inline(model)
    assert type(inlined.get_layer("block")) is type(layer)


def test_weights_keep_what_they_have():
    class Regularized(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(
                shape=(shape[-1],),
                regularizer="l2",
                constraint="non_neg",
                name="scale",
            )
            self.fixed = self.add_weight(
                shape=(shape[-1],), trainable=False, name="fixed"
            )

        def call(self, inputs):
            return inputs * self.scale + self.fixed

    model = randomize(around(Regularized(name="block")), seed=1)
    inlined = ka.inline(model)
    scale = inlined.get_layer("block_scale").embeddings
    assert isinstance(scale.regularizer, keras.regularizers.L2)
    assert isinstance(scale.constraint, keras.constraints.NonNeg)
    assert not inlined.get_layer("block_fixed").embeddings.trainable
    assert len(inlined.losses) == len(model.losses) == 1


def test_bad_lengths_are_refused():
    model = standard()
    for length in (0, -1, 2.5, True, {"other": 3}):
        with pytest.raises(ValueError, match="Received: length="):
            ka.inline(model, length=length)


def test_a_model_in_functions_of_a_backend_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            x = self.dense(inputs)
            return x * float(ops.convert_to_numpy(ops.sum(x)))

    model = Own()
    model.build((2, 3))
    with pytest.raises(ValueError, match=r"Cannot|cannot"):
        ka.inline(model)


def test_methods_prune_what_is_inside():
    inlined = ka.inline(standard())
    inlined.compile("adam", "mse")
    x = sample(inlined, size=64)
    y = np.zeros((64, 2), "float32")
    pruning = ka.callbacks.SaliencyPruning(
        data=(x, y),
        schedule=ka.schedules.OneShot(0.5),
        prune_normalized=True,
    )
    inlined.fit(x, y, epochs=2, callbacks=[pruning], verbose=0)
    (event,) = pruning.history
    assert event.output_change > 0
    names = {g.name for g in analyse(inlined).groups if g.removable}
    assert event.units["block_attention_query/d"] == (2, 1)
    assert event.units["block_up"][1] < 12
    assert names == set(event.units)

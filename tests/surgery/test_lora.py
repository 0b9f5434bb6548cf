"""Layers with LoRA lose units, and those that their matrices have."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.backend import effective_value, lora_of
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.unit_weights import incoming_kernels
from keras_apoptosis.training.noise import _owned_by_units
from tests.architectures import randomize, sample
from tests.every_layer import chain, conv, dense
from tests.masking import outputs_of
from tests.surgery.test_shrink import check_equal_to_masking, removal_of


def einsum(shape, equation, name):
    return layers.EinsumDense(
        equation, shape, bias_axes=equation[-1], name=name
    )


MODELS = {
    "dense": lambda: chain((5,), dense(6, "one"), dense(7, "two"), dense(2)),
    "convolution": lambda: chain(
        (6, 6, 2),
        conv(6, "one"),
        conv(8, "two"),
        conv(6, "grouped", groups=2),
        layers.Flatten(),
        dense(2),
    ),
    "einsum": lambda: chain(
        (4, 5),
        einsum((None, 3, 6), "abc,cde->abde", "heads"),
        einsum((None, 6), "abde,def->abf", "back"),
        layers.EinsumDense("abf,gf->abg", (None, 7), name="turned"),
        layers.EinsumDense("abg,gh->abh", (None, 2), name="out"),
    ),
    "embedding": lambda: chain(
        (5,),
        layers.Embedding(9, 6, name="table"),
        dense(7, "one"),
        layers.Flatten(),
        dense(2),
        dtype="int32",
    ),
}


def with_lora(name):
    model = MODELS[name]()
    for layer in model.layers:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2, lora_alpha=3)
    return randomize(model, seed=1)


@pytest.mark.parametrize("replace", ["nothing", "mixing"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_masking_saved_and_loaded(name, replace, tmp_path):
    model = with_lora(name)
    reasons = {g.reason for g in ka.unit_groups(model) if not g.removable}
    assert reasons == {"the model returns them"}
    removal = removal_of(model, seed=2, replace=replace)
    report, small = check_equal_to_masking(model, removal)
    assert report.notes == ()
    data = sample(model)
    for each in (model, small):
        assert any(lora_of(layer) is not None for layer in each.layers)
        each.save(tmp_path / "small.keras")  # Keras folds LoRA in.
        loaded = keras.models.load_model(tmp_path / "small.keras")
        np.testing.assert_allclose(
            outputs_of(loaded, data)[0],
            outputs_of(model, data)[0],
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("name", ["dense", "embedding"])
def test_constants_pass_exactly(name):
    model = with_lora(name)
    removal = removal_of(model, seed=2, replace="mixing and constant")
    report, _ = check_equal_to_masking(model, removal)
    assert report.notes == ()


def test_constants_at_borders_are_exact_on_average():
    """A 3x3 kernel on 4x4: taps reach 3/4, 1 and 3/4 of each axis."""
    model = chain((4, 4, 1), conv(3, "one", size=1), conv(1, "two"))
    layer = model.get_layer("two")
    layer.enable_lora(2)
    randomize(model, seed=0)
    kernel = ops.convert_to_numpy(layer.kernel)  # With LoRA.
    bias = ops.convert_to_numpy(layer.bias)
    removal = ka.Removal({"one": [1]}, {"one": ka.Replacement([0.5])})
    ka.shrink(model, removal)
    reach = np.outer([0.75, 1, 0.75], [0.75, 1, 0.75])
    expected = bias + 0.5 * (reach * kernel[:, :, 1, 0]).sum()
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.bias), expected, rtol=1e-4
    )


def test_weights_are_seen_with_lora():
    layer = layers.Dense(2, name="one")
    model = chain((2,), layer, dense(2))
    layer.enable_lora(1, lora_alpha=2)
    layer.lora_kernel_a.assign([[1.0], [2.0]])
    layer.lora_kernel_b.assign([[3.0, 4.0]])
    lora_of(layer).weight.assign([[1.0, 0.0], [0.0, 1.0]])
    kernel = [[1 + 2 * 3, 2 * 4], [2 * 6, 1 + 2 * 8]]
    np.testing.assert_allclose(
        effective_value(layer, lora_of(layer).weight), kernel
    )
    (_, first), _ = incoming_kernels(analyse(model))
    np.testing.assert_allclose(first, np.transpose(kernel))


def test_incoming_weights_are_averaged_with_lora():
    layer = layers.Dense(3, name="one")
    model = chain((2,), layer, dense(1))
    layer.enable_lora(1, lora_alpha=2)
    randomize(model, seed=0)
    kernel = ops.convert_to_numpy(layer.kernel)
    given = ka.Replacement(incoming=[[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
    ka.shrink(model, ka.Removal({"one": [2]}, {"one": given}))
    expected = [(kernel[:, 0] + kernel[:, 2]) / 2, kernel[:, 1]]
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer.kernel), np.transpose(expected), rtol=1e-5
    )


def test_noise_is_for_the_matrix_that_makes_units():
    model = with_lora("dense")
    analysis = analyse(model)
    (one,) = [n for n, g in enumerate(analysis.groups) if g.name == "one"]
    owned = _owned_by_units(analysis, [one])
    names = {
        variable.path
        for variable in model.weights
        if id(variable) in owned and variable.trainable
    }
    assert names == {"one/lora_kernel_b", "one/bias"}


def test_training_goes_on():
    model = with_lora("dense")
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    model.fit(x, x[:, :2], verbose=0)
    ka.shrink(model, removal_of(model, seed=2))
    base = ops.convert_to_numpy(lora_of(model.layers[1]).weight)
    matrix = ops.convert_to_numpy(model.layers[1].lora_kernel_b)
    model.fit(x, x[:, :2], verbose=0)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(lora_of(model.layers[1]).weight), base
    )
    assert (ops.convert_to_numpy(model.layers[1].lora_kernel_b) != matrix).any()


def test_lora_behind_a_mask_holds_units():
    layer = ka.layers.PrunableDense(4, name="one")
    model = chain((2,), layer, dense(2))
    layer.enable_lora(1)
    assert ka.unit_groups(model)[0].removable
    layer.set_mask(np.ones((2, 4)))
    group = ka.unit_groups(model)[0]
    assert not group.removable
    assert "PrunableDense 'one' has LoRA enabled behind a mask" in group.reason


def test_lora_inside_other_layers(tmp_path):
    inner = layers.Dense(6, name="inner")
    model = chain((4, 5), layers.TimeDistributed(inner), dense(2))
    inner.enable_lora(2)
    randomize(model, seed=1)
    check_equal_to_masking(model, removal_of(model, seed=2))
    x = inputs = keras.Input((4, 5))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(inputs, dense(2)(attention(x, x)))
    attention.query_dense.enable_lora(2)
    reasons = {g.name: g.reason for g in ka.unit_groups(model)}
    assert len(reasons) >= 4  # JAX ties two widths.
    for name, reason in reasons.items():
        assert ("has LoRA enabled inside" in reason) == (name != "dense_1")

"""Promises 1 and 2: surgery equals masking; in place equals pristine."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from tests.architectures import CATALOGUE, randomize, sample
from tests.masking import masked_outputs, outputs_of, reachable

TOLERANCE = {"rtol": 2e-4, "atol": 2e-4}


def removal_of(model, seed, share=1 / 3, replace="mixing"):
    """Random units of every removable group, randomly replaced."""
    rng = np.random.default_rng(seed)
    removed, replacements = {}, {}
    analysis = analyse(model)
    for group in analysis.groups:
        if not group.removable or group.size == 1:
            continue
        count = max(1, int(share * group.size))
        removed[group.name] = rng.choice(group.size, count, replace=False)
        stays = group.size - count
        replacements[group.name] = {
            point.name: ka.Replacement(
                mixing=rng.normal(size=(count, stays)) / stays
                if "mixing" in replace
                else None,
                constant=rng.normal(size=count)
                if "constant" in replace
                else None,
            )
            for point in group.observations
            if reachable(analysis, point)
        }
    return ka.Removal(removed, replacements)


def check_equal_to_masking(model, removal, seed=0, tolerance=2e-4):
    inputs = sample(model, seed=seed)
    expected = masked_outputs(model, removal, inputs)
    small = ka.rebuild(model, removal)
    before = model.count_params()
    report = ka.shrink(model, removal)
    assert report.parameters_before == before
    assert report.parameters_after == model.count_params() < before
    for found in (outputs_of(model, inputs), outputs_of(small, inputs)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                one, other, rtol=tolerance, atol=tolerance
            )
    return report, small


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("replace", ["nothing", "mixing"])
def test_equals_masking(name, replace):
    model = randomize(CATALOGUE[name](), seed=1)
    removal = removal_of(model, seed=2, replace=replace)
    report, _ = check_equal_to_masking(model, removal)
    assert report.notes == ()


@pytest.mark.parametrize(
    "name", ["mlp", "mlp_normalized", "nested", "two_outputs", "shared"]
)
def test_constants_pass_exactly_without_borders(name):
    model = randomize(CATALOGUE[name](), seed=1)
    removal = removal_of(model, seed=2, replace="mixing and constant")
    report, _ = check_equal_to_masking(model, removal)
    assert report.notes == ()


def test_constants_pass_valid_convolutions_and_into_a_normalization():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(6, 3, activation="relu", name="one"),
            layers.Conv2D(5, 3, use_bias=False, name="two"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    randomize(model, seed=3)
    removal = removal_of(model, seed=4, replace="constant")
    report, _ = check_equal_to_masking(model, removal)
    assert report.notes == ()


@pytest.mark.parametrize("pad", ["layer", "same"])
def test_constants_at_padded_borders_are_exact_on_average(pad):
    """A 3x3 kernel on 4x4: taps reach 3/4, 1 and 3/4 of each axis."""
    layers = keras.layers
    inputs = x = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 1, name="one")(x)
    x = layers.ReLU(name="relu")(x)
    if pad == "layer":
        x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(
        1, 3, padding="same" if pad == "same" else "valid", name="two"
    )(x)
    model = randomize(keras.Model(inputs, x), seed=0)
    kernel = keras.ops.convert_to_numpy(model.get_layer("two").kernel)
    bias = keras.ops.convert_to_numpy(model.get_layer("two").bias)
    removal = ka.Removal({"one": [1]}, {"one": ka.Replacement([0.5])})
    report = ka.shrink(model, removal)
    reach = np.outer([0.75, 1, 0.75], [0.75, 1, 0.75])
    expected = bias + 0.5 * (reach * kernel[:, :, 1, 0]).sum()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model.get_layer("two").bias),
        expected,
        rtol=1e-5,
    )
    assert "'two' sees the replaced constant unevenly" in report.notes[0]


def test_constants_without_a_bias_are_dropped_and_said():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu", name="one"),
            keras.layers.Dense(2, use_bias=False, name="two"),
        ]
    )
    kernel = keras.ops.convert_to_numpy(model.get_layer("two").kernel)
    report = ka.shrink(
        model, ka.Removal({"one": [0]}, {"one": ka.Replacement([2.0])})
    )
    lost = np.sqrt(np.mean((2 * kernel[0]) ** 2))
    assert "'two' has no bias" in report.notes[0]
    assert f"{lost:.3g}" in report.notes[0]


@pytest.mark.parametrize("name", CATALOGUE)
def test_in_place_equals_pristine(name, tmp_path):
    model = randomize(CATALOGUE[name](), seed=1)
    removal = removal_of(model, seed=2)
    inputs = sample(model)
    _, small = check_equal_to_masking(model, removal)
    assert model.get_config() == small.get_config()
    lines = {id(model): [], id(small): []}
    for each in (model, small):
        each.summary(print_fn=lines[id(each)].append, line_length=100)
    assert _without_title(lines[id(model)]) == _without_title(lines[id(small)])
    expected = outputs_of(model, inputs)
    copies = [keras.models.clone_model(model)]
    copies[0].set_weights(model.get_weights())
    model.save(tmp_path / "model.keras")
    copies.append(keras.models.load_model(tmp_path / "model.keras"))
    for copy in copies:
        assert [v.shape for v in copy.variables] == [
            v.shape for v in model.variables
        ]
        for one, other in zip(outputs_of(copy, inputs), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def _without_title(lines):
    return [line for line in lines if not line.startswith("Model:")]


def test_rebuild_leaves_the_original_alone():
    model = randomize(CATALOGUE["residual"](), seed=1)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    config = model.get_config()
    small = ka.rebuild(model, removal_of(model, seed=2))
    assert small.count_params() < model.count_params()
    assert model.get_config() == config
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_same_removal_again_and_again():
    model = randomize(CATALOGUE["cnn_normalized"](), seed=1)
    for seed in range(3):
        check_equal_to_masking(model, removal_of(model, seed))


def test_merged_by_outgoing_weights_by_hand():
    """v = (α v₁ + v₂)/(α + 1) and w = w₁ + w₂, with w₁ = α w₂ and α = 1/2."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(2, activation="sigmoid", name="one"),
            keras.layers.Dense(1, name="two"),
        ]
    )
    weights = ([[3.0, 6.0]], [0.0, 1.5], [[1.0], [2.0]], [0.25])
    model.set_weights([np.array(each) for each in weights])
    ka.shrink(
        model,
        ka.Removal(
            {"one": [0]},
            {"one": ka.Replacement(mixing=[[1.0]], incoming=[[1 / 3, 2 / 3]])},
        ),
    )
    expected = [[[5.0]], [1.0], [[3.0]], [0.25]]
    for found, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6)


def test_the_report_sums_up_what_stays_unexplained():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="one"),
            keras.layers.Dense(3, name="two"),
            keras.layers.Dense(2),
        ]
    )
    given = ka.Replacement(constant=[1.0, 2.0], residual=[3.0, 4.0])
    removal = ka.Removal({"one": [0, 1], "two": [0]}, {"one": given})
    found = {
        each.name: each.residual for each in ka.shrink(model, removal).groups
    }
    assert found == {"one": pytest.approx(np.sqrt(12.5)), "two": None}

"""Operations that add entries: what stands beside units is no unit."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from tests.architectures import randomize, sample
from tests.masking import outputs_of
from tests.surgery.test_shrink import check_equal_to_masking, removal_of

ROUND = [[0, 0], [1, 1], [1, 1], [0, 0]]
ACROSS = [[0, 0], [0, 0], [0, 0], [2, 1]]


def image(between, filters=4, size=3):
    """Two convolutions, and what stands between them."""
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(filters, 3, activation="relu", name="one")(inputs)
    x = layers.Conv2D(2, size, name="two")(between(x))
    return keras.Model(inputs, x)


@pytest.mark.parametrize("number", [0.5, -1.0, 2.0, float("nan")])
def test_numbers_around_units_keep_them(number):
    """A dead channel would have them, too."""
    model = image(lambda x: ops.pad(x, ROUND, constant_values=number))
    group = ka.unit_groups(model)[0]
    assert not group.removable
    assert "pads the units with values other than zero" in group.reason


EXACT = {
    "zeros": lambda x: ops.pad(x, ROUND),
    "reflection": lambda x: ops.pad(x, ROUND, mode="reflect"),
    "symmetry": lambda x: ops.pad(x, ROUND, mode="symmetric"),
    "channels of zeros": lambda x: ops.pad(x, ACROSS),
    "channels of twos": lambda x: ops.pad(x, ACROSS, constant_values=2.0),
    "constants beside": lambda x: ops.concatenate(
        [np.full((8, 3, 3, 2), 0.5, "float32"), x], axis=-1
    ),
    "a layer of constants beside": lambda x: layers.Concatenate()(
        [x, np.full((8, 3, 3, 1), 0.5, "float32"), x]
    ),
    "a roll": lambda x: ops.roll(x, 1, axis=1),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("replace", ["nothing", "mixing"])
def test_what_is_added_apart_from_the_units_stays(name, replace):
    model = randomize(image(EXACT[name]), seed=0)
    groups = {group.name: group for group in ka.unit_groups(model)}
    if not groups["one"].removable:
        assert name == "a roll"  # It has no rule.
        return
    removal = removal_of(model, seed=1, replace=replace)
    report, _ = check_equal_to_masking(model, removal)
    assert report.notes == ()


KEPT = {
    "positions": lambda x: ops.concatenate(
        [x, np.ones((8, 1, 3, 4), "float32")], axis=1
    ),
    "a stack": lambda x: ops.max(
        ops.stack([x, np.ones((8, 3, 3, 4), "float32")], axis=1), axis=1
    ),
    "a merging layer": lambda x: layers.Maximum()(
        [x, np.ones((8, 3, 3, 4), "float32")]
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_constants_as_wide_as_the_units_keep_them(name):
    """Nothing would cut them."""
    group = ka.unit_groups(image(KEPT[name], size=1))[0]
    assert not group.removable


PADS = {
    "function": lambda x: ops.pad(x, ROUND),
    "layer": layers.ZeroPadding2D(1),
    "twice": lambda x: ops.pad(
        layers.ZeroPadding2D(((1, 0), (0, 0)))(x),
        [[0, 0], [0, 1], [1, 1], [0, 0]],
    ),
    "before others": lambda x: ops.flip(
        layers.Dropout(0.5)(ops.pad(x, ROUND)), axis=1
    ),
    "beside another": lambda x: layers.Concatenate()(
        [ops.pad(x, ROUND), layers.Conv2D(3, 1)(ops.pad(x, ROUND) * 2)]
    ),
}


@pytest.mark.parametrize("name", PADS)
def test_a_constant_does_not_stand_in_the_padding(name):
    """A 3x3 kernel on a padded 3x3 image: taps reach 2/3, 1, 2/3 of an axis."""
    model = randomize(image(PADS[name]), seed=0)
    kernel = ops.convert_to_numpy(model.get_layer("two").kernel)
    bias = ops.convert_to_numpy(model.get_layer("two").bias)
    removal = ka.Removal({"one": [1]}, {"one": ka.Replacement([0.5])})
    report = ka.shrink(model, removal)
    reach = np.outer([2 / 3, 1, 2 / 3], [2 / 3, 1, 2 / 3])[..., None]
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.get_layer("two").bias),
        bias + 0.5 * (reach * kernel[:, :, 1]).sum((0, 1)),
        rtol=1e-5,
    )
    assert "'two' sees the replaced constant unevenly" in report.notes[0]


def test_a_constant_beside_padding_is_exact_where_each_place_has_a_weight():
    inputs = keras.Input((3, 2))
    x = layers.Dense(4, name="one")(inputs)
    x = layers.Flatten()(ops.pad(x, [[0, 0], [1, 0], [0, 0]]))
    model = keras.Model(inputs, layers.Dense(2, name="two")(x))
    randomize(model, seed=0)
    kernel = ops.convert_to_numpy(model.get_layer("two").kernel)
    bias = ops.convert_to_numpy(model.get_layer("two").bias)
    removal = ka.Removal({"one": [1]}, {"one": ka.Replacement([0.5])})
    report = ka.shrink(model, removal)
    # Unit 1 stands at places 1 (in the padding), 5, 9 and 13.
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.get_layer("two").bias),
        bias + 0.5 * kernel[[5, 9, 13]].sum(0),
        rtol=1e-5,
    )
    assert report.notes == ()


INSIDE = {
    "time distributed": lambda: layers.TimeDistributed(layers.Dense(2)),
    "spectral normalization": lambda: layers.SpectralNormalization(
        layers.Conv1D(2, 2)
    ),
    "recurrent": lambda: layers.LSTM(2),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(2)),
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("padded", [False, True])
def test_layers_inside_others_take_constants_that_are_everywhere(name, padded):
    inputs = keras.Input((3, 2))
    x = layers.Dense(4, name="one")(inputs)
    if padded:
        x = ops.pad(x, [[0, 0], [1, 0], [0, 0]])
    model = randomize(keras.Model(inputs, INSIDE[name]()(x)), seed=0)
    removal = ka.Removal({"one": [1]}, {"one": ka.Replacement([0.5])})
    if padded:
        with pytest.raises(ValueError, match="constant"):
            ka.shrink(model, removal)
        return
    inputs = sample(model)
    layer = model.get_layer("one")
    kernel, bias = (ops.convert_to_numpy(v).copy() for v in layer.weights)
    kernel[:, 1], bias[1] = 0, 0.5  # The unit is constant.
    layer.set_weights([kernel, bias])
    (expected,) = outputs_of(model, inputs)
    assert ka.shrink(model, removal).notes == ()
    np.testing.assert_allclose(
        outputs_of(model, inputs)[0], expected, rtol=1e-5, atol=1e-5
    )


def test_a_constant_before_a_mask_is_taken_behind_it():
    """Masked steps are zero, not the constant."""
    inputs = keras.Input((3, 2))
    x = layers.Dense(4, activation="relu", name="one")(inputs)
    x = layers.Masking(name="mask")(x)
    model = keras.Model(inputs, layers.LSTM(2, name="two")(x))
    (point,) = ka.unit_groups(model)[0].observations
    assert point.name == "mask"

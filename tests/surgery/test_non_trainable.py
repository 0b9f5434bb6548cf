"""Layers with `trainable=False` keep their units and their weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka


def transfer():
    """A frozen base with a head that is trained."""
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="b1"),
            layers.Dense(7, activation="relu", name="b2"),
        ],
        name="base",
    )
    base.trainable = False
    return keras.Sequential(
        [
            keras.Input((6,)),
            base,
            layers.Dense(5, activation="relu", name="head"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="out"),
        ]
    )


def removable(model, **arguments):
    return [g.name for g in ka.unit_groups(model, **arguments) if g.removable]


def test_units_of_a_frozen_base_stay():
    model = transfer()
    groups = {group.name: group for group in ka.unit_groups(model)}
    assert removable(model) == ["head"]
    reason = "'b1', and 1 more like it, is non-trainable (`trainable=False`)"
    assert groups["base/b1"].reason == reason
    # Its units enter the head, which is trained, but it makes them.
    assert groups["base/b2"].reason == (
        "'b2' is non-trainable (`trainable=False`)"
    )
    assert "non-trainable" in str(groups["base/b2"])
    with pytest.raises(ValueError, match=r"'b2' is non-trainable"):
        ka.shrink(model, ka.Removal({"base/b2": [0]}))
    with pytest.raises(ValueError, match=r"'b2' is non-trainable"):
        ka.rebuild(model, ka.Removal({"base/b2": [0]}))
    before = model.layers[0].get_weights()
    ka.shrink(model, ka.Removal({"head": [0, 1]}))
    for one, other in zip(model.layers[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_they_leave_where_that_is_wanted():
    model = transfer()
    assert removable(model, prune_non_trainable=True) == [
        "base/b1",
        "base/b2",
        "head",
    ]
    removal = ka.Removal({"base/b1": [0], "base/b2": [1, 2]})
    rebuilt = ka.rebuild(model, removal, prune_non_trainable=True)
    ka.shrink(model, removal, prune_non_trainable=True)
    assert model.layers[0].get_layer("b1").units == 7
    assert not model.layers[0].trainable
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    one, other = (ops.convert_to_numpy(each(x)) for each in (model, rebuilt))
    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("fixed", ["one", "norm", "two"])
def test_producers_carriers_and_consumers_are_respected(fixed):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="one"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(4, name="two"),
            layers.Dense(2, name="out"),
        ]
    )
    model.get_layer("relu").trainable = False  # It has no weights.
    assert removable(model) == ["one", "two"]
    model.get_layer(fixed).trainable = False
    # Of what 'two' makes, only 'two' itself and 'out' have weights.
    assert removable(model) == ([] if fixed == "two" else ["two"])
    model.trainable = False
    assert removable(model) == []
    model.trainable = True
    assert removable(model) == ["one", "two"]


@pytest.mark.parametrize("trainable", [True, False])
def test_a_frozen_normalization_absorbs_nothing(trainable):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="one"),
            layers.Dense(5, use_bias=False, name="two"),
            layers.BatchNormalization(name="norm", trainable=trainable),
            layers.Dense(2, name="out"),
        ]
    )
    norm = model.get_layer("norm")
    before = norm.get_weights()
    constant = ka.Replacement(constant=[0.5, 1.0])
    report = ka.shrink(model, ka.Removal({"one": [0, 1]}, {"one": constant}))
    same = all(
        np.array_equal(one, other)
        for one, other in zip(norm.get_weights(), before, strict=True)
    )
    assert same == (not trainable)
    assert any("dropped" in note for note in report.notes) == (not trainable)


DATA = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
HALF = ka.schedules.OneShot(0.5, at=0.5)
AT_HALF = ka.schedules.Fixed(0.5, start=0.5)
METHODS = {
    "apoptosis": lambda **options: ka.callbacks.NeuronApoptosis(
        tolerance=0.9, data=DATA, schedule=AT_HALF, **options
    ),
    "saliency": lambda **options: ka.callbacks.SaliencyPruning(
        data=(DATA, DATA[:, :2]), schedule=HALF, **options
    ),
    "target": lambda **options: ka.callbacks.SaliencyPruning(
        "l1_norm",
        data=DATA,
        schedule=AT_HALF,
        target=ka.targets.Units(at_most=0.5),
        **options,
    ),
    "demon": lambda **options: ka.callbacks.DemonPruning(
        data=DATA, schedule=AT_HALF, threshold=1e3, min_gain=0, **options
    ),
}


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_methods_prune_them_where_that_is_wanted(name, wanted):
    model = transfer()
    model.compile("sgd", "mse")
    base = model.layers[0]
    before = base.get_weights()
    callback = METHODS[name](prune_non_trainable=wanted)
    model.fit(DATA, DATA[:, :2], epochs=4, verbose=0, callbacks=[callback])
    assert callback.get_config()["prune_non_trainable"] is wanted
    assert wanted or model.get_layer("head").units < 5
    assert (base.get_layer("b1").units < 8) == wanted
    if not wanted:
        for one, other in zip(base.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wanted", [False, True])
def test_one_call_prunes_them_where_that_is_wanted(wanted):
    model = transfer()
    ka.prune(
        model,
        ka.targets.Parameters(at_most=0.9),
        DATA,
        exclude=["head"] if wanted else None,
        prune_non_trainable=wanted,
    )
    whole = 6 * 8 + 8 + 8 * 7 + 7
    assert (model.layers[0].count_params() < whole) == wanted
    assert not ka.unit_groups(model)[0].removable  # The default is back.

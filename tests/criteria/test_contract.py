"""What every registered criterion promises; a new one joins by itself."""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis import criteria
from keras_apoptosis.criteria.registry import Criterion

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = RNG.integers(0, 3, size=24)
UNITS = criteria.names("units")
EVERY = [
    *(("units", name) for name in UNITS),
    *(("weights", name) for name in criteria.names("weights")),
]


def network():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="one"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("softplus"),
            layers.Dense(3, activation="tanh", name="two"),
            layers.BatchNormalization(name="norm2"),
            layers.Dense(3, name="out"),
        ]
    )
    for weight in model.trainable_variables:
        weight.assign(RNG.uniform(0.3, 1.5, size=weight.shape))
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def arrays(scores):
    return [*scores.values()] if isinstance(scores, dict) else scores


@pytest.mark.parametrize(("granularity", "name"), EVERY)
def test_scores_every_entry_and_changes_nothing(granularity, name):
    model = network()
    before = model.get_weights()
    scores = criteria.get(name, granularity).score(model, (X, Y))
    if granularity == "units":
        sizes = {"one": 5, "two": 3}
        assert {key: each.size for key, each in scores.items()} == sizes
    for each in arrays(scores):
        assert each.dtype == "float64"
        assert np.isfinite(each).all()
    assert any(np.ptp(each) > 0 for each in arrays(scores))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("granularity", "name"), EVERY)
def test_data_is_needed_or_not(granularity, name):
    model = network()
    criterion = criteria.get(name, granularity)
    if criterion.needs_data:
        with pytest.raises(ValueError, match=r"Received: data=None"):
            criterion.score(model)
        return
    for one, other in zip(
        arrays(criterion.score(model)),
        arrays(criterion.score(model, (X, Y))),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("granularity", "name"), EVERY)
def test_labels_are_needed_or_not(granularity, name):
    criterion = criteria.get(name, granularity)
    if criterion.needs_labels:
        with pytest.raises(ValueError, match="Expected `data` with labels"):
            criterion.score(network(), X)
    else:
        criterion.score(network(), X)


@pytest.mark.parametrize("name", [name for name in UNITS if name != "random"])
def test_a_unit_without_any_effect_scores_lowest(name):
    model = network()
    for path, unit in (("one", 3), ("two", 1)):
        layer = model.get_layer(path)
        kernel, bias = layer.get_weights()
        kernel[:, unit] = bias[unit] = 0
        layer.set_weights([kernel, bias])
        norm = model.get_layer("norm" if path == "one" else "norm2")
        values = [each.copy() for each in norm.get_weights()]
        values[0][unit] = 0
        norm.set_weights(values)
    kernel, bias = model.get_layer("out").get_weights()
    kernel[1] = 0
    model.get_layer("out").set_weights([kernel, bias])
    kernel, bias = model.get_layer("two").get_weights()
    kernel[3] = 0
    model.get_layer("two").set_weights([kernel, bias])
    scores = criteria.get(name, "units").score(model, (X, Y))
    assert scores["one"].argmin() == 3
    assert scores["two"].argmin() == 1
    assert scores["one"][3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", [name for name in UNITS if name != "random"])
def test_scores_follow_their_units(name):
    """Units in another order have the same scores in that order."""
    order = [3, 0, 4, 1, 2]
    model, other = network(), network()
    for weight, twin in zip(model.weights, other.weights, strict=True):
        twin.assign(weight)
    for path in ("one", "norm"):
        values = other.get_layer(path).get_weights()
        other.get_layer(path).set_weights([each[..., order] for each in values])
    kernel, bias = other.get_layer("two").get_weights()
    other.get_layer("two").set_weights([kernel[order], bias])
    criterion = criteria.get(name, "units")
    one = criterion.score(model, (X, Y))["one"]
    two = criterion.score(other, (X, Y))["one"]
    np.testing.assert_allclose(two, one[order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("granularity", "name"), EVERY)
def test_copies_and_serializes(granularity, name):
    criterion = criteria.get(name, granularity)
    assert criterion.name == name
    assert criteria.get(criterion, granularity) is criterion
    assert criteria.get(criterion.source, granularity) is criterion
    config = keras.saving.serialize_keras_object(criterion)
    assert keras.saving.deserialize_keras_object(config) is criterion
    for twin in (
        copy.deepcopy(criterion),
        pickle.loads(pickle.dumps(criterion)),
    ):
        assert twin.get_config() == criterion.get_config()


def test_arguments_are_serialized():
    function = functools.partial(criteria.taylor2, hessian_weight=0.5)
    criterion = criteria.get(function, "weights")
    assert criterion.needs_labels
    config = keras.saving.serialize_keras_object(criterion)
    twin = keras.saving.deserialize_keras_object(config)
    assert twin.name == "taylor2"
    model = network()
    for one, other, whole in zip(
        twin.score(model, (X, Y)),
        criteria.taylor2(model, (X, Y), hessian_weight=0.5),
        criteria.taylor2(model, (X, Y)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert (one != whole).any()
    absolute = functools.partial(criteria.taylor, absolute=True)
    found = criteria.get(absolute, "weights")
    assert found is criteria.get("absolute_taylor", "weights")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"return a dictionary.*Received: None \(of type NoneType\)"),
        ([np.ones(5)], "return a dictionary"),
        ({"three": np.ones(5)}, "score unit groups of the model: one, two"),
        ({"one": np.ones(4)}, r"the 5 units of group 'one'. .*shape \(4,\)"),
        ({"one": np.ones((5, 1))}, r"the 5 units .*shape \(5, 1\)"),
        ({"one": 1.0}, r"the 5 units of group 'one'. Received: shape \(\)"),
        ({"one": None}, "group 'one' by an array of real numbers"),
        ({"one": np.ones(5) * 1j}, "group 'one' by an array of real numbers"),
        ({"one": ["a"] * 5}, "group 'one' by an array of real numbers"),
        ({"one": [1, 2, 3, [4], 5]}, "by an array of real numbers"),
        ({"one": [np.nan, 1, 2, 3, np.nan]}, "NaN for 2 of 5 entries"),
    ],
)
def test_wrong_scores_of_units_are_errors(returned, message):
    criterion = criteria.get(lambda model, data=None: returned, "units")
    with pytest.raises(ValueError, match=message):
        criterion.score(network())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: None, "return a list .* Received: None"),
        (lambda found: {"one": found[0]}, "return a list .* Received: {"),
        (lambda found: found[:-1], "Received: 9 arrays"),
        (lambda found: [found[0].T, *found[1:]], r"Received: shape \(5, 4\)"),
        (lambda found: [found[0] * np.nan, *found[1:]], "NaN for 20 of 20"),
        (lambda found: [None, *found[1:]], "by an array of real numbers"),
    ],
)
def test_wrong_scores_of_weights_are_errors(change, message):
    criterion = criteria.get(
        lambda model, data=None: change(criteria.magnitude(model)), "weights"
    )
    with pytest.raises(ValueError, match=message):
        criterion.score(network())


def test_scores_may_be_tensors_and_infinite():
    def mine(model, data):
        infinite = [np.inf, -np.inf, 0, 1, 2]
        return {"one": keras.ops.convert_to_tensor(infinite, "float32")}

    scores = criteria.get(mine, "units").score(network(), X)
    assert scores["one"].tolist() == [np.inf, -np.inf, 0, 1, 2]


def test_scores_of_groups_that_are_not_prunable_are_left_out():
    def mine(model, data=None):
        return {"two": np.ones(3), "out": np.ones(3)}

    assert list(criteria.get(mine, "units").score(network())) == ["two"]


@pytest.mark.parametrize(
    ("identifier", "granularity", "message"),
    [
        ("magnitude", "units", "Expected a criterion of units: a function"),
        ("l1_norm", "weights", "or one of magnitude, taylor"),
        ("l2_norm", "units", "Received: criterion='l2_norm'"),
        (None, "units", "Received: criterion=None"),
        (3, "units", "Received: criterion=3"),
        (criteria.get("l1_norm", "units"), "weights", "of weights"),
        ("l1_norm", "neurons", "`granularity` to be 'units' or 'weights'"),
    ],
)
def test_unknown_criteria_are_errors(identifier, granularity, message):
    with pytest.raises(ValueError, match=message):
        criteria.get(identifier, granularity)


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="Expected a new name"):
        criteria.register("l1_norm")(lambda model, data=None: {})
    # The same name for weights is another criterion, and a registration may
    # be repeated.
    assert criteria.register("l1_norm")(criteria.l1_norm) is criteria.l1_norm
    with pytest.raises(ValueError, match="Expected `name` to be a name"):
        criteria.register("")
    with pytest.raises(ValueError, match="to register as criterion 'x'"):
        criteria.register("x")(3)


def test_what_is_not_registered_cannot_be_serialized():
    criterion = criteria.get(lambda model, data=None: {}, "units")
    with pytest.raises(ValueError, match="Expected a registered criterion"):
        criterion.get_config()
    assert ka.criteria.get(criterion, "units") is criterion


def test_random_scores_both():
    for granularity in ("units", "weights"):
        assert "random" in criteria.names(granularity)


def test_what_is_said_of_data_holds():
    """A function of the model and data is given some, unless it says not."""

    def both(model, data):
        return {}

    assert criteria.get(both, "units").needs_data
    blind = Criterion(both, "units", needs_data=False)
    assert not blind.needs_data
    assert Criterion(both, "units", needs_data=True).needs_data


def test_without_data_the_criterion_is_named():
    with pytest.raises(ValueError, match="'mean_replacement_saliency' judges"):
        ka.criteria.mean_replacement_saliency(network(), None)

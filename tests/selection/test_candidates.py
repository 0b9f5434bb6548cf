"""What every criterion promises of its candidates, on every kind of model."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.selection.similarity import (
    IncomingSimilarity,
    OutgoingSimilarity,
)
from tests.architectures import CATALOGUE, randomize, sample
from tests.masking import masked_outputs, outputs_of


def reconstruction(model, **limits):
    return Reconstruction(sample(model, 200), **limits)


# A criterion joins with one row: how it is made for a model, and a degree.
CRITERIA = {
    "incoming": (lambda model, **limits: IncomingSimilarity(**limits), 1.1),
    "outgoing": (lambda model, **limits: OutgoingSimilarity(**limits), 1.1),
    "reconstruction": (reconstruction, 0.4),
}
MODELS = ("mlp", "cnn", "residual", "branches", "nested", "shared")


def candidates(criterion, model, degree):
    analysis = analyse(model)
    numbers = [n for n, g in enumerate(analysis.groups) if g.removable]
    measured = criterion.measure(analysis, numbers)
    return {
        analysis.groups[n].name: criterion.choose(analysis, n, degree, measured)
        for n in numbers
    }


def removal_of(found):
    found = {name: each for name, each in found.items() if each.removed.size}
    return ka.Removal(
        {name: each.removed for name, each in found.items()},
        {name: each.replacements for name, each in found.items()},
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", CRITERIA)
def test_candidates_can_be_carried_out(kind, name):
    model = randomize(CATALOGUE[name](), seed=0)
    make, degree = CRITERIA[kind]
    found = candidates(make(model), model, degree)
    for candidate in found.values():
        assert (np.diff(candidate.removed) > 0).all()
        assert candidate.removed.size or candidate.reason
    removal = removal_of(found)
    if kind == "reconstruction":
        assert len(removal)
    if not len(removal):
        return
    inputs = sample(model)
    masked = masked_outputs(model, removal, inputs)
    report = ka.shrink(model, removal)
    if kind != "outgoing" and not report.notes:
        for one, other in zip(outputs_of(model, inputs), masked, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", CRITERIA)
def test_limits_hold(kind):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(32, activation="sigmoid", name="one"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    make, _ = CRITERIA[kind]
    degree = 0.9 if kind == "reconstruction" else 1.01
    free = candidates(make(model), model, degree)["one"].removed.size
    found = candidates(make(model, min_units=9, round_to=4), model, degree)
    kept = 32 - found["one"].removed.size
    assert free > 0
    assert kept >= 12
    assert kept % 4 == 0
    ka.shrink(model, removal_of(found))
    assert model.get_layer("one").units == kept


@pytest.mark.parametrize("kind", CRITERIA)
def test_a_stricter_degree_removes_no_more(kind):
    model = randomize(CATALOGUE["mlp"](), seed=0)
    make, _ = CRITERIA[kind]
    strict, loose = (0.01, 0.5) if kind == "reconstruction" else (50.0, 1.01)
    sizes = [
        sum(
            each.removed.size
            for each in candidates(make(model), model, degree).values()
        )
        for degree in (strict, loose)
    ]
    assert sizes[0] <= sizes[1]


def test_reconstruction_explains_what_it_promises():
    """Unexplained on the sample, after the consumer: at most the tolerance."""
    model = randomize(CATALOGUE["mlp"](), seed=0)
    x = sample(model, 500)
    kernel = model.get_layer("logits").get_weights()[0]
    hidden = keras.Model(model.inputs, model.get_layer("two").output)
    before = hidden.predict(x, verbose=0) @ kernel
    criterion = Reconstruction(x)
    found = candidates(criterion, model, 0.3)["two"]
    assert found.removed.size
    ka.shrink(
        model, ka.Removal({"two": found.removed}, {"two": found.replacements})
    )
    kernel, _ = model.get_layer("logits").get_weights()
    hidden = keras.Model(model.inputs, model.get_layer("two").output)
    after = hidden.predict(x, verbose=0) @ kernel
    error = (after - after.mean(0)) - (before - before.mean(0))
    share = np.sqrt((error**2).sum() / ((before - before.mean(0)) ** 2).sum())
    assert 0 < share <= 0.3 * 1.02


def standard(size):
    """A sample of zero mean whose covariance is exactly the identity."""
    return np.concatenate([np.eye(size), -np.eye(size)]) * size**0.5


@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_weights_rule_predicts_its_error(activation, normalized):
    """Estimates it for independent inputs of unit variance, or measures it."""
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation=activation, name="one"),
            *([keras.layers.BatchNormalization()] if normalized else []),
            keras.layers.Dense(2, name="out"),
        ]
    )
    kernel = rng.normal(size=(5, 3))
    kernel = np.concatenate([kernel, kernel * (1.0, 1.1, 0.9)], 1)
    kernel += 0.05 * rng.normal(size=kernel.shape)
    model.get_layer("one").set_weights([kernel, 0.2 * rng.normal(size=6)])
    if normalized:
        model.layers[1].gamma.assign(rng.uniform(-3, 3, size=6))
    analysis = analyse(model)
    units = keras.Model(model.inputs, model.layers[-2].output)

    def predicted_and_real(rule, x):
        found = rule.choose(analysis, 0, 1.75)
        assert found.removed.size
        (given,) = found.replacements.values()
        values = units.predict(x, verbose=0).astype("float64")
        kept = np.setdiff1d(np.arange(6), found.removed)
        error = values[:, found.removed] - (
            given.constant + values[:, kept] @ np.transpose(given.mixing)
        )
        return given.residual, np.sqrt((error**2).mean(0))

    predicted, real = predicted_and_real(IncomingSimilarity(), standard(5))
    if activation == "linear":
        np.testing.assert_allclose(predicted, real, rtol=1e-4)
    else:
        assert (real <= predicted * (1 + 1e-5)).all()
        assert (predicted < 20 * real).all()
    x = rng.normal(1, 3, size=(64, 5)).astype("float32")
    predicted, real = predicted_and_real(IncomingSimilarity(data=x), x)
    np.testing.assert_allclose(predicted, real, rtol=1e-3)


def test_the_rule_of_outgoing_weights_estimates_its_error():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(2, activation="sigmoid", name="one"),
            keras.layers.Dense(3, use_bias=False, name="out"),
        ]
    )
    kernel, bias = 0.05 * rng.normal(size=(5, 2)), np.array([0.03, -0.01])
    model.get_layer("one").set_weights([kernel, bias])
    out = rng.normal(size=3)
    model.get_layer("out").set_weights([np.stack([out, 0.5 * out])])

    def predicted_and_real(rule, x):
        found = rule.choose(analyse(model), 0, 1.75)
        (given,) = found.replacements.values()
        assert found.removed.tolist() == [1]
        sigmoid = 1 / (1 + np.exp(-(x @ kernel + bias)))
        merged = 1 / (1 + np.exp(-(x @ kernel + bias) @ [2 / 3, 1 / 3]))
        return given.residual, np.sqrt(((sigmoid[:, 1] - merged) ** 2).mean())

    predicted, real = predicted_and_real(OutgoingSimilarity(), standard(5))
    # The merged unit has (v₁ + v₂ / 2) / 1.5, so 2/3 (v₁ − v₂) is missed; the
    # sigmoid is nearly linear, of slope 1/4.
    missed = np.append(kernel[:, 0] - kernel[:, 1], bias[0] - bias[1]) / 1.5
    np.testing.assert_allclose(predicted, np.linalg.norm(missed) / 4, rtol=1e-3)
    np.testing.assert_allclose(predicted, real, rtol=1e-2)
    x = rng.normal(1, 3, size=(64, 5)).astype("float32")
    predicted, real = predicted_and_real(OutgoingSimilarity(data=x), x)
    assert real <= predicted < 1.05 * real


def test_outgoing_weights_that_differ_leave_all_units():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, activation="sigmoid", name="one"),
            keras.layers.Dense(2, name="two"),
        ]
    )
    model.layers[1].kernel.assign(np.eye(2))
    candidate = OutgoingSimilarity().choose(analyse(model), 0, 1.5, None)
    assert candidate.removed.size == 0
    assert "outgoing" in candidate.reason

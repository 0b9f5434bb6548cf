"""Noise in the compiled step: whom it reaches, and how much."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from keras_apoptosis.backend import step_hooks
from keras_apoptosis.graph.saturation import silent_groups
from keras_apoptosis.schedules import Constant, OneCycle
from keras_apoptosis.training.noise import UnitNoise

WIDTH, STEPS = 200, 16
X = np.zeros((STEPS, 100), "float32")


def make_model(layer=layers.Dense, normalized=True):
    """With a rate of 0: nothing moves the weights but noise."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((100,)), layer(WIDTH, name="one")])
    if normalized:
        model.add(layers.BatchNormalization(name="norm"))
    model.add(layers.ReLU())
    model.add(layers.Dense(3, name="out"))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def noisy(model, variance=None, dead=(), **options):
    hook = UnitNoise(
        model,
        variance or Constant(0.01),
        lambda analysis: list(silent_groups(analysis)),
        # Without any loss, no unit has a gradient.
        **{"symmetric": True, **options},
    )
    alive = np.ones(WIDTH, bool)
    alive[list(dead)] = False
    hook.set_alive({"one": alive})
    step_hooks.attach(model, hook)
    hook.tell_time(0.0, 1 / STEPS)
    return hook


def fit(model, steps=STEPS):
    model.fit(
        X[:steps], np.zeros((steps, 3)), batch_size=1, shuffle=False, verbose=0
    )


def values(model):
    return {
        "/".join(w.path.split("/")[-2:]): ops.convert_to_numpy(w)
        for w in model.trainable_variables
    }


def moved(model, steps=STEPS):
    before = values(model)
    fit(model, steps)
    return {path: value - before[path] for path, value in values(model).items()}


DEAD = range(WIDTH // 2)


@pytest.mark.parametrize("every", [1, 4])
def test_the_living_half_gets_the_scheduled_variance_the_dead_half_none(every):
    """Sums of the one cycle over its steps; 100 weights of 100 live units."""
    cycle = OneCycle(0.01, warmup=0.25)
    model = make_model()
    noisy(model, cycle, dead=DEAD, every=every)
    found = moved(model)
    times = np.arange(every - 1, STEPS, every) / STEPS
    theory = every * sum(cycle(t) for t in times)
    kernel = found["one/kernel"]
    assert not kernel[:, :100].any()
    # The deviation of an estimate from 10,000 numbers is 1.4 %.
    assert kernel[:, 100:].var() == pytest.approx(theory, rel=0.06)
    assert abs(kernel[:, 100:].mean()) < 4 * np.sqrt(theory) / 100
    neighbors = kernel[:, 100:-1].ravel(), kernel[:, 101:].ravel()
    assert abs(np.corrcoef(*neighbors)[0, 1]) < 0.04
    for path in ("one/bias", "norm/gamma", "norm/beta"):
        assert not found[path][:100].any()
        # From 100 numbers it is 14 %.
        assert found[path][100:].var() == pytest.approx(theory, rel=0.6)
    assert not found["out/kernel"].any()
    assert not found["out/bias"].any()


def test_numbers_are_gaussian_and_differ_from_weight_to_weight_and_step():
    model = make_model()
    noisy(model, Constant(1.0))
    first = moved(model, 1)["one/kernel"]
    second = moved(model, 1)["one/kernel"]
    flat = first.ravel()
    assert np.mean(np.abs(flat) < 1) == pytest.approx(0.683, abs=0.01)
    assert np.mean(flat**4) == pytest.approx(3, abs=0.25)
    for one, other in (
        (flat, second.ravel()),
        (first[:-1].ravel(), first[1:].ravel()),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_every_step_has_its_own_noise_where_gradients_accumulate():
    model = make_model()
    optimizer = keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    noisy(model, Constant(0.01))
    # The same numbers four times over would have four times the variance.
    found = moved(model)["one/kernel"]
    assert found.var() == pytest.approx(0.01 * STEPS, rel=0.06)


def test_parameters_do_not_share_numbers_one_step_later():
    """PyTorch takes the sum of a seed's parts: 1 and 5 were 2 and 4."""
    model = make_model()
    noisy(model)
    steps = [moved(model, 1) for _ in range(3)]
    rows = [step[path] for step in steps for path in ("one/bias", "norm/beta")]
    between = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(between).max() < 0.35


def test_the_same_seed_and_step_give_the_same_numbers():
    found = []
    for seed in (3, 3, 4):
        model = make_model()
        noisy(model, seed=seed)
        found.append(moved(model, 3)["one/kernel"])
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_masked_weights_stay_exactly_zero():
    model = make_model(ka.layers.PrunableDense)
    mask = np.random.default_rng(0).uniform(size=(100, WIDTH)) < 0.5
    model.get_layer("one").set_mask(mask)
    noisy(model)
    fit(model)
    kernel = ops.convert_to_numpy(model.get_layer("one")._kernel)
    assert not kernel[~mask].any()
    assert (moved(model)["one/kernel"][mask] != 0).all()


def test_units_that_die_between_steps_get_no_more():
    model = make_model()
    hook = noisy(model)
    fit(model, 2)
    hook.set_alive({"one": np.arange(WIDTH) >= 50})
    backend.sync_from_jax(model)
    hook.change(factor=1.0)
    hook.renew_alive()
    backend.sync_to_jax(model)
    found = moved(model, 2)["one/kernel"]
    assert not found[:, :50].any()
    assert found[:, 50:].all()


def test_it_goes_on_when_units_leave():
    model = make_model()
    noisy(model, dead=[0, 5])
    fit(model, 1)
    hook = step_hooks.hooks_of(model.optimizer)[0]
    hook.set_alive({"one": np.arange(WIDTH - 1) != 4})  # What was unit 5.
    ka.shrink(model, ka.Removal({"one": [0]}))
    found = moved(model, 1)["one/kernel"]
    assert found.shape == (100, WIDTH - 1)
    assert not found[:, 4].any()
    assert np.delete(found, 4, 1).all()


def test_channels_of_convolutions_and_tied_producers():
    """Both convolutions of a stream get noise in living channels alone."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(8, 3, padding="same", name="branch")(layers.ReLU()(x))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    hook = UnitNoise(
        model,
        Constant(0.01),
        lambda analysis: list(silent_groups(analysis)),
        symmetric=True,
    )
    hook.set_alive({"stem": np.arange(8) % 2 == 0})
    step_hooks.attach(model, hook)
    before = values(model)
    data = np.zeros((2, 6, 6, 2), "float32")
    model.fit(data, np.zeros((2, 3)), batch_size=1, verbose=0)
    for path, value in values(model).items():
        change = value - before[path]
        if path.startswith(("stem", "branch")):
            assert change[..., ::2].all()
            assert not change[..., 1::2].any()
        else:
            assert not change.any()

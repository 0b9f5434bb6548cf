"""Targets in `fit`: every method ends there, by steps of the same factor."""

import warnings

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from tests.cases import RUN_EAGERLY, combinations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(128, 10)).astype("float32")
Y = (X @ RNG.normal(size=(10, 3))).argmax(1)
QUARTERS = ka.schedules.Fixed(0.25, start=0.25)

METHODS = {
    "apoptosis": lambda target, **options: ka.callbacks.NeuronApoptosis(
        target=target, schedule=QUARTERS, data=X, **options
    ),
    "mean replacement": lambda target, **options: ka.callbacks.SaliencyPruning(
        target=target, schedule=QUARTERS, data=(X, Y), **options
    ),
    "norms": lambda target, **options: ka.callbacks.SaliencyPruning(
        "l1_norm",
        target=target,
        schedule=QUARTERS,
        replacement="zero",
        **options,
    ),
    "demon": lambda target, **options: ka.callbacks.DemonPruning(
        0.1,
        target=target,
        schedule=ka.schedules.Fixed(0.0625, start=0.0625),
        data=X,
        **options,
    ),
}
TARGETS = {
    "parameters": ka.targets.Parameters(at_most=0.4),
    "flops": ka.targets.Flops(at_most=0.4),
    "units": ka.targets.Units(at_most=40),
    "both": (
        ka.targets.Flops(at_most=0.5),
        ka.targets.Bytes(at_most=0.4, of="training"),
    ),
}


def network():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(48, activation="relu", name="one"),
            keras.layers.Dense(32, activation="relu", name="two"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=RUN_EAGERLY,
    )
    return model


def train(callback, epochs=8, **options):
    keras.utils.set_random_seed(0)
    model = network()
    if callback is not None:
        options["callbacks"] = [callback]
    model.fit(X, Y, batch_size=32, epochs=epochs, verbose=0, **options)
    return model


@pytest.mark.parametrize(("method", "target"), combinations(METHODS, TARGETS))
def test_training_ends_at_the_target(method, target):
    targets = ka.targets.as_targets(TARGETS[target])
    plain = network()
    # Slots are built with the first step.
    plain.optimizer.build(plain.trainable_variables)
    wholes = [each.measure(plain) for each in targets]
    model = train(METHODS[method](TARGETS[target]))
    used = []
    for each, whole in zip(targets, wholes, strict=True):
        part = each.measure(model) / each.limit(whole)
        assert part <= 1
        used.append(part)
    assert max(used) > 0.96  # A unit is 3 % of it.


def test_steps_are_of_the_same_factor():
    callback = METHODS["norms"](ka.targets.Units(at_most=5), min_units=1)
    train(callback)
    left = [sum(n for _, n in e.units.values()) for e in callback.history]
    # 80 units times (5 / 80)^(n / 3).
    assert left == [31, 12, 5]
    assert [event.amount for event in callback.history] == [1 / 3, 2 / 3, 1]


def test_a_schedule_says_itself_what_is_allowed():
    line = ka.schedules.LinearDegree(60, 20)
    callback = METHODS["norms"](ka.targets.Units(at_most=line))
    train(callback)
    left = [sum(n for _, n in e.units.values()) for e in callback.history]
    assert left == [46, 33, 20]


@pytest.mark.parametrize("method", METHODS)
def test_out_of_reach_is_an_error_before_the_first_step(method):
    model = network()
    callback = METHODS[method](ka.targets.Parameters(at_most=20))
    callback.min_units = 2  # 2 x 11 + 2 x 3 + 3 x 3 parameters.
    with pytest.raises(ValueError, match=r"at most 20 is wanted.*it is 37"):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("method", METHODS)
def test_widths_are_multiples(method):
    target = ka.targets.Parameters(at_most=0.5)
    model = train(METHODS[method](target, round_to=8), epochs=4)
    one, two = (layer.units for layer in model.layers[:2])
    assert (one % 8, two % 8) == (0, 0)
    limit = target.limit(network().count_params())
    assert model.count_params() <= limit
    # Eight more units in either layer would be too many.
    for a, b in ((one + 8, two), (one, two + 8)):
        assert 11 * a + (a + 1) * b + 3 * (b + 1) > limit


def test_sparsities_round_up_to_multiples():
    callback = ka.callbacks.SaliencyPruning(
        schedule=ka.schedules.AtEpochs({1: 0.4}), data=(X, Y), round_to=8
    )
    model = train(callback, epochs=1)
    # Of 48 units 29 would stay, and 20 of 32.
    assert [layer.units for layer in model.layers[:2]] == [32, 24]


class Never(ka.Limit):
    """Allows nothing, even if it makes the model better."""

    def allows(self, *values):
        return False


@pytest.mark.parametrize("method", ["norms", "demon"])
def test_a_target_within_a_limit(method):
    """Nothing is allowed, so that nothing is pruned, and that is told."""
    limit = Never("loss", 0.0, data=(X, Y), attempts=1)
    callback = METHODS[method](TARGETS["parameters"], limit=limit)
    with pytest.warns(UserWarning, match="has not reached its target"):
        model = train(callback, epochs=1)
    assert any(event.skipped for event in callback.history)
    assert model.count_params() > 0.4 * 2195


def test_shares_are_of_the_whole_over_several_calls_of_fit():
    whole = network().count_params()
    callback = METHODS["apoptosis"](TARGETS["parameters"], total_epochs=8)
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for begin, end in ((0, 4), (4, 8)):
            model.fit(
                X,
                Y,
                batch_size=32,
                initial_epoch=begin,
                epochs=end,
                verbose=0,
                callbacks=[callback],
            )
    assert 0.38 * whole < model.count_params() <= 0.4 * whole
    again = METHODS["apoptosis"](TARGETS["parameters"])
    again.set_state(callback.get_state())
    assert again._whole_costs == [whole]


def test_it_serializes():
    callback = METHODS["apoptosis"](TARGETS["both"])
    config = callback.get_config()
    again = ka.callbacks.NeuronApoptosis.from_config(config, data=X)
    assert again.get_config() == config
    assert tuple(again.target) == TARGETS["both"]


def sequences():
    """Takes sequences of any length."""
    model = keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Reshape((-1, 1)),
            keras.layers.Conv1D(48, 3, activation="relu", name="one"),
            keras.layers.Conv1D(32, 3, activation="relu", name="two"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=RUN_EAGERLY,
    )
    return model


@pytest.mark.parametrize(
    ("method", "shape"), combinations(METHODS, [None, (10,)])
)
def test_flops_of_any_length(method, shape):
    target = ka.targets.Flops(at_most=0.5, input_shape=shape)
    keras.utils.set_random_seed(0)
    model = sequences()
    whole = target.measure(model)
    model.fit(
        X,
        Y,
        batch_size=32,
        epochs=8,
        verbose=0,
        callbacks=[METHODS[method](target)],
    )
    assert 0.46 < target.measure(model) / whole <= 0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_number_of_flops_at_no_length_is_an_error_before_the_first_step(
    method,
):
    model = sequences()
    before = model.get_weights()
    callback = METHODS[method](ka.targets.Flops(at_most=5000))
    with pytest.raises(ValueError, match=r"Expected `input_shape`.*Received"):
        model.fit(X, Y, verbose=0, callbacks=[callback])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

"""Saliency pruning in `fit`: what goes, when, and what stays zero."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis import criteria
from keras_apoptosis.callbacks import SaliencyPruning
from tests.cases import RUN_EAGERLY

schedules = ka.schedules
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.integers(0, 3, size=64)
TWICE = schedules.AtEpochs({1: 0.25, 2: 0.5})


def network(prunable=False, normalized=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="one"),
            *([layers.BatchNormalization()] if normalized else []),
            layers.Dense(5, activation="tanh", name="two"),
            layers.Dense(3, name="out"),
        ]
    )
    if prunable:
        model = ka.make_prunable(model)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=RUN_EAGERLY,
    )
    return model


def fit(model, *callbacks, epochs=3):
    return model.fit(
        X, Y, epochs=epochs, batch_size=16, verbose=0, callbacks=[*callbacks]
    ).history


def kernels(model):
    return [
        ops.convert_to_numpy(layer.trainable_weights[0])
        for layer in model.layers
    ]


@pytest.mark.parametrize("criterion", criteria.names("units"))
def test_units_leave_by_every_criterion(criterion):
    scales = criterion == "normalization_scale"
    model = network(normalized=scales)
    pruning = SaliencyPruning(criterion, schedule=TWICE, data=(X, Y))
    history = fit(model, pruning)
    # Shares of what there was at first, rounded down: 8 → 6 → 4, 5 → 4 → 3.
    assert history["units/one"] == [6, 4, 4]
    # Units that pass no normalization have no such score.
    assert history["units/two"] == ([5, 5, 5] if scales else [4, 3, 3])
    assert [event.amount for event in pruning.history] == [0.25, 0.5]
    assert np.isfinite(model.evaluate(X, Y, verbose=0))


@pytest.mark.parametrize(
    ("criterion", "scope"),
    [
        *((name, "local") for name in criteria.names("weights")),
        ("magnitude", "global"),
    ],
)
def test_weights_go_by_every_criterion(criterion, scope):
    model = network(prunable=True)
    pruning = SaliencyPruning(
        criterion,
        granularity="weights",
        schedule=TWICE,
        data=(X[:16], Y[:16]),
        scope=scope,
    )
    history = fit(model, pruning)
    sizes = [kernel.size for kernel in kernels(model)]  # 48, 40, 15.
    if scope == "local":
        expected = [12 + 10 + 3, 24 + 20 + 7]
    else:
        expected = [sum(sizes) // 4, sum(sizes) // 2]
    assert history["masked_weights"] == [*expected, expected[-1]]
    assert history["parameters"] == [119] * 3  # Masks are none.
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels(model))
    assert zeros == expected[-1]


def test_a_criterion_may_score_nothing():
    model = network()
    pruning = SaliencyPruning(
        "normalization_scale", schedule=TWICE, data=(X, Y)
    )
    fit(model, pruning)
    reason = "the criterion scores none of the groups"
    assert [event.skipped for event in pruning.history] == [reason] * 2


def test_the_lowest_scores_go():
    model = network()
    scores = {"one": np.arange(8.0)[::-1], "two": np.array([3.0, 9, 1, 2, 8])}
    before = model.get_layer("one").get_weights()[1]
    pruning = SaliencyPruning(
        lambda model, data: scores,
        schedule=schedules.AtEpochs({1: 0.5}),
        replacement="zero",
        data=X,
    )
    model.optimizer.learning_rate = 0.0
    fit(model, pruning, epochs=1)
    kept = model.get_layer("one").get_weights()[1]
    np.testing.assert_array_equal(kept, before[:4])
    assert model.get_layer("two").units == 3


def test_a_global_budget_takes_them_where_they_are_lowest():
    model = network()
    scores = {"one": np.ones(8), "two": np.full(5, 9.0)}
    pruning = SaliencyPruning(
        lambda model, data: {
            name: each[: model.get_layer(name).units]
            for name, each in scores.items()
        },
        schedule=schedules.AtEpochs({1: 0.3, 2: 0.6}),
        scope="global",
        data=X,
        min_units=2,
    )
    history = fit(model, pruning)
    # 3 of 13, then 7 of 13; two of 'one' stay in any case.
    assert history["units/one"] == [5, 2, 2]
    assert history["units/two"] == [5, 4, 4]


def test_removal_by_means_is_exact_for_constant_units():
    model = network()
    one = model.get_layer("one")
    kernel = np.array(one.get_weights()[0])
    kernel[:, :4] = 0
    one.kernel.assign(kernel)
    one.bias.assign(np.arange(8.0) / 8)
    model.optimizer.learning_rate = 0.0
    before = model.predict(X, verbose=0)
    pruning = SaliencyPruning(
        schedule=schedules.AtEpochs({1: 0.5}), data=(X, Y), layers=["one"]
    )
    fit(model, pruning, epochs=1)
    assert one.units == 4
    np.testing.assert_allclose(model.predict(X, verbose=0), before, atol=1e-5)


def test_a_constant_before_the_activation_goes_into_the_bias():
    model = network()
    model.optimizer.learning_rate = 0.0
    two, out = model.get_layer("two"), model.get_layer("out")
    before = keras.Model(model.inputs, model.get_layer("one").output)
    values = before.predict(X, verbose=0) @ two.get_weights()[0]
    kernel, bias = out.get_weights()
    pruning = SaliencyPruning(
        lambda model, data: {"two": np.array([3.0, 2, 0, 4, 5])},
        schedule=schedules.OneShot(0.2, at=1.0),
        replacement="maximum",
        at="pre",
        data=X,
        layers=["two"],
    )
    fit(model, pruning, epochs=1)
    expected = bias + np.tanh(values[:, 2].max()) * kernel[2]
    np.testing.assert_allclose(out.get_weights()[1], expected, rtol=1e-4)


def test_units_are_judged_by_what_replaces_them():
    model = network()
    how = {"at": "pre", "replacement": "minimum"}
    pruning = SaliencyPruning(schedule=TWICE, data=(X, Y), **how)
    pruning.set_model(model)
    found = pruning.ranking().criterion.score(model, (X, Y))
    expected = ka.criteria.mean_replacement_saliency(model, (X, Y), **how)
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name], scores, rtol=1e-5)


def test_each_round_scores_anew_and_the_event_prunes_once():
    model = network()
    model.optimizer.learning_rate = 0.0
    one = model.get_layer("one")
    before = one.get_weights()
    seen = []

    def scores(model, data):
        seen.append(one.units)
        order = np.arange(float(one.units))
        return {"one": order if one.units == 8 else -order}

    pruning = SaliencyPruning(
        scores,
        schedule=schedules.OneShot(0.75, at=1.0),
        replacement="zero",
        data=X,
        layers=["one"],
        rounds=3,
    )
    history = fit(model, pruning, epochs=1)
    # Of 0.75 half is 3 units, the first; three quarters are 4, and all 6: the
    # last of those that are left.
    assert seen == [8, 5, 4]
    assert history["units/one"] == [2]
    for values, was in zip(one.get_weights(), before, strict=True):
        np.testing.assert_array_equal(values, was[..., [3, 4]])
    (event,) = pruning.history
    assert event.units["one"] == (8, 2)


def test_rounds_of_weights_leave_the_masks_of_all():
    model = network(prunable=True)
    model.optimizer.learning_rate = 0.0
    layer = model.get_layer("out")
    kernel = layer.get_weights()[0]
    seen = []

    def scores(model, data):
        left = int((kernels(model)[2] != 0).sum())
        seen.append(left)
        order = np.arange(15.0).reshape(5, 3)
        return [
            (order if left == 15 else -order)
            if tuple(weight.shape) == (5, 3)
            else np.zeros(weight.shape)
            for weight in model.trainable_variables
        ]

    pruning = SaliencyPruning(
        scores,
        granularity="weights",
        schedule=schedules.OneShot(0.4, at=1.0),
        layers=["out"],
        data=X,
        rounds=2,
    )
    fit(model, pruning, epochs=1)
    assert seen == [15, 12]
    kernel.reshape(-1)[[0, 1, 2, 12, 13, 14]] = 0
    np.testing.assert_array_equal(kernels(model)[2], kernel)


def test_masks_persist_and_training_goes_on():
    model = network(prunable=True)
    pruning = SaliencyPruning(
        "magnitude",
        granularity="weights",
        schedule=schedules.OneShot(0.9, at=0.3),
        exclude=["out"],
    )
    fit(model, pruning)
    masked = [kernel == 0 for kernel in kernels(model)]
    assert [int(each.sum()) for each in masked] == [43, 36, 0]
    fit(model)  # Without the callback.
    for kernel, mask in zip(kernels(model), masked, strict=True):
        np.testing.assert_array_equal(kernel == 0, mask)


def test_a_polynomial_schedule():
    model = network()
    schedule = schedules.Polynomial(0.75, end=1.0, count=3, power=1)
    history = fit(
        model, SaliencyPruning("squared_norm", schedule=schedule, data=X)
    )
    assert history["units/one"] == [6, 4, 2]


def test_events_in_the_middle_of_an_epoch():
    model = network(prunable=True)
    pruning = SaliencyPruning(
        "taylor2",
        granularity="weights",
        data=(X, Y),
        schedule=schedules.OneShot(0.5, at=0.4),
    )
    fit(model, pruning, epochs=1)
    (event,) = pruning.history
    assert (event.step, event.masked) == (2, (0, 51))
    assert "0 → 51 weights masked" in str(event)
    assert sum(int((kernel == 0).sum()) for kernel in kernels(model)) == 51


def test_nothing_is_left_to_do():
    model = network()
    schedule = schedules.AtEpochs({1: 0.5, 2: 0.5})
    pruning = SaliencyPruning("l1_norm", schedule=schedule, data=X)
    fit(model, pruning)
    assert pruning.history[1].skipped == "50% of the units are pruned already"


def test_a_training_in_two_parts_is_one():
    whole, parts = network(), network()
    first = SaliencyPruning("l1_norm", schedule=TWICE, data=X)
    fit(whole, first)
    second = SaliencyPruning("l1_norm", schedule=TWICE, data=X, total_epochs=3)
    fit(parts, second, epochs=1)
    fit(parts, second, epochs=2)
    assert parts.get_layer("one").units == whole.get_layer("one").units == 4


def test_a_generator_is_read_once():
    batches = ((X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16))
    model = network()
    pruning = SaliencyPruning(schedule=TWICE, data=batches, samples=40)
    fit(model, pruning)
    assert model.get_layer("one").units == 4


def test_weights_of_all_layers_compete_where_the_scope_is_global():
    model = network(prunable=True)
    model.layers[0].kernel.assign(np.full((6, 8), 0.1))
    model.layers[1].kernel.assign(np.full((8, 5), 1.0))
    model.optimizer.learning_rate = 0.0
    kernels = {"local": (24, 20), "global": (48, 0)}
    for scope, masked in kernels.items():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        copy.compile("sgd", "mse")
        pruning = SaliencyPruning(
            "magnitude",
            granularity="weights",
            schedule=schedules.OneShot(0.5, at=0.5),
            scope=scope,
            layers=["one", "two"],
        )
        pruning.set_model(copy)
        outcome = pruning.prune(None, sum(masked) / 88 + 0.001)
        found = {
            layer.name: int((~mask).sum()) for layer, mask in outcome.items()
        }
        assert found == {
            name: count
            for name, count in zip(("one", "two"), masked, strict=True)
            if count
        }


def copied(model, data):
    """Scores the second half of the units of each group lowest."""
    return {
        group.name: -np.arange(group.size)
        for group in ka.unit_groups(model)
        if group.removable
    }


def with_copies():
    """A network whose units are there twice, at twice the scale."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="one"),
            layers.Dense(6, activation="relu", name="two"),
            layers.Dense(3, name="out"),
        ]
    )
    for layer in model.layers[:2]:
        kernel, bias = (np.array(each) for each in layer.get_weights())
        half = layer.units // 2
        bias[:half] = RNG.normal(size=half)
        kernel[:, half:], bias[half:] = 2 * kernel[:, :half], 2 * bias[:half]
        layer.set_weights([kernel, bias])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("rounds", [1, 2])
def test_least_squares_lose_nothing_of_what_the_rest_has(rounds):
    """In the second group, too, whose inputs the first removal has changed."""
    model = with_copies()
    expected = model.predict(X, verbose=0)
    pruning = SaliencyPruning(
        copied,
        schedule=schedules.OneShot(0.5, at=1.0),
        data=(X, Y),
        replacement="least_squares",
        rounds=rounds,
    )
    model.optimizer.learning_rate = 0.0
    model.fit(X, np.zeros((64, 3)), verbose=0, callbacks=[pruning])
    assert [layer.units for layer in model.layers] == [4, 3, 3]
    found = model.predict(X, verbose=0)
    # Least squares have a small ridge; means would be off by a third.
    assert abs(found - expected).mean() < 0.01 * expected.std()

"""What is recorded of units, and that recording changes nothing."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.callbacks import UnitMonitor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 6)).astype("float32")
Y = RNG.normal(size=(48, 1)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="relu", name="one"),
            layers.BatchNormalization(),
            layers.Dense(3, activation="tanh", name="two"),
            layers.Dense(1, name="out"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def fit(model, *callbacks, epochs=2):
    model.fit(
        X,
        Y,
        epochs=epochs,
        batch_size=12,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks],
    )


def test_records_are_what_the_criteria_say():
    model = network()
    monitor = UnitMonitor((X, Y), at="post", penalty=True)
    fit(model, monitor)
    assert [record.step for record in monitor.records] == [0, 4, 8]
    last = monitor.records[-1]
    for name, criterion in (
        ("saliency", ka.criteria.mean_replacement_saliency),
        ("penalty", ka.criteria.mean_replacement_penalty),
    ):
        expected = criterion(model, (X, Y), at="post")
        for group in ("one", "two"):
            np.testing.assert_allclose(
                last.measures[name][group], expected[group], rtol=1e-3
            )
    norms = ka.criteria.l1_norm(model)
    outgoing = abs(model.get_layer("out").get_weights()[0]).sum(1)
    np.testing.assert_allclose(last.measures["incoming"]["one"], norms["one"])
    np.testing.assert_allclose(
        last.measures["outgoing"]["two"], outgoing, rtol=1e-6
    )
    assert last.loss == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-4)


def test_gradients_of_weights_are_those_of_gradient_descent():
    """One step with all samples moves weights by the gradient."""
    model = network()
    model.compile("sgd", "mse")
    monitor = UnitMonitor((X, Y))
    before = [np.array(w) for w in model.get_layer("one").get_weights()]
    monitor.set_model(model)
    monitor.set_params({"epochs": 1})
    monitor.on_train_begin()
    model.layers[1].trainable = False  # Training as in inference.
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(X, Y, batch_size=48, epochs=1, verbose=0)
    after = model.get_layer("one").get_weights()
    np.testing.assert_allclose(
        monitor.records[0].measures["weight_gradient"]["one"],
        abs(after[0] - before[0]).sum(0),
        rtol=1e-3,
        atol=1e-5,
    )


def test_it_changes_nothing():
    watched, alone = network(), network()
    fit(watched, UnitMonitor((X, Y), every=3, penalty=True))
    fit(alone)
    for a, b in zip(watched.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_so_many_steps():
    monitor = UnitMonitor((X, Y), every=3, layers=["one"])
    fit(network(), monitor)
    assert [record.step for record in monitor.records] == [0, 3, 6, 8]
    assert monitor.series("saliency", "one").shape == (4, 4)


def test_histograms_count_every_sample():
    monitor = UnitMonitor(
        (X, Y), histograms={"one": [0, 2]}, bins=7, layers=["one"]
    )
    model = network()
    fit(model, monitor, epochs=1)
    kernel, bias = model.get_layer("one").get_weights()
    counts, edges = monitor.records[-1].histograms["one"][2]
    expected, _ = np.histogram((X @ kernel + bias)[:, 2], edges)
    assert counts.sum() == 48
    assert abs(counts - expected).sum() <= 2  # Rounding at an edge.


def test_dead_and_frozen_units_are_counted():
    model = network()
    model.get_layer("one").bias.assign([0.0, -99.0, 0.0, -99.0])
    # Unit 0 of 'two' is read by nobody: dead; its own gradient is gone too.
    out = np.array(model.get_layer("out").get_weights()[0])
    out[0] = 0
    model.get_layer("out").kernel.assign(out)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = UnitMonitor((X, Y), penalty=True)
    fit(model, monitor, epochs=1)
    lines = monitor.report().splitlines()
    assert lines[2].split() == ["one", "4", "2", "2", "2"]
    assert lines[3].split() == ["two", "3", "1", "1", "1"]


def test_units_may_leave_meanwhile():
    model = network()
    monitor = UnitMonitor((X, Y))
    pruning = ka.callbacks.SaliencyPruning(
        "l1_norm", schedule=ka.schedules.AtEpochs({1: 0.5}), data=X
    )
    fit(model, pruning, monitor)
    sizes = [r.measures["saliency"]["one"].size for r in monitor.records]
    assert sizes == [4, 2, 2]
    with pytest.raises(ValueError, match="Units of group 'one' were removed"):
        monitor.series("saliency", "one")

"""A method added from outside the package: one class, one method."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")


# All that a stranger writes: which units to remove at an event.
@keras.saving.register_keras_serializable(package="outside")
class QuietUnits(ka.callbacks.PruningCallback):
    """Removes units whose mean activity is below a share of the largest."""

    def __init__(self, share, data, schedule=None, **options):
        super().__init__(schedule or ka.schedules.EveryEpoch(), **options)
        self.share = share
        self.data = data

    def prune(self, analysis, amount):
        removed = {}
        found = ka.unit_statistics(self.model, self.data)
        for group in self.groups(analysis):
            mean = found[group.name][group.name].mean
            quiet = np.flatnonzero(mean < self.share * mean.max())
            if quiet.size:
                removed[group.name] = quiet
        if not removed:
            return ka.callbacks.Skip("no unit is quiet")
        return ka.Removal(removed)


def network():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="relu", name="hidden"),
            layers.Dense(1, name="out"),
        ]
    )
    model.get_layer("hidden").kernel.assign(np.diag([1.0, 0.01, 1.0, 0.02]))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def test_it_prunes_and_the_base_does_the_rest():
    model = network()
    method = QuietUnits(0.5, X)
    history = model.fit(
        X, X[:, :1], epochs=3, verbose=0, callbacks=[method]
    ).history
    assert history["units/hidden"] == [2, 2, 2]
    assert history["parameters"] == [2 * 4 + 2 + 2 + 1] * 3
    assert [event.units for event in method.history] == [
        {"hidden": (4, 2)},
        {"hidden": (2, 2)},
        {"hidden": (2, 2)},
    ]
    assert [event.skipped for event in method.history] == [
        "",
        "no unit is quiet",
        "no unit is quiet",
    ]


@pytest.mark.parametrize("wrong", [None, {"hidden": [0]}])
def test_anything_but_a_decision_is_an_error(wrong):
    """A forgotten `return`, or units without `ka.Removal` around them."""
    method = QuietUnits(0.5, X)
    method.prune = lambda analysis, amount: wrong
    model = network()
    with pytest.raises(ValueError, match=r"`QuietUnits.prune`.* Received: "):
        model.fit(X, X[:, :1], verbose=0, callbacks=[method])
    assert model.get_layer("hidden").units == 4


def test_arguments_of_the_base():
    model = network()
    model.fit(
        X,
        X[:, :1],
        verbose=0,
        callbacks=[QuietUnits(0.5, X, min_gain=0.9)],
    )
    assert model.get_layer("hidden").units == 4
    with pytest.raises(ValueError, match="hidden, out"):
        model.fit(X, X[:, :1], callbacks=[QuietUnits(0.5, X, layers="none")])


def test_it_resumes_from_a_checkpoint(tmp_path):
    path = tmp_path / "run.keras"
    method = QuietUnits(0.5, X)
    checkpoint = ka.callbacks.Checkpoint(path, [method])
    model = network()
    model.fit(X, X[:, :1], verbose=0, callbacks=[method, checkpoint])

    method = QuietUnits(0.5, X)
    resumed = ka.callbacks.Checkpoint(path, [method]).restore()
    assert resumed.get_layer("hidden").units == 2
    assert [event.units for event in method.history] == [{"hidden": (4, 2)}]


def test_its_config_makes_it_again():
    method = QuietUnits(0.5, X, min_gain=0.25)
    config = keras.saving.serialize_keras_object(method)
    again = QuietUnits.from_config(config["config"], data=X)
    assert (again.share, again.min_gain) == (0.5, 0.25)
    assert again.schedule == method.schedule

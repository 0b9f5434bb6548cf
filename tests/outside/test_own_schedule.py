"""A schedule added from outside the package: one class, one method."""

import copy
import dataclasses
import pickle

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


# All that a stranger writes: when, and (for methods that want it) how much.
@keras.saving.register_keras_serializable(package="outside")
@dataclasses.dataclass(frozen=True)
class Halves(ka.schedules.EventSchedule):
    """Fires after 1/2, 3/4, 7/8 … of the training, each time for more."""

    events: int = 2

    def times(self, total_epochs=None):
        return tuple(1 - 2.0**-n for n in range(1, self.events + 1))

    def sparsity_at(self, event):
        return 1 - 2.0 ** -(event + 1)


def network():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="hidden"),
            layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    return model


def test_a_method_follows_it():
    pruning = ka.callbacks.SaliencyPruning(
        "l1_norm", schedule=Halves(), replacement="zero"
    )
    model = network()
    history = model.fit(
        X, X[:, :1], epochs=8, verbose=0, callbacks=[pruning]
    ).history
    # 8 epochs: after the fourth half of the units, after the sixth 3/4.
    assert history["units/hidden"] == [8, 8, 8, 4, 4, 2, 2, 2]
    assert [event.amount for event in pruning.history] == [0.5, 0.75]


def test_it_copies_pickles_and_is_serialized():
    schedule = Halves(3)
    assert copy.deepcopy(schedule) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(config) == schedule

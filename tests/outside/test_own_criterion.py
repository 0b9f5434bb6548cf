"""A criterion added from outside the package: one function, one line."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")


# All that a stranger writes. The sample is optional, so none is needed.
@ka.criteria.register("largest_weight", granularity="units")
def largest_weight(model, data=None):
    """Returns the largest absolute incoming weight of each unit."""
    scores = {}
    for group in ka.unit_groups(model):
        if group.removable:
            kernel = keras.ops.convert_to_numpy(group.producers[0].kernel)
            columns = abs(kernel).reshape(-1, kernel.shape[-1])
            scores[group.name] = columns.max(axis=0)
    return scores


class ByActivity:
    """Scores units by their mean activity: an object, not registered."""

    def __init__(self, power):
        self.power = power

    def score(self, model, data):
        found = ka.unit_statistics(model, data)
        return {
            name: next(iter(points.values())).mean ** self.power
            for name, points in found.items()
        }


@keras.saving.register_keras_serializable(package="outside")
class Scaled(ByActivity):
    def get_config(self):
        return {"power": self.power}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="sigmoid", name="hidden"),
            layers.Dense(1, name="out"),
        ]
    )
    kernel = np.diag([3.0, -1.0, 4.0, -2.0])
    model.get_layer("hidden").kernel.assign(kernel)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("criterion", ["largest_weight", largest_weight])
def test_prunes_without_data(criterion):
    model = network()
    model.optimizer.learning_rate = 0.0
    pruning = ka.callbacks.SaliencyPruning(
        criterion,
        schedule=ka.schedules.AtEpochs({1: 0.5}),
        replacement="zero",
    )
    model.fit(X, X[:, :1], verbose=0, callbacks=[pruning])
    kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel)
    np.testing.assert_array_equal(kernel.max(axis=0), [3.0, 4.0])


def test_an_object_prunes_by_data():
    model = network()
    means = ka.unit_statistics(model, X)["hidden"]["hidden"].mean
    scores = ka.criteria.get(ByActivity(2), "units").score(model, X)
    np.testing.assert_allclose(scores["hidden"], means**2)
    pruning = ka.callbacks.SaliencyPruning(
        ByActivity(2), schedule=ka.schedules.AtEpochs({1: 0.5}), data=X
    )
    model.fit(X, X[:, :1], verbose=0, callbacks=[pruning])
    assert model.get_layer("hidden").units == 2
    with pytest.raises(ValueError, match=r"Received: data=None"):
        ka.callbacks.SaliencyPruning(ByActivity(2), replacement="zero")


def test_is_serialized():
    criterion = ka.criteria.get(largest_weight, "units")
    assert criterion is ka.criteria.get("largest_weight", "units")
    config = keras.saving.serialize_keras_object(criterion)
    assert keras.saving.deserialize_keras_object(config) is criterion
    scaled = ka.criteria.get(Scaled(3), "units")
    config = keras.saving.serialize_keras_object(scaled)
    assert keras.saving.deserialize_keras_object(config).source.power == 3
    with pytest.raises(ValueError, match="Expected a registered criterion"):
        ka.criteria.get(ByActivity(2), "units").get_config()


def test_a_class_is_registered_as_its_object():
    @ka.criteria.register("constant", granularity="weights")
    class Constant:
        needs_data = False

        def score(self, model, data):
            return [np.ones(w.shape) for w in model.trainable_variables]

    found = ka.criteria.get("constant", "weights")
    assert not found.needs_data
    assert [each.sum() for each in found.score(network())] == [16, 4, 4, 1]
    assert ka.criteria.get(Constant, "weights") is found

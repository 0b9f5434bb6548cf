"""`BestModel` compares an epoch with those since the last removal alone."""

import keras
import numpy as np
import pytest

import keras_apoptosis as ka
from keras_apoptosis.callbacks import BestModel

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


class Says(keras.callbacks.Callback):
    """Replaces a logged value by what a test wants it to be."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values = values
        self.name = name

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]


class Prunes(keras.callbacks.Callback):
    """Removes a unit at the end of an epoch, or within it."""

    def __init__(self, epoch, within=False):
        super().__init__()
        self.when = epoch
        self.within = within

    def _prune(self):
        ka.shrink(self.model, ka.Removal({"hidden": [0]}))

    def on_train_batch_end(self, batch, logs=None):
        if self.within and self.epoch == self.when and batch == 0:
            self._prune()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if not self.within and epoch == self.when:
            self._prune()


class Records(keras.callbacks.Callback):
    """Keeps a copy of the weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def network():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    return model


def fit(model, *callbacks, epochs):
    model.fit(
        X,
        X[:, :1],
        validation_data=(X, X[:, :1]),
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks],
    )


def same(one, other):
    return all(map(np.array_equal, one, other))


@pytest.mark.parametrize("first", [True, False])
def test_the_best_since_a_removal_is_restored(first, tmp_path):
    model, records = network(), Records()
    path = tmp_path / "best.keras"
    best = BestModel(path=path)
    said = Says([0.1, 0.2, 0.5, 0.3, 0.4])
    pruning = [Prunes(1)]
    # The removal at the end of epoch 1 comes before it is compared, or after.
    order = [*pruning, said, best] if first else [said, best, *pruning]
    fit(model, *order, records, epochs=5)
    assert best.best == 0.3
    assert best.best_epoch == 3
    assert same(model.get_weights(), records.weights[3])
    saved = keras.saving.load_model(path)
    assert same(saved.get_weights(), records.weights[3])


def test_validation_after_a_removal_within_an_epoch_counts():
    model, records, best = network(), Records(), BestModel()
    said = Says([0.1, 0.2, 0.3])
    fit(model, Prunes(1, within=True), said, best, records, epochs=3)
    assert best.best == 0.2
    assert same(model.get_weights(), records.weights[1])


def test_a_training_loss_over_a_removal_does_not_count():
    model, records, best = network(), Records(), BestModel("loss")
    said = Says([0.1, 0.2, 0.3], "loss")
    fit(model, Prunes(1, within=True), said, best, records, epochs=3)
    assert best.best == 0.3
    assert same(model.get_weights(), records.weights[2])


def test_without_an_epoch_after_the_removal_weights_stay():
    model, records, best = network(), Records(), BestModel()
    fit(model, Says([0.1, 0.2]), best, Prunes(1), records, epochs=2)
    assert model.layers[0].units == 5
    assert same(model.get_weights(), records.weights[1])


def test_patience_counts_from_the_removal():
    model, best = network(), BestModel(patience=2)
    said = Says([0.1, 0.2, 0.5, 0.4, 0.6, 0.7, 0.8, 0.9])
    fit(model, Prunes(1), said, best, epochs=8)
    # Epoch 2 is the first of the smaller model, 3 its best, 5 the second
    # without an improvement.
    assert best.stopped_epoch == 5
    assert best.best_epoch == 3


def test_masked_weights_count_as_pruned():
    model = ka.make_prunable(network())
    model.compile("adam", "mse")
    records, best = Records(), BestModel()

    class Masks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                mask = np.ones((4, 6), bool)
                mask[0, 0] = False
                self.model.layers[0].set_mask(mask)

    fit(model, Says([0.1, 0.3, 0.4]), Masks(), best, records, epochs=3)
    assert best.best == 0.3
    assert same(model.get_weights(), records.weights[1])


def test_config():
    best = BestModel("val_accuracy", path="a.keras", patience=3, mode="max")
    again = BestModel.from_config(best.get_config())
    assert again.get_config() == best.get_config()
    assert BestModel.from_config(BestModel().get_config()).path is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "Received: patience=0"),
        ({"path": "best.h5"}, "Received: path='best.h5'"),
        ({"mode": "upwards"}, "Received: mode='upwards'"),
        ({"monitor": 3}, "Received: monitor=3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BestModel(**arguments)

"""Every callback of Keras beside every method, with removals in mid-fit."""

import csv
import http.server
import json
import threading

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (
    EventAccumulator,
)

import keras_apoptosis as ka
from tests.cases import combinations

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.integers(0, 3, size=64)
EPOCHS = 4


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, name="one")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Dense(12, activation="relu", name="two")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="out")(x))
    # Half of the units of each layer are dead, for the methods that ask.
    model.get_layer("norm").gamma.assign([1.0] * 8 + [0.0] * 8)
    model.get_layer("norm").beta.assign([0.0] * 8 + [-9.0] * 8)
    model.get_layer("two").bias.assign([0.0] * 6 + [-99.0] * 6)
    model = ka.make_prunable(model, track_statistics=True)
    model.compile(
        keras.optimizers.Adam(0.003, use_ema=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


METHODS = {
    "apoptosis": lambda: ka.callbacks.NeuronApoptosis(
        "very_aggressive", data=X, min_gain=0.0
    ),
    "saliency": lambda: ka.callbacks.SaliencyPruning(
        "l1_norm",
        schedule=ka.schedules.AtEpochs({1: 0.2, 2: 0.4}),
        data=(X, Y),
    ),
    "weights": lambda: ka.callbacks.SaliencyPruning(
        "magnitude",
        granularity="weights",
        schedule=ka.schedules.AtEpochs({1: 0.2, 2: 0.4}),
    ),
    "stripping": lambda: ka.callbacks.SynapticStripping(0.2),
    "demon": lambda: ka.callbacks.DemonPruning(
        1e-3, schedule=ka.schedules.EverySteps(3), data=X, min_gain=0.0
    ),
}
method = pytest.mark.parametrize("method", METHODS)


def fit(model, *callbacks, epochs=EPOCHS):
    return model.fit(
        X,
        Y,
        validation_data=(X, Y),
        epochs=epochs,
        batch_size=16,
        verbose=0,
        callbacks=list(callbacks),
    )


class Receiver:
    """Counts what `RemoteMonitor` sends to this machine."""

    def __enter__(self):
        received = self.received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                received.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


# All that run beside every method, each with what it has to show.
WORKING = {
    "CSVLogger",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
}
# Those that do not, each with arguments that conflict.
CONFLICTING = {
    "EarlyStopping": {"restore_best_weights": True},
    "ModelCheckpoint": {"filepath": "best.keras", "save_best_only": True},
    "BackupAndRestore": {"backup_dir": "backup"},
    "OrbaxCheckpoint": {"directory": "orbax", "save_best_only": True},
}
# Neither does anything by itself.
BASES = {"Callback", "CallbackList"}


def test_every_callback_of_keras_is_here():
    every = {
        name
        for name, each in vars(keras.callbacks).items()
        if isinstance(each, type)
    }
    assert every == WORKING | CONFLICTING.keys() | BASES


@pytest.mark.parametrize(
    ("method", "first"), combinations(METHODS, [True, False])
)
def test_all_at_once(method, first, tmp_path):
    model = network()
    pruning = METHODS[method]()
    rates, ends = [], []
    callbacks = keras.callbacks
    with Receiver() as receiver:
        others = [
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.EarlyStopping("loss", patience=EPOCHS),
            callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: ends.append(epoch)
            ),
            callbacks.LearningRateScheduler(
                lambda epoch, rate: rates.append(rate) or rate * 0.5
            ),
            callbacks.ModelCheckpoint(tmp_path / "model.keras"),
            callbacks.ReduceLROnPlateau("loss", patience=EPOCHS),
            callbacks.RemoteMonitor(receiver.address, send_as_json=True),
            callbacks.SwapEMAWeights(swap_on_epoch=False),
            callbacks.TensorBoard(tmp_path / "logs", histogram_freq=1),
            callbacks.TerminateOnNaN(),
        ]
        chosen = [pruning, *others] if first else [*others, pruning]
        history = fit(model, *chosen).history
    lengths = {name: len(values) for name, values in history.items()}
    assert set(lengths.values()) == {EPOCHS}
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    assert all(None not in row and None not in row.values() for row in rows)
    assert ends == list(range(EPOCHS))
    assert np.allclose(np.divide(rates[1:], rates[:-1]), 0.5)
    assert len(receiver.received) == EPOCHS
    shown = EventAccumulator(str(tmp_path / "logs/train")).Reload()
    tags = set(shown.Tags()["tensors"])
    assert {"two/kernel/histogram", "epoch_loss"} <= tags
    # What a pruning callback adds is seen by the callbacks after it.
    assert ({"epoch_parameters", "epoch_units/two"} <= tags) == first
    changed = [event for event in pruning.history if not event.skipped]
    assert changed
    # The file was written at the end of the last epoch; what is left is
    # the swap of the averages at the end of the training.
    saved = keras.saving.load_model(tmp_path / "model.keras")
    assert saved.get_layer("two").units == model.get_layer("two").units
    again = fit(saved, epochs=1).history["loss"]
    assert np.isfinite(again).all()
    assert np.isfinite(model.predict(X, verbose=0)).all()


@method
@pytest.mark.parametrize("name", CONFLICTING)
def test_conflicts_are_told_before_the_first_step(
    method, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    try:
        other = getattr(keras.callbacks, name)(**CONFLICTING[name])
    except ImportError:
        pytest.skip(f"{name} needs a package that is not installed")
    model = network()
    pruning = METHODS[method]()
    before = model.get_weights()
    keeps_sizes = method == "stripping" and name.endswith("Checkpoint")
    if keeps_sizes:  # The best model before a mask is as good as any.
        fit(model, other, pruning)
        return
    for callbacks in ([other, pruning], [pruning, other]):
        with pytest.raises(ValueError, match=rf"`{name}.*ka\.callbacks"):
            fit(model, *callbacks)
    assert all(map(np.array_equal, model.get_weights(), before))
    assert not model.optimizer.built or int(model.optimizer.iterations) == 0

"""A resumed training is an uninterrupted one, to the last bit."""

import re
import shutil

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.trigger import Trigger
from keras_apoptosis.utils.serialization import from_json, to_json
from tests.cases import part

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype("float32")
Y = np.tanh(X[:, :2]) @ np.array([[1.0], [-1.0]], "float32")
EPOCHS = 6


def build():
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(24, activation="relu", name="one"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(16, activation="relu", name="two"),
            keras.layers.Dense(1),
        ]
    )


def apoptosis():
    method = ka.callbacks.NeuronApoptosis(
        tolerance=0.2, data=X, schedule=ka.schedules.EveryEpoch(2), min_gain=0.0
    )
    return build(), keras.optimizers.Adam(0.02), method


def stripping():
    model = build()
    model.get_layer("two").bias.assign(np.repeat([-9.0, 0.0], 8))
    model = ka.make_prunable(model, track_statistics=True)
    method = ka.callbacks.SynapticStripping(0.3, data="training")
    return model, keras.optimizers.Adam(0.02), method


def stripping_under_muon():
    model, _, method = stripping()
    return model, keras.optimizers.Muon(0.02), method


def saliency(structure, schedule=None):
    model = build()
    if structure == "weights":
        model = ka.make_prunable(model)
    method = ka.callbacks.SaliencyPruning(
        "taylor" if structure == "weights" else "mean_replacement_saliency",
        granularity=structure,
        data=(X, Y),
        schedule=schedule or ka.schedules.AtEpochs({2: 0.2, 4: 0.4, 6: 0.5}),
    )
    return model, keras.optimizers.Adam(0.02), method


def demon(**arguments):
    method = ka.callbacks.DemonPruning(
        0.05,
        noise_variance=1e-4,
        schedule=ka.schedules.EverySteps(4),
        threshold=0.05,
        **arguments,
    )
    model = build()
    if arguments.get("data") is None:
        model = ka.make_prunable(model, track_statistics=True)
    return model, keras.optimizers.Adam(0.02), method


METHODS = {
    "demon": lambda: demon(data=X),
    "demon by the layers' statistics": lambda: demon(
        layers=["two"], regularize="all"
    ),
    "demon with a target": lambda: demon(
        data=X, target=ka.targets.Parameters(at_most=0.5)
    ),
    "saliency of units": lambda: saliency("units"),
    "saliency of weights": lambda: saliency("weights"),
    # It has to remember where the weights were.
    "saliency once settled": lambda: saliency(
        "units", ka.schedules.WhenSettled(0.5, 1e-9, latest=0.6)
    ),
    "apoptosis": apoptosis,
    "stripping": stripping,
    "stripping under Muon": stripping_under_muon,
}


class Broken(Exception):
    pass


class Breaking(keras.callbacks.Callback):
    """Breaks a training off in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch == 1:
            raise Broken


def train(make, path=None, breaking=()):
    """One start of a script: from the checkpoint, where there is one."""
    keras.utils.set_random_seed(1)
    model, optimizer, method = make()
    model.compile(optimizer, "mse")
    callbacks, first = [method, *breaking], 0
    if path is not None:
        checkpoint = ka.callbacks.Checkpoint(path, [method])
        model = checkpoint.restore() or model
        first = checkpoint.epoch
        callbacks.append(checkpoint)
    model.fit(
        ka.distributed.shuffled_batches(X, Y, batch_size=16, first_epoch=first),
        steps_per_epoch=6,
        shuffle=False,
        epochs=EPOCHS,
        initial_epoch=first,
        verbose=0,
        callbacks=callbacks,
    )
    return model, method


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [ops.convert_to_numpy(each.value) for each in variables]


def without_times(history):
    return [
        {k: v for k, v in vars(e).items() if k not in ("seconds", "saving")}
        for e in history
    ]


class Copying(keras.callbacks.Callback):
    """Keeps the checkpoint as it is when an epoch begins."""

    def __init__(self, epoch, path, copy):
        super().__init__()
        self.epoch, self.path, self.copy = epoch, path, copy

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            shutil.copy(self.path, self.copy)


@pytest.mark.parametrize("name", part([*METHODS]))
def test_resumed_is_uninterrupted(name, tmp_path):
    path, kept = tmp_path / "whole.keras", tmp_path / "kept.keras"
    whole, method = train(METHODS[name], path, [Copying(3, path, kept)])
    # Something has happened by then, and something comes after it.
    expected = {3} if name == "saliency once settled" else {1, 5}
    assert {event.epoch for event in method.history} >= expected
    resumed, again = train(METHODS[name], kept)
    assert without_times(again.history) == without_times(method.history)
    for a, b in zip(values(whole), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_broke_off_in_an_epoch_resumes_at_its_begin(tmp_path):
    path = tmp_path / "run.keras"
    whole, method = train(apoptosis)  # Without a checkpoint.
    with pytest.raises(Broken):
        train(apoptosis, path, [Breaking(3)])
    resumed, again = train(apoptosis, path)
    assert without_times(again.history) == without_times(method.history)
    for a, b in zip(values(whole), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    assert resumed.count_params() < build().count_params()


def test_a_checkpoint_is_a_model_for_keras_alone(tmp_path):
    model, _ = train(apoptosis, tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )


def test_a_failure_while_saving_leaves_the_last_file(tmp_path, monkeypatch):
    path = tmp_path / "run.keras"
    train(apoptosis, path)
    before = path.read_bytes()
    model, optimizer, method = apoptosis()
    model.compile(optimizer, "mse")
    method.get_state = lambda: {"not": object()}  # Cannot be written.
    with pytest.raises(ValueError, match="Expected a state of dictionaries"):
        model.fit(
            X,
            Y,
            verbose=0,
            callbacks=[method, ka.callbacks.Checkpoint(path, [method])],
        )

    def full(self, path):
        path.write_bytes(b"half a model")
        raise OSError("No space left on device")

    monkeypatch.setattr(type(model), "save", full)
    with pytest.raises(OSError, match="No space"):
        model.fit(X, Y, verbose=0, callbacks=[ka.callbacks.Checkpoint(path)])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["run.keras"]


def test_every_so_many_epochs_and_the_last(tmp_path):
    model, optimizer, _ = apoptosis()
    model.compile(optimizer, "mse")
    saved = []

    class Noting(ka.callbacks.Checkpoint):
        def _save(self):
            saved.append(self.epoch)

    callback = Noting(tmp_path / "run.keras", every=2)
    model.fit(X, Y, epochs=5, verbose=0, callbacks=[callback])
    assert saved == [2, 4, 5]


def test_data_of_unknown_length(tmp_path):
    """Times within an epoch are known from the first epoch, also later."""

    progress = TrainingProgress()
    trigger = Trigger(ka.schedules.AtEpochs({2: 0.1}), progress)
    progress.begin_fit({"epochs": 4})
    trigger.begin_fit(4)
    progress.begin_epoch(0)
    trigger.begin_epoch()
    progress.end_step(9)
    progress.end_epoch()
    resumed = TrainingProgress()
    other = Trigger(ka.schedules.AtEpochs({2: 0.1}), resumed)
    other.set_state(trigger.get_state())
    resumed.begin_fit({"epochs": 4})
    resumed.begin_epoch(1)
    resumed.end_step(4)
    assert resumed.fraction == (1 + 5 / 10) / 4


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"array": 1, "tuple": (1, [2.5, "x"]), "": {}},
        [np.float64(0.1), float("inf"), True],
    ],
)
def test_plain_data_comes_back(value):
    assert from_json(to_json(value)) == value


def test_arrays_come_back():
    for array in (np.arange(6.0).reshape(2, 3), np.array([True]), np.zeros(0)):
        found = from_json(to_json({"a": array}))["a"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"level": "conservative"}, "level='conservative' instead of 'normal'"),
        (
            {"schedule": ka.schedules.Logarithmic(ratio=3.0)},
            "schedule.config.ratio=3.0 instead of 2.0",
        ),
    ],
)
def test_other_arguments_are_told(changed, message, tmp_path):
    path = tmp_path / "run.keras"

    def checkpoint(**arguments):
        method = ka.callbacks.NeuronApoptosis(data=X, **arguments)
        return method, ka.callbacks.Checkpoint(path, [method])

    model, optimizer, _ = apoptosis()
    model.compile(optimizer, "mse")
    callbacks = checkpoint()
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[*callbacks])
    assert checkpoint(verbose=0)[1].restore() is not None
    with pytest.raises(ValueError, match=message):
        checkpoint(**changed)[1].restore()


@pytest.mark.parametrize("content", [b"", b"PK", b"other"])
def test_a_file_that_is_no_checkpoint(content, tmp_path):
    path = tmp_path / "run.keras"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        ka.callbacks.Checkpoint(path).restore()


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_file_that_was_cut_off(share, tmp_path):
    path = tmp_path / "run.keras"
    model, optimizer, _ = apoptosis()
    model.compile(optimizer, "mse")
    whole = ka.callbacks.Checkpoint(path)
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[whole])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        ka.callbacks.Checkpoint(path).restore()

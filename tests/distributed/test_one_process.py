"""On one process nothing happens; what cannot be is said."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from keras_apoptosis.backend import step_hooks
from keras_apoptosis.distributed import collectives, install
from keras_apoptosis.distributed.broadcast import moving_state
from tests.processes import output_of

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")


def train(distributed):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    optimizer, data, callbacks = keras.optimizers.SGD(0.1), (X, X[:, :1]), []
    if distributed:
        ka.distributed.init()
        optimizer = ka.distributed.DistributedOptimizer(optimizer)
        data = ka.distributed.shard(data)
        callbacks = [
            ka.distributed.BroadcastInitialState(),
            ka.distributed.LearningRateScaling(warmup_epochs=2),
            ka.distributed.MetricAverage(),
        ]
    model.compile(optimizer, "mse")
    history = model.fit(
        *data, epochs=3, shuffle=False, verbose=0, callbacks=callbacks
    )
    weights = [ops.convert_to_numpy(each) for each in model.weights]
    return history.history, weights


def test_nothing_changes():
    (plain, first), (logs, second) = train(False), train(True)
    assert logs == plain
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_process_is_rank_0():
    assert ka.distributed.rank() == 0
    assert ka.distributed.size() == 1
    assert ka.distributed.is_primary()


def test_reducing_is_the_identity():
    values = np.arange(3)
    assert collectives.all_reduce_sum(values, "x") is values
    assert collectives.all_reduce_max(values, "x") is values
    assert collectives.all_gather("a", "x") == ["a"]
    assert collectives.broadcast("a", "x") == "a"
    collectives.assert_same("a", "x")


def test_passes_are_gradient_accumulation():
    optimizer = ka.distributed.DistributedOptimizer(
        keras.optimizers.SGD(0.1), backward_passes_per_step=4
    )
    assert optimizer.gradient_accumulation_steps == 4


def test_batches_depend_on_seed_and_epoch_alone():
    def epochs(first, count):
        data = ka.distributed.shuffled_batches(
            np.arange(10), batch_size=4, first_epoch=first
        )
        return [next(data)[0].tolist() for _ in range(2 * count)]

    three = epochs(0, 3)
    assert epochs(1, 2) == three[2:]
    assert three[:2] != three[2:4]
    assert len({*three[0], *three[1]}) == 8


def test_state_that_is_averaged():
    inner = keras.layers.BatchNormalization(name="frozen", trainable=False)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, trainable=False),
            keras.layers.BatchNormalization(name="moving"),
            inner,
            keras.layers.Dropout(0.5, seed=1),
            ka.layers.PrunableDense(2, track_statistics=True, masked=True),
        ]
    )
    moving = model.get_layer("moving")
    expected = [moving.moving_mean, moving.moving_variance]
    assert [id(v) for v in moving_state(model)] == [id(v) for v in expected]


def test_digests_tell_arrays_apart():
    one = [np.zeros(2, "float32"), np.zeros((2, 1), "float32")]
    others = (
        [np.zeros((2, 1), "float32"), np.zeros(2, "float32")],
        [np.zeros(2, "float32"), np.full((2, 1), -0.0, "float32")],
        [np.zeros(2, "int32"), np.zeros((2, 1), "float32")],
        one[:1],
    )
    digests = {collectives.digest_of(each) for each in (one, *others)}
    assert len(digests) == 5
    assert collectives.digest_of([each.copy() for each in one]) in digests


class Noting(step_hooks.StepHook):
    def __init__(self, calls, name, first=False):
        self.calls, self.name, self.first = calls, name, first
        self.built = 0

    def build(self, weights):
        self.built = len(weights)

    def before(self, gradients, weights):
        self.calls.append(self.name)
        return gradients


@pytest.mark.parametrize("scaled", [False, True])
def test_a_hook_that_is_first_comes_before_all(scaled):
    """Also before one that scales the loss looks whether to skip the step."""
    if scaled and keras.backend.backend() == "jax":
        pytest.skip("JAX applies what an optimizer that scales wraps directly")
    calls = []
    optimizer = keras.optimizers.SGD(0.1)
    placed = Noting(calls, "placed", first=True)
    step_hooks.place(optimizer, placed)  # Before it is built, and wrapped.
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    attached = Noting(calls, "attached")
    step_hooks.attach(model, attached)
    step_hooks.settle(model)
    assert placed.built == 2
    assert placed.optimizer is model.optimizer
    assert attached.optimizer is backend.innermost(model.optimizer)
    model.fit(X, X[:, :1], batch_size=64, verbose=0)
    assert calls[:2] == ["placed", "attached"]


def test_several_processes_without_a_beginning(monkeypatch):
    monkeypatch.setattr(collectives, "_started", False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"Call `ka.distributed.init\(\)`"):
        ka.distributed.size()
    with pytest.raises(RuntimeError, match=r"Call `ka.distributed.init\(\)`"):
        ka.distributed.DistributedOptimizer(keras.optimizers.SGD())
    with ka.distributed.alone():  # Tasks that have nothing to do with others.
        assert not collectives.together()


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("tensorflow", "keras_apoptosis.distributed.install"),
        ("torch", "start them with `torchrun`"),
        ("jax", "KERAS_DISTRIBUTION_JOB_ADDRESSES"),
    ],
)
def test_several_processes_that_cannot_be_connected(backend, expected):
    if keras.backend.backend() != backend:
        pytest.skip("each backend is asked by its own tests")
    script = """
import sys
sys.modules["horovod.tensorflow"] = None
import keras_apoptosis as ka
try:
    ka.distributed.init(timeout=5)
except RuntimeError as error:
    print(error)
"""
    said = output_of(script, OMPI_COMM_WORLD_SIZE="3")
    assert expected in said
    assert "3 processes" in said


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_processes_that_a_library_of_another_backend_connects(
    library, monkeypatch
):
    """They would remove different units, so nothing is done."""
    if keras.backend.backend() == library:
        pytest.skip("that library's own backend takes part")
    if library == "torch":
        distributed = pytest.importorskip("torch.distributed")
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    else:
        distributed = pytest.importorskip("jax").distributed
        monkeypatch.setattr(distributed, "is_initialized", lambda: True)
        monkeypatch.setattr("jax.process_count", lambda: 2)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    removal = ka.Removal({"hidden": [0]})
    for act in (
        lambda: ka.shrink(model, removal),
        lambda: ka.unit_statistics(model, X),
        lambda: ka.recalibrate(model, X),
    ):
        message = f"2 processes of `{library}.distributed`"
        with pytest.raises(RuntimeError, match=message):
            act()
    assert model.get_layer("hidden").units == 8


def test_a_watchdog_ends_who_waits():
    script = """
import time
from keras_apoptosis.distributed.watchdog import Watchdog
dog = Watchdog("Rank 1 of 2", 0.5)
dog.begin()
dog.end()
time.sleep(1)
print("in time", flush=True)
with dog.waiting():
    time.sleep(60)
print("too late")
"""
    found = output_of(script, check=False)
    assert "in time" in found
    assert "too late" not in found


class TestInstall:
    def test_the_patch(self, tmp_path):
        for name, old, _ in install.EDITS:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"before\n{old}after\n")
        install.patch(tmp_path)
        for name, _, new in install.EDITS:
            assert (tmp_path / name).read_text() == f"before\n{new}after\n"
        with pytest.raises(install.Failure, match="0 of them"):
            install.patch(tmp_path)

    def test_without_a_compiler(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(install, "_tensorflow", lambda: "2.21.0")
        assert install.main(["--wheels", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert "apt-get install g++ cmake make" in said.err
        assert "libopenmpi-dev" in said.out

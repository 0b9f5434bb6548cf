"""Trainings on several processes and devices, with the real engines.

Horovod on TensorFlow, `torchrun` on PyTorch, `jax.distributed` on JAX; and on
one process `MirroredStrategy` and `keras.distribution` on virtual devices.
Each start imports the backend on every rank, so one start tells much; the
scripts are in `scripts/`.
"""

import os
import re
import shutil
import time

import keras
import numpy as np
import pytest

from tests.distributed.launching import (
    BACKEND,
    ROOT,
    launch,
    needs_engine,
    needs_launcher,
)

METHODS = ["plain", "saliency", "stripping", "demon"]
MORE = ["merging", "passes", "scaled", "normalized", "compressed"]
if BACKEND == "jax":  # Each removal is a compilation of its own.
    MORE = []
elif BACKEND == "tensorflow":  # Three ranks train it under MPI.
    MORE.remove("merging")
# Those with batch statistics or rounding see other numbers on two halves.
DIFFERENT = ["normalized", "compressed"]
# One process, two processes, and one on two virtual devices.
WAYS = ["processes"] if BACKEND == "torch" else ["processes", "devices"]


@pytest.fixture(autouse=True)
def _engine():
    needs_engine()


# Folders of what is trained, by how: processes, devices, names.
TRAININGS = {
    "processes": (2, 1, [*METHODS, *MORE]),
    "devices": (1, 2, METHODS),
    "one": (1, 1, [n for n in METHODS + MORE if n not in DIFFERENT]),
}
if BACKEND == "torch":  # It has a process for each device.
    del TRAININGS["devices"]
if BACKEND == "jax":  # The run on devices leaves those on one, too.
    del TRAININGS["one"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Trainings in all ways, shared out among the workers of xdist."""
    needs_engine()
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folders = {
        way: base / f"trained-{way}"
        for way in ("one", "processes", "ordered", "devices")
    }
    if BACKEND == "jax":  # Any order of the data is the same there.
        folders["ordered"] = folders["one"]
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    for way, (ranks, devices, names) in TRAININGS.items():
        try:
            (base / f"begun-{way}").mkdir()
        except FileExistsError:  # Somebody is at it.
            continue
        folder = base if way == "devices" else folders[way]
        try:
            launch("training.py", folder, *names, ranks=ranks, devices=devices)
        except BaseException:
            (base / "failed").touch()
            raise
        (base / f"done-{way}").touch()
    while not all((base / f"done-{way}").exists() for way in TRAININGS):
        assert not (base / "failed").exists(), "it failed on another worker"
        time.sleep(0.5)
    return folders


def load(folder, name, ranks):
    return [dict(np.load(folder / f"{name}-{r}.npz")) for r in range(ranks)]


def arrays(found):
    """The weights and all of the optimizer."""
    return [v for key, v in found.items() if key.startswith("arr_")]


def assert_alike(found, but=()):
    first, *rest = found
    for other in rest:
        for key, value in first.items():
            if key not in but:
                np.testing.assert_array_equal(value, other[key], key)


@pytest.mark.parametrize("name", METHODS + MORE)
def test_ranks_are_alike_after_several_removals(trained, name):
    found = load(trained["processes"], name, 2)
    assert found[0]["events"] >= 3
    local = []
    if name == "stripping" and BACKEND != "jax":
        # Ranks count activations each for itself; 8 variables of two layers.
        local = [
            key
            for key, value in found[0].items()
            if key.startswith("arr_")
            and not np.array_equal(value, found[1][key])
        ]
        assert 0 < len(local) <= 8
    if name != "stripping":
        assert found[0]["parameters"] < 4306
    assert_alike(found, but=local)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*METHODS, *MORE])
def test_parts_of_a_batch_are_one_whole(trained, name, way):
    """Two workers with half batches, and one with full ones."""
    if name in DIFFERENT or (way == "devices" and name in MORE):
        pytest.skip("not the same by intent, or not trained this way")
    (one,) = load(trained["ordered" if way == "devices" else "one"], name, 1)
    two = load(trained[way], name, 1)[0]
    assert one["parameters"] == two["parameters"]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
    counted = name == "stripping" and way == "processes" and BACKEND != "jax"
    for number, (a, b) in enumerate(zip(arrays(one), arrays(two), strict=True)):
        assert a.shape == b.shape
        # Kernel and bias of the first layer; counts are those of a rank.
        if not counted or number < 2:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)


def test_statistics_are_those_of_all_data(trained):
    (one,) = load(trained["one"], "plain", 1)
    two = load(trained["processes"], "plain", 2)[0]
    assert two["count"] == one["count"] == 480
    np.testing.assert_allclose(two["mean"], one["mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        two["variance"], one["variance"], rtol=1e-3, atol=1e-5
    )


def test_recalibration_is_by_all_data(trained):
    if "normalized" not in MORE:
        pytest.skip("JAX is slow to compile; the sums are those of statistics")
    for found in load(trained["processes"], "normalized", 2):
        assert found["samples"] == 480
        inputs = found["inputs"].astype("float64")
        for name, expected in [
            ("moving_mean", inputs.mean(axis=0)),
            ("moving_variance", inputs.var(axis=0)),
        ]:
            np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_bytes_fall_with_the_parameters(trained):
    """Each parameter is a float32; by fp16 it travels in two bytes."""
    if BACKEND == "jax":
        pytest.skip("JAX sends gradients itself, and does not say how much")
    for name, width in (("plain", 4), ("compressed", 2)):
        found = load(trained["processes"], name, 2)[0]["bytes"]
        sent, left = found[:, 0], found[:, 1]
        assert sent[0] == width * 4306
        # What is left at the end of an epoch is what travels in the next.
        np.testing.assert_array_equal(sent[1:], width * left[:-1])
        assert sent[-1] < sent[0] / 2


def test_files_load_on_one_process(trained):
    for name in {"plain", "scaled", "passes"} & {*METHODS, *MORE}:
        model = keras.saving.load_model(trained["processes"] / f"{name}.keras")
        found = load(trained["processes"], name, 2)[0]
        for a, b in zip(model.variables, arrays(found), strict=False):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), b)
        model.fit(np.zeros((4, 16)), np.zeros((4, 2)), verbose=0)


def test_three_ranks_under_mpi(tmp_path):
    needs_launcher("mpi")
    launch("training.py", tmp_path, "merging", ranks=3, launcher="mpi")
    found = load(tmp_path, "merging", 3)
    assert found[0]["events"] == 3
    assert_alike(found)


def test_ranks_that_differ_are_told():
    if BACKEND == "jax":
        pytest.skip("JAX itself compares variables whenever they are set")
    said = launch("disagreements.py", ranks=3).stdout
    for name, problem in {
        "sizes": "number of steps.*6 x 1 on rank 0, rank 1; 3 x 1 on rank 2",
        "shapes": "shapes of the model.* on rank 0, rank 1; .* on rank 2",
        "removal": "units to remove.* on rank 0, rank 1; .* on rank 2",
        "masks": "masks of weights.* on rank 0, rank 1; .* on rank 2",
        "weights": "model's weights.* on rank 0, rank 1; .* on rank 2",
        "metrics": "names of their metrics.* on rank 0, rank 1; .* on rank 2",
        "no_callback": "Add `ka.distributed.BroadcastInitialState",
        "no_optimizer": "compiled with `ka.distributed.DistributedOptimizer",
        "twice": "already distributed",
        "uneven": "multiple of the number of workers, 3",
    }.items():
        for rank in range(3):
            line = f"{rank} {name}: .*{problem}"
            assert re.search(line, said), f"{line}\n{said}"
    for rank in range(3):
        assert f"{rank} mean: [1.0, 1.0, 1.0]" in said
        # 0.1 for one process; 3 ranks reach 0.3 in 2 epochs of 6 steps.
        steps = [0.1 * (1 + 2 * min(n / 12, 1)) for n in range(18)]
        assert f"{rank} rates: {np.round(steps, 4).tolist()}" in said
        assert f"{rank} array: {[rank, rank + 3, rank + 6]}" in said
        if BACKEND == "tensorflow":
            assert f"{rank} dataset: {[rank, rank + 3, rank + 6]}" in said


FAILURES = {
    "tensorflow": [
        ("gloo", "raise", "MemoryError: planted"),
        ("mpi", "kill", "exited on signal 9"),
        ("mpi", "freeze", "Rank 0 of 2: waited for 9 seconds"),
    ],
    "torch": [
        ("torchrun", "kill", "exitcode  : -9"),
        ("torchrun", "hang", "(Timed|timed) ?out|waited for 9 seconds"),
    ],
    "jax": [
        ("jax", "hang", "Rank . of 2: waited for 9 seconds"),
    ],
}


@pytest.mark.parametrize(("launcher", "how", "error"), FAILURES[BACKEND])
def test_a_rank_that_fails_ends_the_job(launcher, how, error):
    needs_launcher(launcher)
    done = launch("failing.py", how, 6, ranks=2, launcher=launcher, check=False)
    assert done.returncode != 0
    assert "FAILING" in done.stdout
    assert "FINISHED" not in done.stdout
    assert re.search(error, done.stdout), done.stdout[-6000:]


def test_resumed_after_a_kill_is_uninterrupted(tmp_path):
    """Though the model has shrunk, and only rank 0 has the file."""
    if BACKEND == "torch":  # `torchrun` starts all again by itself.
        launch("resuming.py", tmp_path, "restart", ranks=2, launcher="elastic")
    else:
        broken = launch("resuming.py", tmp_path, "break", ranks=2, check=False)
        assert broken.returncode != 0
        launch("resuming.py", tmp_path, "resume", ranks=2)
    model = keras.saving.load_model(tmp_path / "broken.keras")
    resumed, whole = (load(tmp_path, n, 2) for n in ("resumed", "whole"))
    assert resumed[0]["first"] == 3
    assert whole[0]["events"] == resumed[0]["events"] == 3
    assert whole[0]["parameters"] < model.count_params()  # It went on.
    assert_alike([*resumed, *whole], but=["first"])
    if BACKEND != "torch":  # It starts fastest.
        return
    # Fewer processes than before go on, too.
    shutil.copy(tmp_path / "broken.keras", tmp_path / "run.keras")
    launch("resuming.py", tmp_path, "rest")
    (alone,) = load(tmp_path, "resumed", 1)
    assert alone["first"] == 3
    assert alone["events"] == 3


def test_an_own_loop_goes_on():
    """PyTorch's wrapper for it follows a removal."""
    if BACKEND != "torch":
        pytest.skip("`DistributedDataParallel` is PyTorch's")
    said = [
        re.findall(r"rank (\d): (\d+) (\w+) ([\d.]+)", done.stdout)
        for done in (
            launch("data_parallel.py", ranks=ranks) for ranks in (1, 2)
        )
    ]
    ((_, count, _, loss),), (first, second) = said
    assert first[1:] == second[1:]  # To the last bit.
    assert first[1] == count
    assert float(first[3]) == pytest.approx(float(loss), rel=1e-4)


EXAMPLES = {
    "tensorflow": ["gloo", "devices"],
    "torch": ["torchrun"],
    "jax": ["jax"],
}


@pytest.mark.parametrize("launcher", EXAMPLES[BACKEND])
def test_the_example(launcher, tmp_path):
    one = launcher == "devices"
    if not one:
        needs_launcher(launcher)
    done = launch(
        ROOT / "examples" / "distributed_mnist.py",
        "--dataset=digits",
        "--epochs=4",
        f"--checkpoint={tmp_path / 'run.keras'}",
        *(["--devices=2"] if launcher == "devices" else []),
        ranks=1 if one else 2,
        launcher="" if one else launcher,
    )
    assert done.stdout.count("test accuracy") == 1, done.stdout[-6000:]
    assert (tmp_path / "run.keras").exists()

"""Trainings on two and three processes, with real Horovod.

Each start imports TensorFlow on every rank, so one start tells much; the
scripts are in `scripts/`.
"""

import os
import re
import time

import keras
import numpy as np
import pytest

from tests.distributed.launching import (
    ROOT,
    launch,
    needs_horovod,
    needs_launcher,
)

SAME_AS_ONE = [
    "plain",
    "merging",
    "passes",
    "scaled",
    "saliency",
    "stripping",
]
OTHERS = ["normalized", "compressed", "demon"]


@pytest.fixture(autouse=True)
def _horovod():
    needs_horovod()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Trainings on one rank and on two; once, whoever of xdist is first."""
    needs_horovod()
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folders = {n: base / f"trained-{n}" for n in (1, 2)}
    done, failed = base / "trained-done", base / "trained-failed"
    try:
        folders[1].mkdir()
    except FileExistsError:  # Somebody is at it.
        while not done.exists():
            assert not failed.exists(), "it failed on another worker"
            time.sleep(0.5)
        return folders
    try:
        folders[2].mkdir()
        launch("training.py", folders[1], *SAME_AS_ONE)
        launch("training.py", folders[2], *SAME_AS_ONE, *OTHERS, ranks=2)
    except BaseException:
        failed.touch()
        raise
    done.touch()
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


@pytest.mark.parametrize("name", [*SAME_AS_ONE, *OTHERS])
def test_ranks_are_alike_after_several_removals(trained, name):
    found = load(trained[2], name, 2)
    assert found[0]["events"] >= 3
    if name == "stripping":
        # Ranks count activations each for itself; 8 variables of two layers.
        local = [
            key
            for key, value in found[0].items()
            if key.startswith("arr_")
            and not np.array_equal(value, found[1][key])
        ]
        assert 0 < len(local) <= 8
        assert_alike(found, but=local)
    else:
        assert found[0]["parameters"] < 4306
        assert_alike(found)


@pytest.mark.parametrize("name", SAME_AS_ONE)
def test_two_halves_are_one_whole(trained, name):
    """Two ranks with half batches, and one process with full ones."""
    two, (one,) = load(trained[2], name, 2)[0], load(trained[1], name, 1)
    assert one["parameters"] == two["parameters"]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
    for a, b in zip(arrays(one), arrays(two), strict=True):
        assert a.shape == b.shape
        if name != "stripping":
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    if name == "stripping":
        for key in ("arr_0", "arr_1"):  # Kernel and bias of the first layer.
            np.testing.assert_allclose(one[key], two[key], rtol=1e-3, atol=1e-4)


def test_statistics_are_those_of_all_data(trained):
    two, (one,) = load(trained[2], "plain", 2)[0], load(trained[1], "plain", 1)
    assert two["count"] == one["count"] == 480
    np.testing.assert_allclose(two["mean"], one["mean"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        two["variance"], one["variance"], rtol=1e-3, atol=1e-5
    )


def test_recalibration_is_by_all_data(trained):
    for found in load(trained[2], "normalized", 2):
        assert found["samples"] == 480
        inputs = found["inputs"].astype("float64")
        for name, expected in [
            ("moving_mean", inputs.mean(axis=0)),
            ("moving_variance", inputs.var(axis=0)),
        ]:
            np.testing.assert_allclose(found[name], expected, rtol=1e-4)


def test_bytes_fall_with_the_parameters(trained):
    """Each parameter is a float32; by fp16 it travels in two bytes."""
    for name, width in (("plain", 4), ("compressed", 2)):
        found = load(trained[2], name, 2)[0]["bytes"]
        sent, left = found[:, 0], found[:, 1]
        assert sent[0] == width * 4306
        # What is left at the end of an epoch is what travels in the next.
        np.testing.assert_array_equal(sent[1:], width * left[:-1])
        assert sent[-1] < sent[0] / 2


def test_files_load_without_horovod(trained):
    for name in ("plain", "scaled", "passes"):
        model = keras.saving.load_model(trained[2] / f"{name}.keras")
        found = load(trained[2], name, 2)[0]
        for a, b in zip(model.variables, arrays(found), strict=False):
            np.testing.assert_array_equal(a.numpy(), b)
        model.fit(np.zeros((4, 16)), np.zeros((4, 2)), verbose=0)


def test_three_ranks_under_mpi(tmp_path):
    needs_launcher("mpi")
    launch("training.py", tmp_path, "plain", "merging", ranks=3, launcher="mpi")
    for name in ("plain", "merging"):
        found = load(tmp_path, name, 3)
        assert found[0]["events"] == 3
        assert_alike(found)


def test_ranks_that_differ_are_told():
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
        assert f"{rank} dataset: {[rank, rank + 3, rank + 6]}" in said


@pytest.mark.parametrize(
    ("launcher", "how", "error"),
    [
        ("gloo", "raise", "MemoryError: planted"),
        ("gloo", "kill", "Exit code: 137"),
        ("gloo", "hang", "Rank 0 of 2: waited for 9 seconds"),
        ("mpi", "kill", "exited on signal 9"),
        ("mpi", "freeze", "Rank 0 of 2: waited for 9 seconds"),
    ],
)
def test_a_rank_that_fails_ends_the_job(launcher, how, error):
    needs_launcher(launcher)
    done = launch("failing.py", how, 6, ranks=2, launcher=launcher, check=False)
    assert done.returncode != 0
    assert "FAILING" in done.stdout
    assert "FINISHED" not in done.stdout
    assert error in done.stdout, done.stdout[-6000:]


def test_resumed_after_a_kill_is_uninterrupted(tmp_path):
    """Though the model has shrunk, and only rank 0 has the file."""
    broken = launch("resuming.py", tmp_path, "break", ranks=2, check=False)
    assert broken.returncode != 0
    model = keras.saving.load_model(tmp_path / "run.keras")
    launch("resuming.py", tmp_path, "resume", ranks=2)
    resumed, whole = (load(tmp_path, n, 2) for n in ("resumed", "whole"))
    assert resumed[0]["first"] == 3
    assert whole[0]["events"] == resumed[0]["events"] == 3
    assert whole[0]["parameters"] < model.count_params()  # It went on.
    assert_alike([*resumed, *whole], but=["first"])


@pytest.mark.parametrize("launcher", ["gloo", "mpi", "python"])
def test_the_example(launcher, tmp_path):
    needs_launcher(launcher)
    done = launch(
        ROOT / "examples" / "horovod_mnist.py",
        "--dataset=digits",
        "--epochs=4",
        f"--checkpoint={tmp_path / 'run.keras'}",
        ranks=1 if launcher == "python" else 2,
        launcher=launcher,
    )
    assert done.stdout.count("test accuracy") == 1, done.stdout[-6000:]
    assert (tmp_path / "run.keras").exists()

"""Starts scripts on several processes, by Horovod's launcher or by MPI."""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import pytest

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "gloo": ("horovodrun", "--gloo"),
    "mpi": ("mpirun",),
}


def missing() -> str:
    """Why there is no Horovod; `""` where there is."""
    if importlib.util.find_spec("horovod") is None:
        return "Horovod is not installed: `make horovod` builds it"
    return ""


def needs_horovod() -> None:
    """Skips a test where it cannot run; on CI that fails instead."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Horovod runs on the TensorFlow backend alone")
    if missing():
        if os.environ.get("CI"):
            pytest.fail(missing())
        pytest.skip(missing())


def needs_launcher(launcher: str) -> None:
    """Skips a test of MPI where there is none."""
    needs_horovod()
    if launcher != "mpi":
        return
    if shutil.which("mpirun") is None:
        pytest.skip("No MPI here: apt-get install libopenmpi-dev openmpi-bin")
    if not _built_with_mpi():
        pytest.skip("Horovod was built without MPI: `make horovod` again")


@functools.cache
def _built_with_mpi() -> bool:
    horovodrun = Path(sys.executable).parent / "horovodrun"
    built = subprocess.run(
        [horovodrun, "--check-build"], capture_output=True, text=True
    )
    return "[X] MPI" in built.stdout


def environment() -> dict[str, str]:
    folder = str(Path(sys.executable).parent)
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {
        **os.environ,
        **dict.fromkeys(threads, "1"),
        "PATH": os.pathsep.join([folder, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # As root in a container, with more processes than cores.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }


def launch(
    script: str | Path,
    *arguments: object,
    ranks: int = 1,
    launcher: str = "gloo",
    check: bool = True,
    seconds: float = 240,
) -> subprocess.CompletedProcess:
    """Runs a script of `scripts/` on so many processes; 1 is plain Python.

    Args:
        script: Name of the script, or its path.
        arguments: Its arguments.
        ranks: How many processes.
        launcher: `"gloo"` or `"mpi"`.
        check: Whether it must succeed.
        seconds: After which the test fails: a job must end by itself.
    """
    command: Sequence[str] = ()
    if ranks > 1:
        command = (*LAUNCHERS[launcher], "-np", str(ranks))
    done = subprocess.run(
        [*command, sys.executable, str(SCRIPTS / script), *map(str, arguments)],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    if check:
        assert done.returncode == 0, done.stdout[-6000:]
    return done

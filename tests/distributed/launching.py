"""Starts scripts on several processes, by what connects them on a backend."""

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

from tests import processes
from tests.processes import ROOT

SCRIPTS = Path(__file__).parent / "scripts"
BACKEND = keras.backend.backend()
# The command that starts several processes, and how it is told how many.
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node")
LAUNCHERS = {
    "gloo": ("horovodrun", "--gloo", "-np"),
    "mpi": ("mpirun", "-np"),
    "torchrun": TORCHRUN,
    # It starts all ranks again when one fails.
    "elastic": (TORCHRUN[0], "--max-restarts=1", *TORCHRUN[1:]),
    "jax": (sys.executable, str(SCRIPTS / "start_jax.py")),
}
# What it puts before a script.
BEFORE = {"gloo": [sys.executable], "mpi": [sys.executable]}
BY_BACKEND = {"tensorflow": "gloo", "torch": "torchrun", "jax": "jax"}


def missing() -> str:
    """Why there is no Horovod; `""` where there is."""
    if importlib.util.find_spec("horovod") is None:
        return "Horovod is not installed: `make horovod` builds it"
    return ""


def needs_engine() -> None:
    """Skips a test where nothing connects processes; on CI that fails."""
    if BACKEND != "tensorflow" or not missing():
        return
    if os.environ.get("CI"):
        pytest.fail(missing())
    pytest.skip(missing())


def needs_launcher(launcher: str) -> None:
    """Skips a test of MPI where there is none."""
    needs_engine()
    if launcher in ("gloo", "mpi") and BACKEND != "tensorflow":
        pytest.skip("Horovod runs on the TensorFlow backend")
    if launcher != "mpi":
        return
    if shutil.which("mpirun") is None:
        pytest.skip("No MPI here: apt-get install libopenmpi-dev openmpi-bin")
    if not _built_with_mpi():
        pytest.skip("Horovod was built without MPI: `make horovod` again")


@functools.cache
def _built_with_mpi() -> bool:
    script = "import horovod.tensorflow as hvd; print(hvd.mpi_built())"
    asked = processes.output_of(script, check=False)
    return asked.split()[-1:] == ["True"]


def environment(devices: int = 1) -> dict[str, str]:
    folder = str(Path(sys.executable).parent)
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return {
        **processes.environment(),
        **dict.fromkeys(threads, "1"),
        "XLA_FLAGS": flags,
        "DEVICES": str(devices),
        "PATH": os.pathsep.join([folder, os.environ["PATH"]]),
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
    devices: int = 1,
    launcher: str = "",
    check: bool = True,
    seconds: float = 240,
) -> subprocess.CompletedProcess:
    """Runs a script of `scripts/` on so many processes; 1 is plain Python.

    Args:
        script: Name of the script, or its path.
        arguments: Its arguments.
        ranks: How many processes.
        devices: How many virtual devices each has.
        launcher: One of `LAUNCHERS`; by default that of the backend.
        check: Whether it must succeed.
        seconds: After which the test fails: a job must end by itself.
    """
    command: Sequence[str] = (sys.executable,)
    if ranks > 1:
        launcher = launcher or BY_BACKEND[BACKEND]
        command = (*LAUNCHERS[launcher], str(ranks), *BEFORE.get(launcher, ()))
    done = subprocess.run(
        [*command, str(SCRIPTS / script), *map(str, arguments)],
        env=environment(devices),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    if check:
        assert done.returncode == 0, done.stdout[-6000:]
    return done

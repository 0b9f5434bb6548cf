"""Python in a process of its own, where a test needs a fresh one."""

import os
import subprocess
import sys
from pathlib import Path

import keras

ROOT = Path(__file__).parents[1]


def environment(**settings: str) -> dict[str, str]:
    """Returns the environment of a process, with settings on top of ours.

    It finds this package and its tests, and TensorFlow only if that is its
    backend.
    """
    found = {"KERAS_BACKEND": keras.backend.backend(), **settings}
    paths = [str(ROOT)]
    if found["KERAS_BACKEND"] != "tensorflow":
        paths.insert(0, str(ROOT / "tests" / "without_tensorflow"))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **found}


def output_of(
    script: str, *arguments: object, check: bool = True, **settings: str
) -> str:
    """Returns what a script prints, which must succeed if `check`."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(**settings),
        capture_output=True,
        text=True,
    )
    assert not (check and done.returncode), done.stderr[-6000:]
    return done.stdout

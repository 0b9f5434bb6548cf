"""Builds and installs Horovod: `python -m keras_apoptosis.distributed.install`.

Horovod 0.28.1, of 2023, is the last release. Its source package does not build
against current versions of TensorFlow until one line is removed from its build
description; this is done here on an unpacked copy. Gloo is always built in;
MPI and NCCL where they are found.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

VERSION = "0.28.1"
# What Horovod's setup.py and launcher import, and declare only in part.
# setuptools provides `distutils`, which Python 3.12 no longer has.
NEEDED = ("cffi", "cloudpickle", "packaging", "psutil", "pyyaml")
BUILD = ("setuptools", "wheel")
# Programs that the build needs, and the Debian packages that have them.
TOOLS = {"g++": "g++", "cmake": "cmake", "make": "make"}
# What is replaced in the source package: file, text, new text.
EDITS = (
    # The ops for XLA are optional, and their source includes headers that
    # TensorFlow no longer ships. Horovod's other ops do not refer to them.
    (
        "horovod/tensorflow/CMakeLists.txt",
        "list(APPEND TF_SOURCES "
        '"${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n',
        "",
    ),
    # The same code without debug symbols, which take a third of the time.
    ("setup.py", "'RelWithDebInfo'", "'Release'"),
)
MPI_HINT = "apt-get install libopenmpi-dev openmpi-bin"


class Failure(Exception):
    """Stops the installation, with a message for people."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Installs Horovod, from the wheel of an earlier build if there is one.

    Args:
        arguments: The command line; `None` for that of this process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m keras_apoptosis.distributed.install",
        description="Builds Horovod against the installed TensorFlow.",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        default=Path(sys.prefix) / "horovod",
        help="where built wheels are kept, and looked for (%(default)s)",
    )
    wheels = parser.parse_args(arguments).wheels
    try:
        tensorflow = _tensorflow()
        features = _features()
        name = "-".join([f"tensorflow{tensorflow}", *sorted(features)])
        folder = wheels / name
        print(f"Horovod {VERSION} for {name}", flush=True)
        wheel = next(folder.glob("horovod-*.whl"), None)
        if wheel is None:
            wheel = _build(folder, features)
        _run(_pip("install", "--force-reinstall", "--no-deps", str(wheel)))
        _run(_pip("install", *BUILD, *NEEDED))
    except Failure as failure:
        print(f"\nHorovod was not installed. {failure}", file=sys.stderr)
        return 1
    return subprocess.run(
        [Path(sys.executable).parent / "horovodrun", "--check-build"]
    ).returncode


def patch(source: Path) -> None:
    """Edits Horovod so that it builds, and builds faster.

    Args:
        source: The unpacked source package.

    Raises:
        Failure: If what is edited is not where it is in 0.28.1.
    """
    for name, old, new in EDITS:
        file = source / name
        text = file.read_text()
        if text.count(old) != 1:
            raise Failure(
                f"Expected `{old.strip()}` once in {file}. Received: "
                f"{text.count(old)} of them"
            )
        file.write_text(text.replace(old, new))


def _tensorflow() -> str:
    for name in ("tensorflow", "tensorflow-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise Failure(
        "Horovod is built against TensorFlow, which is not installed for "
        f"{sys.executable}. Install `keras-apoptosis[tensorflow]` first."
    )


def _features() -> dict[str, dict[str, str]]:
    """Returns what to build in beside Gloo, with the settings for it."""
    found = {}
    if shutil.which("mpicxx"):
        found["mpi"] = {"HOROVOD_WITH_MPI": "1"}
    else:
        print(f"Building without MPI (no mpicxx found). To add it: {MPI_HINT}")
        found["nompi"] = {"HOROVOD_WITHOUT_MPI": "1"}
    home = os.environ.get("HOROVOD_NCCL_HOME", "/usr")
    headers = (Path(home) / "include" / "nccl.h").exists()
    if shutil.which("nvcc") and headers:
        found["nccl"] = {"HOROVOD_GPU_OPERATIONS": "NCCL"}
    else:
        print(
            "Building without NCCL, for CPUs (no nvcc found, or no nccl.h in "
            f"HOROVOD_NCCL_HOME={home})"
        )
    return found


def _build(folder: Path, features: dict[str, dict[str, str]]) -> Path:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        packages = " ".join(TOOLS[tool] for tool in missing)
        raise Failure(
            f"Building Horovod needs {', '.join(missing)}. On "
            f"Debian and Ubuntu: apt-get install {packages}"
        )
    settings = {
        "HOROVOD_WITH_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_PYTORCH": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
        # Its third-party parts ask for policies that CMake 4 removed.
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
        "MAKEFLAGS": f"-j{os.cpu_count()}",
    }
    for each in features.values():
        settings.update(each)
    _run(_pip("install", *BUILD, *NEEDED))
    print("Building; this takes a few minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="horovod-") as temporary:
        # Without isolation: the build must see the installed TensorFlow.
        here = ("--no-deps", "--no-build-isolation")
        package = f"horovod=={VERSION}"
        source = ("--no-binary", ":all:", "--dest", temporary)
        _run(_pip("download", *here, *source, package), settings)
        archive = Path(temporary) / f"horovod-{VERSION}.tar.gz"
        with tarfile.open(archive) as opened:
            opened.extractall(temporary, filter="data")
        unpacked = Path(temporary) / f"horovod-{VERSION}"
        patch(unpacked)
        folder.mkdir(parents=True, exist_ok=True)
        _run(
            _pip("wheel", *here, "--wheel-dir", str(folder), str(unpacked)),
            settings,
        )
    return next(folder.glob("horovod-*.whl"))


def _pip(command: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--quiet", *arguments]


def _run(
    command: Sequence[str], settings: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **(settings or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        said = "\n".join(done.stdout.splitlines()[-40:])
        raise Failure(
            f"`{' '.join(map(str, command))}` failed. The end of its output:\n"
            f"{said}\n"
            "If the compiler was killed, memory is short: set MAKEFLAGS=-j1. "
            "If headers of TensorFlow are missing, its release is newer than "
            "those tested: try tensorflow 2.21."
        )


if __name__ == "__main__":
    sys.exit(main())

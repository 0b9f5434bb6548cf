"""Checks what is shipped: the version, and the source distribution."""

import importlib.metadata
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import keras_apoptosis as ka

ROOT = Path(__file__).parents[1]
BUILD = """
import sys, setuptools.build_meta
print(setuptools.build_meta.build_sdist(sys.argv[1]))
"""


def output(command: list[str], folder: Path) -> str:
    ran = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    )
    return ran.stdout


def test_the_version_is_the_one_that_is_installed() -> None:
    assert importlib.metadata.version("keras-apoptosis") == ka.__version__


def test_the_version_is_the_one_that_is_cited() -> None:
    lines = (ROOT / "CITATION.cff").read_text().split("\n")
    assert f"version: {ka.__version__}" in lines


def test_the_source_distribution_holds_every_tracked_file(
    tmp_path: Path,
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    tracked = output(["git", "ls-files"], ROOT).split("\n")
    tracked = [name for name in tracked if (ROOT / name).is_file()]
    # In a copy, so that nothing is written beside the sources.
    copy = tmp_path / "copy"
    for name in tracked:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())

    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    built = output(command, copy).split()[-1]
    with tarfile.open(tmp_path / built) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}

    assert set(tracked) - shipped == {".gitignore"}

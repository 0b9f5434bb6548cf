"""Checks names: the reference has all of them, and documents no others."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import keras_apoptosis as ka

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/reference"
DOCUMENTED = [
    name.split(".")[1:]
    for page in sorted(PAGES.glob("*.md"))
    for name in re.findall(r"^::: (\S+)", page.read_text(), re.MULTILINE)
]
MODULES = [ka] + [
    getattr(ka, name)
    for name in ka.__all__
    if isinstance(getattr(ka, name), ModuleType)
]


def found(path: list[str]) -> Any:
    value: Any = ka
    for name in path:
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_on_a_page(module: ModuleType) -> None:
    """Once, under any of its names: `ka.flops` is `ka.accounting.flops`."""
    documented = {id(found(path)) for path in DOCUMENTED}
    missing = [
        name
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
        and id(getattr(module, name)) not in documented
    ]
    assert not missing


def test_no_name_is_there_twice() -> None:
    values = [id(found(path)) for path in DOCUMENTED]
    assert len(values) == len(set(values))


DOCUMENTS = [
    *PAGES.parent.rglob("*.md"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_documents_name_what_the_package_has(page: Path) -> None:
    """In prose and code; the changelog alone has names of old."""
    names = set(re.findall(r"(?<!/)\bka((?:\.[A-Za-z]\w*)+)", page.read_text()))
    for name in sorted(names):
        found(name.split(".")[1:])

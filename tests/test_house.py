"""Checks how the package is built: the arrows, and Keras' private state."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "keras_apoptosis"
# A folder imports only from folders that come before it.
ORDER = (
    "utils",
    "backend",
    "distributed",
    "schedules",
    "layers",
    "graph",
    "statistics",
    "training",
    "surgery",
    "accounting",
    "targets",
    "criteria",
    "selection",
    "callbacks",
)
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
# Private names that are neither Keras' nor a class' own.
ALLOWED = {"_exit"}  # of `os`


def folder_of(path: Path) -> str:
    """The first folder inside the package; `""` for its `__init__`."""
    return path.relative_to(ROOT).parts[0] if path.parent != ROOT else ""


def imported(node: ast.AST) -> list[str]:
    """Full names of the modules, or of what is in them, that are imported."""
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return []


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        for name in imported(node):
            yield node.lineno, name


def test_every_folder_has_its_place() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(ORDER)
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("folder", ORDER)
def test_arrows_go_one_way(folder: str) -> None:
    allowed = ORDER[: ORDER.index(folder) + 1]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in TREES.items()
        if folder_of(path) == folder
        for line, name in imports(tree)
        if name.startswith("keras_apoptosis")
        and (name + ".").split(".")[1] not in allowed
    ]
    assert not wrong


def test_no_import_hides_in_a_function() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for line, name in imports(function)
        if name.startswith("keras_apoptosis")
    ]
    assert not wrong


def test_nothing_heavy_is_imported_with_the_package() -> None:
    """What Keras does not import itself is loaded where it is used."""
    light = {"__future__", "keras", "keras_apoptosis", "numpy", "rich"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
        for path, tree in TREES.items()
        for node in tree.body
        for name in imported(node)
        if name.split(".")[0] not in light | sys.stdlib_module_names
        or name.startswith("rich.progress")
    ]
    assert not wrong


def test_only_the_backend_imports_what_keras_hides() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, tree in TREES.items()
        if folder_of(path) != "backend"
        for line, name in imports(tree)
        if name.startswith("keras.src")
    ]
    assert not wrong


def test_only_the_backend_touches_private_attributes() -> None:
    """Others read private names of `self` and of the classes of their file."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} touches {name}"
        for path, tree in TREES.items()
        if folder_of(path) != "backend"
        for line, name in private_names(tree)
    ]
    assert not wrong


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Private attributes that no class of the file sets or defines.

    Names as text count, too, as in `getattr(layer, "_kernel")`.
    """
    own = set(ALLOWED)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                own |= names_that_it_defines(inner)
    for node in ast.walk(tree):
        for owner, name in names_that_it_touches(node):
            private = re.fullmatch(r"_[a-z]\w*", name) is not None
            mine = owner in ("self", "cls", "super()") or name in own
            if private and not mine:
                yield node.lineno, name


def names_that_it_touches(node: ast.AST) -> list[tuple[str, str]]:
    """An object and the name of its attribute, if that is what a node is."""
    if isinstance(node, ast.Attribute):
        return [(ast.unparse(node.value), node.attr)]
    if isinstance(node, ast.Call) and "attr" in ast.unparse(node.func):
        return [
            (ast.unparse(node.args[0]), argument.value)
            for argument in node.args[1:]
            if isinstance(argument, ast.Constant)
            and isinstance(argument.value, str)
        ]
    return []


def names_that_it_defines(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        return {node.attr} if ast.unparse(node.value) == "self" else set()
    return set()


def test_the_check_of_private_names_finds_them() -> None:
    tree = ast.parse(
        """
class Own:
    _noted: int
    def _helper(self): self._kept = self._keras_thing
    def merge(self, other): return other._kept, other._helper, other._noted
layer._kernel
getattr(layer, "_dense")
_mask_of(layer).mask
path.endswith("_mask")
"""
    )
    found = [name for _, name in private_names(tree)]
    assert sorted(found) == ["_dense", "_kernel"]


DOCUMENTS = [
    *(ROOT.parent / "docs").rglob("*.md"),
    *ROOT.parent.glob("*.md"),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_what_exists(path: Path) -> None:
    """Files of the repository, tests, and documents that are linked."""
    text = path.read_text()
    for name in re.findall(r"`((?:tests|examples|benchmarks)/[\w/.]+)`", text):
        assert (ROOT.parent / name).exists(), name
    for name in re.findall(r"`(keras_apoptosis/[\w/.]+)`", text):
        assert (ROOT.parent / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text):
        assert (path.parent / name).exists(), name
    tests = "".join(
        each.read_text() for each in (ROOT.parent / "tests").rglob("*.py")
    )
    for name in re.findall(r"`(test_\w+|Test\w+)`", text):
        assert re.search(rf"(def|class) {name}\b", tests), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_of_documents_are_short(path: Path) -> None:
    """Except rows of tables and addresses."""
    long = [
        line
        for line in path.read_text().splitlines()
        if len(line) > 100 and line[0] != "|" and "https://" not in line
    ]
    assert not long


# First words of a phrase that says what a thing is, not what it does.
NO_VERBS = re.compile(
    r"(What|Who|How|Whether|Which|Where|When|Why|The|A|An|All|Those|Each|It)\b"
)


def docstrings() -> Iterator[tuple[str, str, bool]]:
    """Places, docstrings, and whether they are those of a function."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(
                node, ast.FunctionDef | ast.ClassDef | ast.Module
            ):
                continue
            text = ast.get_docstring(node)
            if text is None:
                continue
            does = isinstance(node, ast.FunctionDef) and not any(
                "property" in ast.unparse(each) for each in node.decorator_list
            )
            line = getattr(node, "lineno", 1)
            yield f"{path.relative_to(ROOT)}:{line} {text[:60]}", text, does


def test_docstrings_begin_with_a_verb() -> None:
    """Of functions; those of classes, modules and properties name a thing."""
    wrong = [
        place
        for place, text, does in docstrings()
        if (does and not re.match(r"[A-Z][a-z]+s\b", text))
        or (does and NO_VERBS.match(text))
        or re.match(r"(What|Who|How|Whether|Which|Why)\b", text)
    ]
    assert not wrong

"""Tests the tests: changes one thing in the package, and sees who notices.

    KERAS_BACKEND=torch python -m tests.mutation --mutants 10 --seed 0 > lived
    KERAS_BACKEND=torch python -m tests.mutation --mutants 10 --seed 0 \
        --again lived  # Once there are tests for them.

For each file of `TARGETS` it draws some mutants: a comparison is turned
around, `and` becomes `or`, a number grows by one, a statement is dropped, and
so on. Of the tests in the file's row those run that reach the line; a first
run under `sys.settrace` notes which they are. A mutant is killed if one of them
fails, or if they take far too long. The others are printed as a difference:
either a test is missing, or the mutant is equivalent. Equivalent ones belong in
`tests/mutation_equivalents.txt`, each after a comment with the reason.

Nothing is written: each mutant lives in a process of its own, which is forked
after Keras was imported. It takes a system with `fork`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import difflib
import importlib.abc
import importlib.machinery
import importlib.util
import math
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_apoptosis"
EQUIVALENTS = Path(__file__).parent / "mutation_equivalents.txt"

SHRINK = "tests/surgery/test_shrink.py"
EVERY = "tests/surgery/test_every_layer.py"
CONVERSION = "tests/surgery/test_conversion.py"
METHODS = (
    "saliency_pruning",
    "neuron_apoptosis",
    "demon_pruning",
    "synaptic_stripping",
)
# What is mutated (files or folders of the package), and the tests for it, in
# the order in which they run: quick ones first.
TARGETS: dict[str, tuple[str, ...]] = {
    "graph": (
        "tests/graph",
        SHRINK,
        EVERY,
        "tests/surgery/test_random_architectures.py",
        CONVERSION,
        "tests/statistics",
        "tests/criteria",
    ),
    "surgery": (
        SHRINK,
        CONVERSION,
        "tests/surgery/test_training.py",
        "tests/surgery/test_subclassed.py",
        "tests/surgery/test_non_trainable.py",
        "tests/surgery/test_absorption.py",
        "tests/surgery/test_parts.py",
        "tests/surgery/test_saving.py",
        "tests/surgery/test_followers.py",
        "tests/surgery/test_snapshot.py",
        "tests/test_bad_input.py",
        EVERY,
    ),
    "selection": (
        "tests/selection",
        "tests/callbacks/test_limit.py",
        "tests/callbacks/test_target.py",
        "tests/test_bad_input.py",
        *(f"tests/callbacks/test_{name}.py" for name in METHODS),
    ),
    "criteria": (
        "tests/criteria",
        "tests/test_bad_input.py",
        "tests/callbacks/test_saliency_pruning.py",
    ),
    "callbacks/pruning_callback.py": (
        "tests/outside/test_own_method.py",
        "tests/callbacks/test_limit.py",
        "tests/callbacks/test_neuron_apoptosis.py",
        "tests/callbacks/test_saliency_pruning.py",
        "tests/callbacks/test_target.py",
        "tests/callbacks/test_recalibrates.py",
        "tests/callbacks/test_checkpoint.py",
        "tests/test_bad_input.py",
    ),
    **{
        f"callbacks/{name}.py": (
            f"tests/callbacks/test_{name}.py",
            "tests/callbacks/test_limit.py",
            "tests/callbacks/test_target.py",
            "tests/callbacks/test_checkpoint.py",
            "tests/test_bad_input.py",
        )
        for name in METHODS
    },
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
# What may be dropped. Of expressions those that are no docstrings.
STATEMENTS = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become."""

    def altered(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield altered(ops=[COMPARISONS[type(node.ops[0])]()])
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield altered(op=other)
        for dropped in range(len(node.values)):
            rest = [v for n, v in enumerate(node.values) if n != dropped]
            yield rest[0] if len(rest) == 1 else altered(values=rest)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield altered(op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield altered(test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Return) and node.value is not None:
        if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, STATEMENTS) and not isinstance(
        getattr(node, "value", None), ast.Constant
    ):
        yield ast.Pass()
    elif isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        first = node.generators[0]
        if first.ifs:
            yield altered(
                generators=[
                    ast.comprehension(first.target, first.iter, [], 0),
                    *node.generators[1:],
                ]
            )


def mutable(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes to change: not annotations, messages of errors or decorators."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Raise):
            parts = [node.exc]
        elif isinstance(node, ast.JoinedStr):
            parts = [node]
        elif isinstance(node, ast.AnnAssign | ast.arg):
            parts = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            parts = [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            parts = [*node.decorator_list]
        elif isinstance(node, ast.Subscript):
            # `tuple[int, ...]` in an assignment of a type.
            parts = []
        for part in parts:
            if part is not None:
                skipped.update(map(id, ast.walk(part)))
        if id(node) not in skipped and hasattr(node, "lineno"):
            yield node


def mutants(source: str) -> list[tuple[range, str]]:
    """All mutants of a file: the lines that change, and the whole text."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()
    found = []
    for node in mutable(tree):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        for new in changes(node):
            if isinstance(new, ast.If | ast.While):
                # Only the condition is written anew, not the body.
                test = node.test
                begin = starts[test.lineno - 1] + test.col_offset
                end = starts[test.end_lineno - 1] + test.end_col_offset
                new = new.test
            text = ast.unparse(ast.fix_missing_locations(new))
            if isinstance(new, ast.expr):
                text = f"({text})"
            mutant = (raw[:begin] + text.encode() + raw[end:]).decode()
            with contextlib.suppress(SyntaxError):
                ast.parse(mutant)
                lines = range(node.lineno, (node.end_lineno or 0) + 1)
                found.append((lines, mutant))
    return found


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another text than its file's."""

    def __init__(self, path: Path, source: str):
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.path, self.source = path, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(
            name,
            self.path,
            loader=self,
            submodule_search_locations=(
                [str(self.path.parent)] if self.is_package else None
            ),
        )

    def exec_module(self, module: Any) -> None:
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def in_child(work: Callable[[], int], limit: float) -> int | None:
    """Runs a function in a fork, and returns its exit status.

    `None` if it took longer than the limit.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os._exit(work())
    stop = time.monotonic() + limit
    while time.monotonic() < stop:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def pytest_on(tests: Sequence[str], plugins: Sequence[Any] = ()) -> int:
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main([*options, *tests], plugins=plugins))


class Reached:
    """Notes which lines of the package each test reaches, and its seconds."""

    def __init__(self) -> None:
        self.lines: dict[str, set[tuple[str, int]]] = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        lines = self.lines.setdefault(item.nodeid, set())
        folder = str(PACKAGE)

        def enter(frame: Any, event: str, argument: Any) -> Any:
            name = frame.f_code.co_filename
            if not name.startswith(folder):
                return None

            def line(frame: Any, event: str, argument: Any) -> Any:
                lines.add((name, frame.f_lineno))
                return line

            lines.add((name, frame.f_lineno))
            return line

        start = time.monotonic()
        sys.settrace(enter)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.monotonic() - start


def reached_by(tests: Sequence[str]) -> Reached:
    """Runs tests, and returns what each of them reaches.

    Raises:
        RuntimeError: If one of them fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reached"

        def work() -> int:
            noted = Reached()
            code = pytest_on(tests, [noted])
            file.write_bytes(pickle.dumps((noted.lines, noted.seconds)))
            return code

        if in_child(work, math.inf) != 0:
            raise RuntimeError(f"Tests fail on the package as it is: {tests}")
        noted = Reached()
        noted.lines, noted.seconds = pickle.loads(file.read_bytes())
    return noted


def tests_of(
    noted: Reached, path: Path, lines: range, tests: Sequence[str]
) -> tuple[list[str], float]:
    """The tests that reach some lines, quick ones first, and their seconds.

    All of them for lines that run when the package is imported.
    """
    wanted = {(str(path), line) for line in lines}
    found = [name for name, each in noted.lines.items() if each & wanted]
    if not found and not inside_function(path, lines.start):
        return list(tests), sum(noted.seconds.values())
    found.sort(key=noted.seconds.__getitem__)
    return found, sum(noted.seconds[name] for name in found)


def inside_function(path: Path, line: int) -> bool:
    return any(
        isinstance(node, ast.FunctionDef)
        and node.body[0].lineno <= line <= (node.end_lineno or 0)
        for node in ast.walk(ast.parse(path.read_text()))
    )


def equivalents() -> set[str]:
    """Keys of the mutants that are known to change nothing."""
    if not EQUIVALENTS.exists():
        return set()
    lines = EQUIVALENTS.read_text().splitlines()
    return {line for line in lines if line.startswith("keras_apoptosis/")}


def key_of(path: Path, before: str, after: str) -> str:
    """A mutant as one line: the file, and the lines that differ."""
    found = [
        f"{line[0]} {line[1:].strip()}"
        for line in difflib.ndiff(before.splitlines(), after.splitlines())
        if line[0] in "+-"
    ]
    return f"{path.relative_to(ROOT)}: {' '.join(found)}"


def files_of(target: str) -> list[Path]:
    path = PACKAGE / target
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def main() -> None:
    """Draws mutants, runs them, and prints those that live."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=8, help="of each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a file's path")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--again", help="what an earlier run printed: only those that lived"
    )
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    import keras
    import scipy.linalg  # noqa: F401
    import sklearn.datasets  # noqa: F401

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    known = equivalents()
    rng = random.Random(arguments.seed)
    chosen = []
    for target, tests in TARGETS.items():
        for path in files_of(target):
            source = path.read_text()
            found = mutants(source)
            drawn = rng.sample(found, min(arguments.mutants, len(found)))
            if arguments.again:
                drawn = found
            if arguments.only in str(path):
                chosen += [(path, source, *each, tests) for each in drawn]
    if arguments.again:
        lines = Path(arguments.again).read_text().splitlines()
        lived = {line.strip() for line in lines}
        chosen = [
            each
            for each in chosen
            if key_of(each[0], each[1], each[3]) in lived
        ]
    rng.shuffle(chosen)  # So that a run that is cut short saw all files.
    begin = time.monotonic()
    count = {"killed": 0, "survived": 0, "equivalent": 0}
    noted: dict[tuple[str, ...], Reached] = {}
    for path, source, lines, mutant, tests in chosen:
        if time.monotonic() - begin > 60 * arguments.minutes:
            print("Out of time.")
            break
        key = key_of(path, source, mutant)
        if key in known:
            count["equivalent"] += 1
            continue
        if tests not in noted:
            noted[tests] = reached_by(tests)
        names, seconds = tests_of(noted[tests], path, lines, tests)

        def work(path=path, mutant=mutant, names=names) -> int:
            sys.meta_path.insert(0, Mutated(path, mutant))
            return pytest_on(names)

        survived = not names or in_child(work, 60 + 5 * seconds) == 0
        count["survived" if survived else "killed"] += 1
        if survived:
            where = f"{path.relative_to(ROOT)}:{lines.start}"
            print(f"{where} ({len(names)} tests)\n  {key}", flush=True)
    print(
        f"{sum(count.values())} of {len(chosen)} mutants: "
        + ", ".join(f"{value} {name}" for name, value in count.items())
    )
    dead, alive = count["killed"], count["survived"]
    print(f"score: {dead / max(1, dead + alive):.1%} of those not equivalent")


if __name__ == "__main__":
    main()

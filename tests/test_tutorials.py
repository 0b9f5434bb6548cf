"""Every tutorial is Python, and names only what the package makes public.

They run when the site is built: `make docs`.
"""

import ast
import re
from pathlib import Path

import keras
import pytest

import keras_apoptosis as ka

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.py"))


def cells(path):
    """The sources of its code cells."""
    for cell in re.split(r"^# %%\s*$", path.read_text(), flags=re.M)[1:]:
        code, *_ = re.split(r"^# %% ", cell, flags=re.M)
        yield code


def public_names(tree):
    """Dotted names that begin with `ka`, without those that they begin."""
    inner = {n.value for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in inner:
            name = ast.unparse(node)
            if re.fullmatch(r"ka(\.\w+)+", name):
                yield name


def anchors(text):
    """The anchors of a page's headings."""
    for heading in re.findall(r"^#+ (.*)", text, flags=re.M):
        yield re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="nothing is run on a backend"
)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_compiles_and_names_what_exists(path):
    trees = [ast.parse(code) for code in cells(path)]
    names = {name for tree in trees for name in public_names(tree)}
    assert names
    for name in names:
        _, *path_to_it = name.split(".")
        owner = ka
        for part in path_to_it:
            assert part in getattr(owner, "__all__", dir(owner)), name
            owner = getattr(owner, part)
    text = path.read_text()
    for link, anchor in re.findall(r"\]\(([\w./]+)#?([\w-]*)\)", text):
        linked = (path.parent / link).read_text()
        assert not anchor or anchor in anchors(linked), f"{link}#{anchor}"


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="nothing is run on a backend"
)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_figures_are_described_above_them(path):
    """The site makes alternative texts of `<!-- Figure: ... -->`."""
    text = re.sub(r"^# (?!%%)", "", path.read_text(), flags=re.M)
    _, *parts = re.split(r"^# %%(.*)$", text, flags=re.M)
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    for (kind, cell), (_, above) in zip(pairs[1:], pairs, strict=False):
        described = re.search(r"<!-- Figure: (.{40,}?) -->", above, re.DOTALL)
        plots = not kind.strip() and re.search(r"\bplot_\w+\(|\bplt\.", cell)
        plots = plots and not re.search(r"^import", cell, re.M)
        assert bool(plots) == bool(described), cell

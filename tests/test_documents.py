"""Runs the Python of README and docs as it stands, in the order of the page.

A page has one namespace, so what a block uses stands on the page before it.
Other blocks (`sh`, `text`) are only read. A block after `<!--- skip: next -->`,
which readers do not see, is left out.
"""

import re
from pathlib import Path

import keras
import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.region import Lexeme

ROOT = Path(__file__).parents[1]
SYBIL = Sybil([PythonCodeBlockParser(), SkipParser()])
BLOCK = re.compile(r"^\s*```python", re.MULTILINE)
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    if BLOCK.search(path.read_text())
}


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="pages are the same on every backend, and other tests cover what "
    "they call; PyTorch starts fastest",
)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_it_stands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # For the files that a page writes.
    document = SYBIL.parse(PAGES[page])
    examples = list(document.examples())
    blocks = [each for each in examples if isinstance(each.parsed, Lexeme)]
    assert len(blocks) == len(BLOCK.findall(document.text))
    for each in examples:
        each.evaluate()

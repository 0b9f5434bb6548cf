"""Makes the tables of pages of docs/results/ anew from the stored rows.

    python examples/results.py neuron_apoptosis

For each file of `examples/conf/` that names the page it says how long its
trainings take and how to run them. The rows in `docs/results/data/` become the
tables between `<!-- table -->` and `<!-- end -->` of the page, where `table`
is the file's name, and figures in `docs/figures/`.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from experiments import rows
from omegaconf import OmegaConf

CONF = Path(__file__).parent / "conf"
DOCS = Path(__file__).parents[1] / "docs"
DATA = DOCS / "results" / "data"
WIDTH = 100  # Of a line of Markdown.
PAGES = ("neuron_apoptosis", "synaptic_stripping", "saliency_pruning")
PAGES += ("demon_pruning",)


def tables_of(page: str) -> dict[str, Any]:
    """Returns the experiments whose rows a page shows, by table."""
    names = sorted(path.stem for path in CONF.glob("*.yaml"))
    return {
        name: module_of(name)
        for name in names
        if composed(name).get("page") == page
    }


def module_of(table: str) -> Any:
    """Returns the experiment whose rows a table shows."""
    name = composed(table)["experiment"]
    return importlib.import_module(f"experiments.{name}")


def rows_of(table: str, folder: Path = DATA) -> list[rows.Row]:
    """Returns the stored rows of a table.

    Settings that came later than a row have their defaults.
    """
    made = module_of(table).Config
    return [
        {**row, "config": rows.settings(made(**row["config"]))}
        for row in rows.read(folder / f"{table}.jsonl")
    ]


def composed(name: str) -> dict[str, Any]:
    """Returns a file's page and experiment, of what it extends if not its own.

    Hydra composes the rest.
    """
    own: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    found: dict[str, Any] = {}
    for each in own.pop("defaults", []):
        if isinstance(each, dict):
            found |= each
        elif each != "_self_":
            found |= composed(each)
    return {**found, **own}


def remade(text: str, table: str, found: list[rows.Row], module: Any) -> str:
    """Returns a page with a table anew."""
    mark = re.compile(rf"<!-- {table} -->\n.*?<!-- end -->", re.DOTALL)
    if not mark.search(text):
        raise ValueError(
            f"Expected `<!-- {table} -->` and `<!-- end -->` in a page of "
            f"which there are rows. Received: none in the page"
        )
    new = f"<!-- {table} -->\n{module.table(found)}\n\n{source(table, found)}"
    return mark.sub(lambda _: f"{new}\n<!-- end -->", text)


def source(table: str, found: list[rows.Row]) -> str:
    """Returns the lines under a table: from what it was made."""
    versions = {
        ", ".join(f"{k} {v}" for k, v in row["versions"].items())
        for row in found
    }
    dates = sorted({row["date"] for row in found})
    command = f"*`python examples/run.py -cn {table} --multirun`:"
    lasted = f"{duration(found)}."
    long = len(f"{command} {lasted}") > WIDTH
    return (
        command
        + ("\n" if long else " ")
        + f"{lasted}\n{'; '.join(sorted(versions))}.\n"
        f"{'; '.join(sorted({row['machine'] for row in found}))}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}.*"
    )


def duration(found: list[rows.Row]) -> str:
    """Returns how many trainings there are, and how long they took."""
    seconds = [row["run_seconds"] for row in found]
    return (
        f"{len(found)} trainings of {min(seconds):.0f} to "
        f"{max(seconds):.0f} s, {sum(seconds) / 60:.0f} min in all"
    )


def main(pages: list[str]) -> None:
    for name in pages or PAGES:
        page = DOCS / "results" / f"{name}.md"
        text = page.read_text()
        print(f"\n{page.relative_to(DOCS.parent)}")
        for table, module in tables_of(name).items():
            found = rows_of(table)
            print(f"{table}: {duration(found) if found else 'no rows yet'}")
            print(f"    python examples/run.py -cn {table} --multirun")
            if found:
                text = remade(text, table, found, module)
                if hasattr(module, "draw"):
                    module.draw(found, DOCS / "figures" / f"{table}.png")
        page.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])

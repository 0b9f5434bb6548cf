"""Rows of results: stored as JSON lines, shown as Markdown tables."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
# Where a value is found in a row, and how it is written.
Column = tuple[str | Callable[[Row], Any], str]


def read(path: Path) -> list[Row]:
    """Returns the rows of a file, which may not be there yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def append(path: Path, row: Row) -> None:
    """Adds a row to a file, to which other processes may add as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(short(row)) + "\n")


def short(value: Any) -> Any:
    """Returns plain data for JSON, with six digits of each number."""
    if isinstance(value, Mapping):
        return {str(key): short(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [short(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


def settings(config: Any) -> Row:
    """Returns what of a configuration has an influence on the result."""
    names = [each.name for each in dataclasses.fields(config) if each.compare]
    return {name: getattr(config, name) for name in names}


def varied(rows: list[Row]) -> list[str]:
    """Returns the settings in which rows differ, beside the seed."""
    names = dict.fromkeys(name for row in rows for name in row["config"])
    return [
        name
        for name in names
        if name != "seed"
        and len({repr(row["config"].get(name)) for row in rows}) > 1
    ]


def by_setting(rows: list[Row]) -> dict[tuple, list[Row]]:
    """Returns the rows of each setting, in the order of their seeds."""
    names, found = varied(rows), {}
    for row in sorted(rows, key=lambda row: row["config"]["seed"]):
        setting = tuple(row["config"].get(name) for name in names)
        found.setdefault(setting, []).append(row)
    return found


def markdown(
    rows: list[Row], columns: Mapping[str, Column], order: Any = None
) -> str:
    """Returns a table with a line for each setting.

    Args:
        rows: The rows.
        columns: By name: where to find a number in a row, a key or a function,
            and its format. `None` leaves a cell empty. Several seeds give the
            mean, and ± half of the range where the format has a `±`.
        order: A function of the rows of a setting, to sort by.
    """
    lines = [[*varied(rows), "seeds", *columns]]
    groups = list(by_setting(rows).items())
    if order is not None:
        groups.sort(key=lambda group: order(group[1]))
    for setting, mine in groups:
        cells = ["" if each is None else f"{each}" for each in setting]
        cells.append(str(len(mine)))
        for where, form in columns.values():
            get = where if callable(where) else (lambda row, k=where: row[k])
            cells.append(cell([get(row) for row in mine], form))
        lines.append(cells)
    return grid(lines)


def cell(values: list[Any], form: str) -> str:
    """Returns the mean of numbers, with half of their range for a `±`."""
    if any(value is None for value in values):
        return ""
    if isinstance(values[0], str):
        return values[0]
    plain = form.replace("±", "")
    text = f"{np.mean(values):{plain}}"
    if "±" in form and len(values) > 1:
        plain = plain.replace("+", "")
        text += f" ± {np.ptp(values) / 2:{plain}}"
    return text


def grid(lines: list[list[Any]]) -> str:
    """Returns a Markdown table of a header and lines."""
    header, *rest = lines
    rule = ["---"] * len(header)
    return "\n".join(
        f"| {' | '.join(map(str, line))} |" for line in (header, rule, *rest)
    )


def percent(name: str, form: str = "±.2f") -> Column:
    """Returns the column of a share, in percent."""
    return lambda row: 100 * row[name], form


def beside_plain(rows: list[Row]) -> list[Row]:
    """Returns the rows, each with the first `plain` one of its seed."""
    plain: dict[int, Row] = {}
    for row in rows:
        if row["config"]["method"] == "plain":
            plain.setdefault(row["config"]["seed"], row)
    return [{**row, "plain": plain.get(row["config"]["seed"])} for row in rows]

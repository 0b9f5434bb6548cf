"""Formats plain-text tables."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Formats a plain-text table.

    Args:
        header: Names of the columns. Columns of numbers are aligned right.
        rows: Cells, turned to text by `str`; numbers get thousands commas,
            those that are not whole three digits at least.

    Returns:
        The table, without a newline at its end.
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(header):
        column = [row[place] for row in cells]
        numbers = all(c[:1] in "+-0123456789" for c in column)
        grid.add_column(name, justify="right" if numbers else "left")
    for row in cells:
        grid.add_row(*row)
    text = io.StringIO()
    # In a notebook it would be shown there instead of written.
    console = Console(
        file=text, width=200, color_system=None, force_jupyter=False
    )
    console.print(grid)
    return "\n".join(
        line.rstrip() for line in text.getvalue().splitlines() if line.strip()
    )


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.3g}" if abs(cell) < 100 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, (int, np.integer)) else str(cell)

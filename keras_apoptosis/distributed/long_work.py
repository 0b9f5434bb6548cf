"""Shows how far long work has come: by a bar on a terminal, by a line in logs.

Of several workers the first one shows it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import keras
import rich
from rich.console import Console

from keras_apoptosis.distributed.collectives import is_primary

PATIENCE = 5.0  # Seconds that work may take before it shows.

Item = TypeVar("Item")
_depth = 0  # Of work in which no further progress shows.


@contextlib.contextmanager
def quiet(so: bool = True) -> Iterator[None]:
    """Hides the progress of what is done within.

    Args:
        so: Whether to do that.
    """
    global _depth
    _depth += so
    try:
        yield
    finally:
        _depth -= so


def tracked(
    items: Iterable[Item], doing: str, total: int | None = None
) -> Iterator[Item]:
    """Iterates over items, and shows how many are done if that takes long.

    A bar on a terminal disappears in the end. Elsewhere one line then says
    how long it took. Work within work does not show, and nothing does where
    `keras.config.disable_interactive_logging` was called.

    Args:
        items: What to work on.
        doing: What is done, in words: `"Measuring latency"`.
        total: How many items there are; `None` if that is not known.

    Returns:
        An iterator over the items.
    """
    if _depth or not keras.config.is_interactive_logging_enabled():
        return iter(items)
    return _tracked(items, doing, total)


def _tracked(
    items: Iterable[Item], doing: str, total: int | None
) -> Iterator[Item]:
    start, done = time.monotonic(), 0
    console = rich.get_console()
    with quiet(), contextlib.ExitStack() as bars:
        bar: Any = None
        for item in items:
            yield item
            del item  # Not held while the next is made.
            done += 1
            late = time.monotonic() - start > PATIENCE
            if bar is None and late and console.is_terminal and is_primary():
                bar = bars.enter_context(_bar(console))
                bar.add_task(doing, total=total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)
    seconds = time.monotonic() - start
    if seconds > PATIENCE and not console.is_terminal and is_primary():
        print(f"{doing}: {done:,} in {seconds:.0f} s", flush=True)


def _bar(console: Console) -> Any:
    from rich import progress  # Loaded at the first use.

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )

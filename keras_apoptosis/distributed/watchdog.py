"""Ends a process that waits for others in vain."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator


class Watchdog:
    """Ends this process if it waits for too long.

    Horovod sees a rank that is late while its own threads run, but not one
    that is frozen, or whose host is gone under MPI: the others then wait in a
    collective that nothing can interrupt. Launchers end the job when one of
    its processes ends.

    Args:
        name: Who waits, for the error.
        seconds: How long it may take.
    """

    def __init__(self, name: str, seconds: float):
        self.name = name
        self.seconds = seconds
        self._since: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """From now on others are waited for."""
        self._since = time.monotonic()

    def end(self) -> None:
        """They have come."""
        self._since = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Others are waited for inside."""
        before = self._since
        self.begin()
        try:
            yield
        finally:
            self._since = before and time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self.seconds / 4))
            since = self._since
            if since is None or time.monotonic() - since < self.seconds:
                continue
            print(
                f"{self.name}: waited for {self.seconds:.0f} seconds for the "
                "other ranks. One of them hangs or is gone, or the `timeout` "
                "of `ka.distributed.init` is too short. Ending the job; this "
                "is where this rank waited:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(all_threads=True)
            os._exit(1)

"""Ends a process that waits too long for the others."""

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

    Horovod notices a rank that is late as long as the threads of that rank
    run. It does not notice one that is frozen, or, under MPI, one whose host
    is down: the others then wait in a collective that nothing can interrupt.
    Launchers end the job when one of its processes ends.

    Args:
        name: Name of this process, for the error message.
        seconds: Float > 0. How long a wait may take.
    """

    def __init__(self, name: str, seconds: float):
        self.name = name
        self.seconds = seconds
        self._since: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Starts the clock: this process waits for the others from now on."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Stops the clock."""
        self._since = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Runs the clock within a context."""
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
                "other ranks. One of them hangs or has died, or the `timeout` "
                "of `ka.distributed.init` is too short. Ending the job. This "
                "rank waited here:",
                file=sys.stderr,
                flush=True,
            )
            faulthandler.dump_traceback(all_threads=True)
            os._exit(1)

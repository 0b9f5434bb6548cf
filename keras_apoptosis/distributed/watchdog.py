"""Ends a process that waits for others in vain."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

from keras_apoptosis import workers


class Watchdog:
    """Ends this process once nothing has moved for too long.

    Horovod sees a rank that is late while its own threads run, but not one
    that is frozen, or whose host is gone under MPI: the others then wait in a
    collective that nothing can interrupt. Launchers end the job when one of
    its processes does.

    Args:
        seconds: For how long nothing may move.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._last = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Something has moved."""
        self._last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self.seconds / 4)):
            if time.monotonic() - self._last > self.seconds:
                print(
                    f"Rank {workers.rank()} of {workers.size()}: no step was "
                    f"finished within {self.seconds:.0f} seconds, so another "
                    "rank hangs or is gone, or the `timeout` of "
                    "`ka.distributed.init` is too short. Ending the job; this "
                    "is where this rank waited:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)

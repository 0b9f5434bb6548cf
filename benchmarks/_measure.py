"""Ratios side by side: what all benchmarks share."""

from __future__ import annotations

import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

# On a busy machine `CPU_TIME=1` measures the time of this process alone; only
# where it has a single thread is that the time it takes.
now = time.process_time if os.getenv("CPU_TIME") else time.perf_counter


def seconds(
    works: Mapping[str, Callable[[], object]], rounds: int = 9
) -> dict[str, float]:
    """Median seconds of each work, measured turn by turn.

    All are run once before; then every round runs each, so that what else
    the machine does hits all alike.
    """
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = now()
            work()
            found[name].append(now() - start)
    return {name: float(np.median(times)) for name, times in found.items()}


class StepTimes(keras.callbacks.Callback):
    """Measures the steps of a training.

    Attributes:
        seconds: Mean seconds for a step, by epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        passed = time.perf_counter() - self.start
        self.seconds.append(passed / self.params["steps"])


def clock(work: Callable[..., object], *arguments: object) -> tuple[float, Any]:
    """Returns the seconds that a work takes, and what it returns."""
    gc.collect()
    start = now()
    result = work(*arguments)
    return now() - start, result


def turns_of(
    works: Mapping[str, Callable[[], dict[str, float]]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Runs works turn by turn; the first turn of each only warms up.

    Returns:
        What each work returned, turn by turn.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            result = work()
            if number:
                found[name].append(result)
    return found


def medians(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median of each number over several turns."""
    return {
        key: float(np.median([each[key] for each in results]))
        for key in results[0]
    }


def show(title: str, rows: Sequence[Sequence[object]]) -> None:
    """Prints a table of ratios, and the machine."""
    print(f"\n{title}")
    print(table(("what", "seconds", "beside", "ratio", "aim"), rows))
    print(machine(), flush=True)


def machine() -> str:
    """What it was measured on."""
    return (
        f"keras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.cpu_count()} CPUs, {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def row(
    what: str, one: float, other: float, aim: float
) -> tuple[str, str, str, str, str]:
    """A row of `show`: seconds of one thing beside another."""
    return (
        what,
        f"{one:.4f}",
        f"{other:.4f}",
        f"{one / other:.2f}",
        f"{aim:.2f}",
    )


def fit_steps(model: keras.Model, x, y, steps: int) -> Callable[[], object]:
    """A work: `steps` training steps by `fit`, on arrays."""

    def work():
        return model.fit(
            x, y, batch_size=len(x) // steps, epochs=1, verbose=0, shuffle=False
        )

    return work


def mlp(width: int = 512, inputs: int = 784) -> keras.Sequential:
    """Two hidden layers."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(width, activation="relu", name="one"),
            keras.layers.Dense(width, activation="relu", name="two"),
            keras.layers.Dense(10),
        ]
    )


def cnn(channels: int = 32) -> keras.Sequential:
    """Two convolutions on 28 x 28 pixels."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(channels, 3, activation="relu", name="one"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(2 * channels, 3, activation="relu", name="two"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def compiled(model: keras.Model) -> keras.Model:
    """The model, ready to train."""
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def to_a_quarter(model: keras.Model) -> ka.Removal:
    """Removes three of four units of each group."""
    return ka.Removal(
        {
            group.name: range(3 * group.size // 4)
            for group in ka.unit_groups(model)
            if group.removable
        }
    )


def batch_of(model: keras.Model, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, 10, rows)


class PeakMemory:
    """Measures by how much a block of code raises the memory in use.

    The largest resident set between its begin and its end, looked at every
    few milliseconds; on Linux only.

    Attributes:
        gibibytes: The rise, once the block has ended.
    """

    gibibytes = 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._most = self._before = _resident()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._watch.join()
        self.gibibytes = (self._most - self._before) / 2**30

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, _resident())


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")

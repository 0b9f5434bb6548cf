"""How seconds and memory grow with units, layers and samples.

    python benchmarks/scale.py --figure docs/figures/scale.png

For each it prints the exponent of growth, fitted to the larger half of the
sizes: 1 where twice as much takes twice as long.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
from _measure import PeakMemory, compiled, machine
from matplotlib.figure import Figure

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

INPUTS = 64
# Keras itself follows a chain of layers by calls inside calls.
sys.setrecursionlimit(100_000)


def deep(layers: int) -> keras.Model:
    """Returns a chain of layers of 16 units, with Adam's state."""
    chain = [
        keras.layers.Dense(16, activation="relu", name=f"layer_{number}")
        for number in range(layers)
    ]
    model = compiled(
        keras.Sequential(
            [keras.Input((INPUTS,)), *chain, keras.layers.Dense(10)]
        )
    )
    model.optimizer.build(model.trainable_variables)
    return model


def wide(units: int) -> keras.Model:
    """Returns a model with one hidden layer."""
    return compiled(
        keras.Sequential(
            [
                keras.Input((INPUTS,)),
                keras.layers.Dense(units, activation="relu", name="hidden"),
                keras.layers.Dense(10),
            ]
        )
    )


def sample(rows: int) -> np.ndarray:
    """Returns inputs."""
    return (
        np.random.default_rng(0).normal(size=(rows, INPUTS)).astype("float32")
    )


def groups(layers: int) -> Callable[[], object]:
    """Returns a work: the unit groups of a deep model."""
    model = deep(layers)
    return lambda: ka.unit_groups(model)


def report(layers: int) -> Callable[[], object]:
    """Returns a work: the report of a deep model."""
    model = deep(layers)
    return lambda: ka.report(model)


def shrink(layers: int) -> Callable[[], object]:
    """Returns a work: an eighth of all units of a deep model leave."""
    model = deep(layers)
    removal = ka.Removal({f"layer_{n}": [0, 1] for n in range(layers)})
    return lambda: ka.shrink(model, removal)


def event(model: keras.Model, samples: int) -> Callable[[], object]:
    """Returns a work: an event of neuron apoptosis."""
    callback = ka.callbacks.NeuronApoptosis(
        tolerance=0.3, data=sample(samples), samples=samples, min_gain=0.0
    )
    callback.set_model(model)
    return lambda: callback.fire(0.3)


# By what they grow with: the sizes, and the works.
WORKS = {
    "layers": (
        (10, 30, 100, 300, 1000),
        {"unit_groups": groups, "report": report, "shrink": shrink},
    ),
    "layers, an event": (
        (4, 8, 16, 32),
        {"event": lambda layers: event(deep(layers), 1024)},
    ),
    "units": (
        (1024, 2048, 4096, 8192, 16384, 20_000, 32_768, 65_536),
        {"event, 1,024 samples": lambda units: event(wide(units), 1024)},
    ),
    "samples": (
        (1024, 2048, 4096, 8192, 16384),
        {"event, 2,048 units": lambda samples: event(wide(2048), samples)},
    ),
}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Returns the slope on logarithmic axes over the larger half."""
    half = len(sizes) // 2
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=WORKS, nargs="*", default=[*WORKS])
    parser.add_argument("--most", type=int, default=2**16)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    ka.selection.set_memory_limit(64)
    shrink(3)()  # What is loaded at the first use.
    event(wide(64), 128)()
    figure = Figure((10, 7), layout="constrained")
    axes = dict(zip(WORKS, figure.subplots(2, 2).flat, strict=True))
    for growing in arguments.only:
        sizes, works = WORKS[growing]
        sizes = tuple(size for size in sizes if size <= arguments.most)
        rows = []
        for name, work in works.items():
            seconds, memory = [], []
            for size in sizes:
                ready = work(size)
                with PeakMemory() as peak:
                    start = time.perf_counter()
                    ready()
                    seconds.append(time.perf_counter() - start)
                memory.append(peak.gibibytes)
                rows.append((name, size, seconds[-1], memory[-1]))
                print("", *rows[-1], file=sys.stderr, flush=True)
            power = exponent(sizes, seconds)
            rows.append((f"{name}: grows with the power", "", power, ""))
            axes[growing].loglog(sizes, seconds, "o-", label=f"{name}, seconds")
            if "units" in growing or "samples" in growing:
                rows[-1] = (*rows[-1][:3], exponent(sizes, memory))
                axes[growing].loglog(sizes, memory, "s--", label="GiB")
        print(f"\nHow it grows with {growing}")
        print(table(("what", growing, "seconds", "GiB"), rows), flush=True)
        axes[growing].set(xlabel=growing)
        axes[growing].legend()
    print(machine())
    if arguments.figure:
        figure.savefig(arguments.figure, dpi=120)


if __name__ == "__main__":
    main()

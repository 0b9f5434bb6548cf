"""How closely latencies are met: three architectures, batches of 1 and 128.

    python benchmarks/latency.py

An untrained model is pruned by `ka.prune` to a share of the time that it takes
to predict. Printed is what it takes in the end, as a part of what was allowed:
as the search measured it, and as the median of five more measurements; beside
it the spread (largest / least) of five measurements of the whole model. Let
nothing else run beside this.
"""

from __future__ import annotations

import functools
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _measure import clock, machine
from keras import layers
from targets import lenet, vgg

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table


def wide_mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(1024, activation="relu"),
            layers.Dense(1024, activation="relu"),
            layers.Dense(10),
        ]
    )


by_norm = functools.partial(ka.prune, criterion="squared_norm")

# Model, samples of a batch, share of the time before.
CASES = (
    ("MLP 1024-1024", wide_mlp, 128, 0.5),
    ("MLP 1024-1024", wide_mlp, 128, 0.25),
    ("MLP 1024-1024", wide_mlp, 1, 0.75),
    ("LeNet", lenet, 128, 0.5),
    ("LeNet", lenet, 128, 0.25),
    ("LeNet", lenet, 1, 0.75),
    ("VGG-like", vgg, 128, 0.5),
    ("VGG-like", vgg, 128, 0.25),
    ("VGG-like", vgg, 1, 0.9),
)


def row(name, build, batch, share) -> tuple[str, ...]:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    target = ka.targets.Latency(share, batch_size=batch)
    times = [target.measure(model) for _ in range(5)]
    whole, spread = float(np.median(times)), max(times) / min(times)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            seconds, report = clock(by_norm, model, target)
        except ValueError:
            return name, str(batch), f"{share:.0%}", "out of reach", *("",) * 4
    again = float(np.median([target.measure(model) for _ in range(5)]))
    reached = report.targets[0]
    return (
        name,
        str(batch),
        f"{share:.0%} of {1000 * whole:.2f} ms",
        f"{reached.after / reached.limit:.2f}",
        f"{again / (share * whole):.2f}",
        f"{spread:.2f}",
        f"{seconds:.1f}",
        "yes" if said else "",
    )


if __name__ == "__main__":
    heads = (
        "model",
        "batch",
        "at most",
        "reached",
        "again",
        "spread",
        "s",
        "warned",
    )
    print(table(heads, [row(*case) for case in CASES]))
    print(machine())

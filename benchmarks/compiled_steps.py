"""Steps after a removal under options of `compile`, beside plain models.

    KERAS_BACKEND=torch python benchmarks/compiled_steps.py jit_compile=True
    KERAS_BACKEND=jax python benchmarks/compiled_steps.py steps_per_execution=10

Prints what the first epochs take, with tracing and compiling, and a step.
"""

from __future__ import annotations

import ast
import sys
import time

import keras
from _measure import (
    batch_of,
    fit_steps,
    machine,
    mlp,
    seconds,
    to_a_quarter,
)

import keras_apoptosis as ka

STEPS = 100
options = {
    name: ast.literal_eval(value)
    for name, value in (each.split("=") for each in sys.argv[1:])
}


def work(model):
    """A work: an epoch."""
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return fit_steps(model, x, y, STEPS)


def first(epoch, what):
    """Runs an epoch for the first time."""
    start = time.perf_counter()
    epoch()
    print(f"first epoch {what}: {time.perf_counter() - start:.1f} s")


x, y = batch_of(mlp(), 128 * STEPS)
full, model = work(mlp()), mlp()
epoch = work(model)
first(epoch, "before")
ka.shrink(model, to_a_quarter(model))
first(epoch, "after")
born = work(keras.Sequential.from_config(model.get_config()))
found = seconds({"full": full, "shrunk": epoch, "born small": born}, rounds=5)
for name, each in found.items():
    print(f"{name}: {1000 * each / STEPS:.2f} ms a step")
print(options, machine())

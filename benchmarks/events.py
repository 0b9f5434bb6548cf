"""One event of neuron apoptosis, beside an epoch of MNIST's size."""

from __future__ import annotations

import time

import numpy as np
from _measure import batch_of, compiled, fit_steps, mlp, row, show

import keras_apoptosis as ka

ROWS = 60_000


def seconds_of(callback: ka.callbacks.NeuronApoptosis, amount: float) -> float:
    """Times one event."""
    start = time.perf_counter()
    callback.fire(amount)
    return time.perf_counter() - start


model = compiled(mlp(1024))
x, y = batch_of(model, ROWS)
x = np.abs(x[:, :28].repeat(28, 1)) * x  # Neighboring pixels are alike.
epochs = []
for _ in range(3):
    start = time.perf_counter()
    fit_steps(model, x, y, ROWS // 128)()
    epochs.append(time.perf_counter() - start)
epoch = min(epochs[1:])

rows = []
for metric in ("weights", "reconstruction"):
    times = []
    for turn in range(3):
        each = compiled(mlp(1024))
        each.set_weights(model.get_weights())
        data = {"data": x[:4096]} if metric == "reconstruction" else {}
        callback = ka.callbacks.NeuronApoptosis(
            "normal", metric=metric, min_gain=0.0, **data
        )
        callback.set_model(each)
        amount = 1.75 if metric == "weights" else 0.07
        times.append(seconds_of(callback, amount))
        if metric == "reconstruction" and turn == 2:
            later = seconds_of(callback, amount)
    rows.append(row(f"first, {metric}", float(np.median(times)), epoch, 0.05))
rows.append(row("a later one, reconstruction", later, epoch, 0.05))
show("An event without its retrace, beside an epoch (MLP 2x1024)", rows)

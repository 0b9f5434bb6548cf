"""A training step with demon pruning's penalty and noise beside a plain one.

Random numbers are what it costs: next to nothing for a convolution, whose
weights each serve many positions, and much for a dense layer. `noise_every`
adds the variance of several steps at once.
"""

from __future__ import annotations

import keras
from _measure import batch_of, compiled, fit_steps, mlp, row, seconds, show

import keras_apoptosis as ka


def cnn() -> keras.Sequential:
    """Two normalized convolutions on 28 x 28 pixels."""
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        stack += [
            keras.layers.Conv2D(filters, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(2),
        ]
    stack += [keras.layers.Flatten(), keras.layers.Dense(10)]
    return keras.Sequential(stack)


class Attached(ka.callbacks.DemonPruning):
    """Stays attached over calls of `fit`, and removes nothing."""

    def prune(self, analysis, amount):
        return ka.callbacks.Skip("it is only timed")

    def begin(self, analysis):
        if self._pressure is None:
            super().begin(analysis)

    def on_train_end(self, logs=None):
        pass


def work(model, x, y, steps, **options):
    """A work: training steps with the callback."""
    demon = Attached(1e-3, data=x[:64], verbose=False, **options)

    def run():
        model.fit(
            x,
            y,
            batch_size=len(x) // steps,
            verbose=0,
            shuffle=False,
            callbacks=[demon],
        )

    return run


rows = []
for name, build, size, steps, aims in (
    ("CNN 32, 64", cnn, 64, 40, (1.15, 1.15, 1.15)),
    ("MLP 2x512", mlp, 128, 80, (3.0, 1.15, 1.15)),
):
    x, y = batch_of(build(), steps * size)
    found = seconds(
        {
            "plain": fit_steps(compiled(build()), x, y, steps),
            "every": work(compiled(build()), x, y, steps),
            "tenth": work(compiled(build()), x, y, steps, noise_every=10),
            "penalty": work(compiled(build()), x, y, steps, noise_variance=0.0),
        },
        rounds=7,
    )
    for kind, what, aim in zip(
        ("every", "tenth", "penalty"),
        ("noise every step", "noise every 10", "penalty alone"),
        aims,
        strict=True,
    ):
        rows.append(row(f"{name}, {what}", found[kind], found["plain"], aim))
show("Training steps: demon pruning beside plain", rows)

"""A training step with demon pruning's penalty and noise beside a plain one.

The hooks are attached without the callback, which takes them off when `fit`
ends: each round would trace its step anew.
"""

from __future__ import annotations

import keras
from _measure import batch_of, compiled, fit_steps, mlp, row, seconds, show

from keras_apoptosis.backend import step_hooks
from keras_apoptosis.graph.saturation import silent_groups
from keras_apoptosis.schedules import Constant, OneCycle
from keras_apoptosis.training.noise import UnitNoise
from keras_apoptosis.training.penalty import Regularization, scales_of


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


def work(build, x, y, steps, noise=True, **options):
    """A work: training steps of a model with a penalty and noise."""
    model = compiled(build())
    weights = scales_of(model) or model.trainable_weights
    hooks = [Regularization(OneCycle(1e-3), "l1", weights)]
    if noise:
        hooks.append(
            UnitNoise(
                model,
                Constant(1e-6),
                lambda analysis: list(silent_groups(analysis)),
                **options,
            )
        )
    for hook in hooks:
        step_hooks.attach(model, hook)
        hook.tell_time(0.0, 1e-6)
    return fit_steps(model, x, y, steps)


rows = []
for name, build, size, steps, aims in (
    ("CNN 32, 64", cnn, 64, 40, (1.15, 1.15, 1.15)),
    ("MLP 2x512", mlp, 128, 80, (1.2, 1.15, 1.15)),
):
    x, y = batch_of(build(), steps * size)
    found = seconds(
        {
            "plain": fit_steps(compiled(build()), x, y, steps),
            "every": work(build, x, y, steps),
            "tenth": work(build, x, y, steps, every=10),
            "penalty": work(build, x, y, steps, noise=False),
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

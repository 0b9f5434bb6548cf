"""A training step with tracking Prunable layers beside plain ones."""

from __future__ import annotations

from _measure import batch_of, cnn, compiled, fit_steps, mlp, row, seconds, show

import keras_apoptosis as ka

rows = []
for name, build, size in (("MLP 2x512", mlp, 128), ("CNN 32, 64", cnn, 64)):
    steps = 80
    plain = compiled(build())
    works = {}
    x, y = batch_of(plain, steps * size)
    for kind, model in (
        ("plain", plain),
        ("off", compiled(ka.make_prunable(build()))),
        ("on", compiled(ka.make_prunable(build(), track_statistics=True))),
    ):
        works[kind] = fit_steps(model, x, y, steps)
    found = seconds(works)
    rows.append(row(f"{name}, nothing on", found["off"], found["plain"], 1.0))
    rows.append(row(f"{name}, tracking", found["on"], found["plain"], 1.05))
show("80 training steps: Prunable beside plain layers", rows)

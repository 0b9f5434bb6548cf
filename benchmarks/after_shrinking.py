"""A training step after shrinking, beside a new model of that shape."""

from __future__ import annotations

from _measure import (
    batch_of,
    cnn,
    compiled,
    fit_steps,
    mlp,
    row,
    seconds,
    show,
    to_a_quarter,
)

import keras_apoptosis as ka

rows = []
for name, build, size in (("MLP 2x512", mlp, 128), ("CNN 32, 64", cnn, 64)):
    steps = 80
    shrunk = compiled(build())
    x, y = batch_of(shrunk, steps * size)
    full, smaller = fit_steps(compiled(build()), x, y, steps), None
    fit_steps(shrunk, x, y, steps)()
    ka.shrink(shrunk, to_a_quarter(shrunk))
    smaller = compiled(type(shrunk).from_config(shrunk.get_config()))
    found = seconds(
        {
            "shrunk": fit_steps(shrunk, x, y, steps),
            "new": fit_steps(smaller, x, y, steps),
            "full": full,
        }
    )
    rows.append(
        row(f"{name}, to a quarter", found["shrunk"], found["new"], 1.02)
    )
    rows.append(row("  beside the full one", found["shrunk"], found["full"], 1))
show("80 training steps after shrinking, beside a new model", rows)

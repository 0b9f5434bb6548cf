"""The similarity search beside one matrix product of its size."""

from __future__ import annotations

import numpy as np
from _measure import row, seconds, show

from keras_apoptosis.selection.parallel_units import parallel_units

SIZE = 4096

rng = np.random.default_rng(0)
apart = rng.normal(size=(SIZE, SIZE)).astype("float32")
centres = rng.normal(size=(400, SIZE))
alike = centres[rng.integers(0, 400, SIZE)]
alike = (alike + 0.2 * rng.normal(size=alike.shape)).astype("float32")
found = seconds(
    {
        "product": lambda: apart @ apart.T,
        "apart": lambda: parallel_units(apart, 1.75, scale_free=True),
        "alike": lambda: parallel_units(alike, 1.75, scale_free=True),
    },
    rounds=5,
)
show(
    f"Search among {SIZE} units with {SIZE} inputs, beside a matrix product",
    [
        row("nothing is similar", found["apart"], found["product"], 2),
        row("most are similar", found["alike"], found["product"], 2),
    ],
)

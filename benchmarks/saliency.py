"""Mean replacement saliency of every group beside a training epoch.

The same samples, in batches of 128, on one side to score the units of all
groups, on the other to train for one epoch. The first call traces what it
computes, as does the first epoch; both are shown.
"""

from __future__ import annotations

import functools
import time

from _measure import batch_of, cnn, compiled, mlp, row, seconds, show

from keras_apoptosis.criteria import mean_replacement_saliency
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.replaced_units import ReplacedUnits

SAMPLES = 8192
rows = []
for name, build in (("MLP 2x512", mlp), ("CNN 32, 64", cnn)):
    model = compiled(build())
    data = batch_of(model, SAMPLES)
    units = ReplacedUnits(analyse(model), groups=["one", "two"])

    def epoch(model=model, data=data):
        model.fit(*data, batch_size=128, verbose=0)

    def score(units=units, data=data):
        means = units.means(data, 128)
        for _ in units.slopes(data, means, 128):
            pass

    whole = functools.partial(mean_replacement_saliency, model, data)
    first = []
    for work in (functools.partial(whole, batch_size=128), epoch):
        start = time.perf_counter()
        work()
        first.append(time.perf_counter() - start)
    found = seconds({"score": score, "epoch": epoch}, rounds=5)
    rows.append(row(f"{name}, first time", *first, 2.0))
    rows.append(row(f"{name}, later", found["score"], found["epoch"], 2.0))
show(f"Saliency of all units on {SAMPLES:,} samples beside an epoch", rows)

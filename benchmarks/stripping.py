"""Epochs with synaptic stripping beside those without, as on CIFAR-10.

What the callback does between epochs, and what the masks that it makes cost in
every step, are two rows.
"""

from __future__ import annotations

import numpy as np
from _measure import batch_of, compiled, mlp, row, seconds, show

import keras_apoptosis as ka

STEPS, BATCH, INPUTS = 350, 64, 3072


def model(width: int, masked: bool):
    """A network that tracks, 1 of 16 units dead for good, with a rate of 0."""
    network = ka.make_prunable(mlp(width, INPUTS), track_statistics=True)
    for name in ("one", "two"):
        layer = network.get_layer(name)
        bias = np.zeros(width)
        bias[::16] = -1000.0
        layer.bias.assign(bias)
        if masked:
            layer.set_mask(np.ones(layer.kernel.shape, bool))
    network = compiled(network)
    network.optimizer.learning_rate = 0.0
    return network


def fit(network, callbacks):
    """A work: an epoch with validation."""
    x, y = batch_of(network, STEPS * BATCH)

    def work():
        network.fit(
            x,
            y,
            batch_size=BATCH,
            validation_data=(x[:2500], y[:2500]),
            validation_batch_size=500,
            verbose=0,
            callbacks=callbacks,
        )

    return work


rows = []
for width in (256, 512):
    found = seconds(
        {
            "tracking": fit(model(width, masked=False), []),
            "masked": fit(model(width, masked=True), []),
            # So little that it goes on for all rounds.
            "stripping": fit(
                model(width, masked=True),
                [ka.callbacks.SynapticStripping(0.01)],
            ),
        },
        rounds=5,
    )
    name = f"MLP 2x{width}"
    rows.append(
        row(
            f"{name}, the callback beside none",
            found["stripping"],
            found["masked"],
            1.03,
        )
    )
    rows.append(
        row(
            f"{name}, masks beside none",
            found["masked"],
            found["tracking"],
            1.03,
        )
    )
show(f"{STEPS} steps and a validation, with and without stripping", rows)

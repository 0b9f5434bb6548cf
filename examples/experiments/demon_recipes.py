"""How "Maxwell's demon at work" trains its networks (appendix I)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def _stages(power: float, *shares: float) -> Callable[[float, int], Any]:
    def schedule(peak: float, steps: int) -> Any:
        return keras.optimizers.schedules.PiecewiseConstantDecay(
            [max(1, int(share * steps)) for share in shares],
            [peak / power**stage for stage in range(len(shares) + 1)],
        )

    return schedule


def _warm(share: float, first: float) -> Callable[[float, int], Any]:
    def schedule(peak: float, steps: int) -> Any:
        warmup = max(1, int(share * steps))
        return keras.optimizers.schedules.CosineDecay(
            first * peak,
            max(1, steps - warmup),
            warmup_target=peak,
            warmup_steps=warmup,
        )

    return schedule


# The rate over a training, from its peak and the number of updates.
SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda peak, steps: peak,
    "fifths": _stages(5, 77 / 250, 154 / 250, 231 / 250),
    "tenths": _stages(10, 0.3, 0.7, 0.9),
    "one_cycle": _warm(0.3, 1 / 25),
    "cosine": _warm(16 / 150, 9.9e-5 / 3e-3),
}


def loss(label_smoothing: float) -> keras.losses.Loss:
    """The cross-entropy of labels as they are, or of smoothed ones."""
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=label_smoothing
    )


def changes(config: Any) -> Callable | None:
    """Makes what changes and mixes a batch at random; `None` for nothing."""
    mixes: list[tuple[type, float]] = []
    if config.mixup:
        mixes.append((keras.layers.MixUp, config.mixup))
    if config.cutmix:
        mixes.append((keras.layers.CutMix, config.cutmix))
    if not (mixes or config.rand_augment):
        return None

    def change(x: Any, y: Any, random: np.random.Generator) -> tuple[Any, Any]:
        seed = int(random.integers(2**31))
        layers = []
        if config.rand_augment:
            layers.append(keras.layers.RandAugment((0.0, 1.0), seed=seed))
        if mixes:
            mix, alpha = mixes[random.integers(len(mixes))]
            layers.append(mix(alpha, seed=seed))
        batch = {"images": x, "labels": y}
        for layer in layers:
            batch = layer(batch, training=True)
        return batch["images"], batch["labels"]

    return change

"""How "Maxwell's demon at work" trains its networks (appendix I)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# What differs from the arguments' own defaults, for each model. The rate is
# that of the optimizer unless one is given here.
RECIPES: dict[str, dict[str, Any]] = {
    "resnet_18": {},
    "resnet_50": {
        "epochs": 100,
        "batch_size": 256,
        "schedule": "tenths",
        "decay": 1e-4,
        "label_smoothing": 0.1,
    },
    "vgg_16": {
        "epochs": 80,
        "batch_size": 256,
        "schedule": "one_cycle",
        "size": 64,
    },
    "vit_b16": {
        "epochs": 150,
        "batch_size": 256,
        "optimizer": "adamw",
        "rate": 3e-3,
        "schedule": "cosine",
        "decay": 0.3,
        "label_smoothing": 0.11,
        "mixup": 0.2,
        "cutmix": 1.0,
        "rand_augment": True,
        "accumulate": 16,
        "clip_norm": 1.0,
    },
}


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


class Mixed(keras.utils.PyDataset):
    """Shuffled batches of images, changed and mixed at random.

    Args:
        x: Images from 0 to 1.
        y: Labels, one-hot.
        batch_size: Images of a batch.
        rand_augment: Whether to apply RandAugment.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none. Of the two each batch gets one.
        seed: Seed of the order, and of the choice.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        *,
        rand_augment: bool = False,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.rng = np.random.default_rng(seed)
        self.changes = []
        if rand_augment:
            self.changes = [keras.layers.RandAugment((0.0, 1.0), seed=seed)]
        self.mixes = []
        if mixup:
            self.mixes.append(keras.layers.MixUp(mixup, seed=seed))
        if cutmix:
            self.mixes.append(keras.layers.CutMix(cutmix, seed=seed))
        self.order = self.rng.permutation(len(y))

    def __len__(self) -> int:
        return -(-len(self.y) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        start = index * self.batch_size
        rows = self.order[start : start + self.batch_size]
        batch = {"images": self.x[rows], "labels": self.y[rows]}
        for change in self.changes:
            batch = change(batch, training=True)
        if self.mixes:
            mix = self.mixes[self.rng.integers(len(self.mixes))]
            batch = mix(batch, training=True)
        return batch["images"], batch["labels"]

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.y))

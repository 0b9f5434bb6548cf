"""Decisions of an event of a pruning callback, besides a removal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from keras_apoptosis.layers.weight_mask import WeightMask


@dataclasses.dataclass(frozen=True, eq=False)
class Masks(Mapping[WeightMask, np.ndarray]):
    """New masks for weights of Prunable layers.

    Args:
        masks: For each layer a boolean array of its kernel's shape, `False`
            where the weight is masked.
    """

    masks: Mapping[WeightMask, np.ndarray]

    def __getitem__(self, layer: WeightMask) -> np.ndarray:
        return self.masks[layer]

    def __iter__(self) -> Iterator[WeightMask]:
        return iter(self.masks)

    def __len__(self) -> int:
        return len(self.masks)


@dataclasses.dataclass(frozen=True)
class Skip:
    """Nothing is pruned.

    Args:
        reason: Why, in words.
    """

    reason: str

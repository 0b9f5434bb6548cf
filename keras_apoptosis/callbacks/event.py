"""What one event of a callback did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Event:
    """What one event of a callback did.

    Args:
        epoch: Epoch in which it fired, counted from 0.
        step: Step of that epoch after which it fired, counted from 1; 0 if
            the epoch was over.
        progress: Fraction of the training that was done.
        degree: How aggressive it was.
        units: For each group the number of units before and after.
        parameters: Parameters before and after.
        seconds: What the event took, without the retrace that follows.
        residuals: For each group the root mean square of what the
            replacement leaves unexplained, where it was measured.
        skipped: Why nothing was removed; `""` where something was.
        saving: Estimate of the seconds that the removal saves over the steps
            left, less a retrace; `None` while that cannot be told.
        notes: What could not be done exactly.
        masked: Masked weights before and after.
    """

    epoch: int
    step: int
    progress: float
    degree: float
    units: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    seconds: float
    residuals: Mapping[str, float]
    skipped: str = ""
    saving: float | None = None
    notes: tuple[str, ...] = ()
    masked: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        when = f"at {self.progress:.0%} of the training"
        if self.skipped:
            return f"{when}: nothing removed: {self.skipped}"
        widths = ", ".join(
            f"{name} {before}→{after}"
            for name, (before, after) in self.units.items()
            if before != after
        )
        before, after = self.parameters
        changes = []
        if widths:
            changes.append(
                f"{widths}; {before:,} → {after:,} parameters "
                f"({before / after:.1f}x fewer)"
            )
        elif self.masked[0] != self.masked[1]:
            first, last = self.masked
            changes.append(f"{first:,} → {last:,} weights masked")
        text = f"{when}: {', '.join([*changes, f'{self.seconds:.2f} s'])}"
        if self.saving is not None:
            gain = "saves" if self.saving >= 0 else "costs"
            text += f"; {gain} about {abs(self.saving):.0f} s until the end"
        return text

"""Records what one event of a pruning callback did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_apoptosis.selection.price import Attempt


@dataclasses.dataclass(frozen=True)
class Event:
    """Records what one event of a pruning callback did.

    Args:
        epoch: Epoch in which it fired, counted from 0.
        step: Step of that epoch after which it fired, counted from 1; 0 if
            the epoch was over.
        steps: Steps of the whole training that were done.
        progress: Fraction of the training that was done.
        amount: How much was to be pruned: a sparsity, a tolerance, a share,
            as the method has it.
        units: For each prunable group the number of units before and after.
        parameters: Parameters before and after.
        masked: Masked weights before and after.
        seconds: Seconds the event took, without the retrace that follows.
        residuals: For each group the root mean square of what the
            replacement leaves unexplained of an activation: predicted before
            the removal on the method's data, or, for merges by weights
            without data, estimated by `ka.selection.error_bound`.
        skipped: Why nothing was pruned; `""` if something was.
        saving: Estimate of the seconds that the removal saves over the steps
            left, less a retrace; `None` if that cannot be told.
        output_change: Root mean square of how much the outputs changed, as a
            part of that of the outputs, where it was measured.
        notes: What could not be done exactly.
        attempts: With a `limit`, what each share of the event did to the
            metric, and whether it was kept.
        dead: For each group, or layer, how many of its units were dead,
            those removed before included, where the method counts them.
        overlap: Overlap of the dead units with all that were dead at any
            event before (Demon pruning, appendix C): 1 if none came back to
            life; `None` if there are none to compare.
        stripped: For each layer, by path, how many weights were masked.
    """

    epoch: int
    step: int
    steps: int
    progress: float
    amount: float
    units: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    masked: tuple[int, int]
    seconds: float
    residuals: Mapping[str, float]
    skipped: str = ""
    saving: float | None = None
    output_change: float | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    dead: Mapping[str, int] = dataclasses.field(default_factory=dict)
    overlap: float | None = None
    stripped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Event:
        """Makes an event from what `dataclasses.asdict` returned."""
        attempts = tuple(Attempt(**each) for each in state["attempts"])
        return cls(**{**state, "attempts": attempts})

    def __str__(self) -> str:
        when = f"at {self.progress:.0%} of the training"
        if self.skipped:
            return f"{when}: nothing pruned: {self.skipped}"
        changes = []
        widths = [
            f"{name} {before}→{after}"
            for name, (before, after) in self.units.items()
            if before != after
        ]
        if widths:
            before, after = self.parameters
            shown = ", ".join(widths[:4])
            if len(widths) > 4:
                shown += f" and {len(widths) - 4} more"
            changes.append(
                f"{shown}; {before:,} → {after:,} parameters "
                f"({before / after:.1f}x fewer)"
            )
        if self.masked[0] != self.masked[1]:
            before, after = self.masked
            changes.append(f"{before:,} → {after:,} weights masked")
        text = f"{when}: {', '.join([*changes, f'{self.seconds:.2f} s'])}"
        if self.attempts:
            undone = len(self.attempts) - 1
            text += f"; the limit's metric is {self.attempts[-1].value:.4g}"
            if undone:
                text += f", with {self.attempts[-1].share:.0%} of the event"
        if self.output_change is not None:
            text += f"; outputs changed by {self.output_change:.2%}"
        if self.saving is not None:
            gain = "saves" if self.saving >= 0 else "costs"
            text += f"; {gain} about {abs(self.saving):.0f} s until the end"
        return text

"""Reports a pruning to a target: what was wanted, and what it cost."""

from __future__ import annotations

import dataclasses

from keras_apoptosis.selection.price import Attempt
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.targets import Target
from keras_apoptosis.utils.tables import table


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """The outcome for one target.

    Args:
        target: The target.
        before: What it was.
        limit: What it was to be at most.
        after: What it is.
    """

    target: Target
    before: float
    limit: float
    after: float

    @property
    def name(self) -> str:
        """The name of what is counted."""
        return self.target.name

    def show(self, amount: float) -> str:
        """Returns an amount as text for people."""
        return self.target.show(amount)

    @property
    def met(self) -> bool:
        """`True` if the model costs no more than it may.

        Of what is measured, within 5 %.
        """
        slack = 1e-9 if self.target.counted else 0.05
        return self.after <= self.limit * (1 + slack)


@dataclasses.dataclass(frozen=True)
class PruningReport(Report):
    """Reports what `ka.prune` did to a model.

    Args:
        targets: What became of each target.
        metric: Name of the metric of the limit; `""` without a limit.
        metric_before: The metric before, with moving statistics computed anew
            as after a removal.
        attempts: What each removal did to it.
    """

    targets: tuple[TargetResult, ...] = ()
    metric: str = ""
    metric_before: float | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def met(self) -> bool:
        """`True` if every target is met."""
        return all(each.met for each in self.targets)

    def __str__(self) -> str:
        rows = [
            (
                each.name,
                *(
                    each.show(amount)
                    for amount in (each.before, each.limit, each.after)
                ),
                f"{each.after / each.limit:.1%}",
                "yes" if each.met else "no",
            )
            for each in self.targets
        ]
        lines = [super().__str__()]
        if rows:
            header = ("target", "before", "at most", "after", "of it", "met")
            lines.append(table(header, rows))
        if self.attempts:
            lines.append(f"{self.metric} before: {self.metric_before:.4f}")
            lines += [
                f"{self.metric} with {each.share:.0%} of the step: "
                f"{each.value:.4f}, {'kept' if each.kept else 'undone'}"
                for each in self.attempts
            ]
        return "\n".join(lines)

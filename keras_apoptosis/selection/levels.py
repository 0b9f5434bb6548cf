"""Levels of how aggressive neuron apoptosis is, by name."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Level:
    """The tolerances of a level: of two similar units, and of a fit.

    Args:
        factor: Float > 1, for the weight rule: units merge if they are
            nearer than `1 / factor` of their length. The larger, the fewer.
        tolerance: Float between 0 and 1, for reconstruction: the unexplained
            share (root mean square) of what the consumers receive.
    """

    factor: float
    tolerance: float


# The factors are the paper's (Neuron apoptosis, section V-B); it has no
# tolerances, those are ours.
LEVELS = {
    "very_conservative": Level(factor=2.5, tolerance=0.02),
    "conservative": Level(factor=2.0, tolerance=0.03),
    "normal": Level(factor=1.75, tolerance=0.05),
    "aggressive": Level(factor=1.5, tolerance=0.07),
    "very_aggressive": Level(factor=1.25, tolerance=0.10),
}

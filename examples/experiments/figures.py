"""What all figures of the experiments look like."""

from __future__ import annotations

from typing import Any


def tidy(axes: Any) -> None:
    """Leaves out the frame that says nothing, and adds a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)

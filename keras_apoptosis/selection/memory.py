"""Limits the memory that a selection may take, before it is spent."""

from __future__ import annotations

from keras_apoptosis.utils.checks import check_that, is_number

_GIBIBYTE = 2**30
_limit = 8.0


def memory_limit() -> float:
    """Returns the memory that a selection may take, in gibibytes."""
    return _limit


def set_memory_limit(gibibytes: float) -> None:
    """Sets the memory that a selection may take.

    Neuron apoptosis by reconstruction compares every unit of a group with
    every other one. Its memory grows with the square of the width, where a
    unit has as many values as there are units: 0.6 GiB for 5,000 units, 9 GiB
    for 20,000. With fewer (samples of a dense layer) it grows with the width
    alone: at most 1.6 GiB for 20,000 units and 4,096 samples. Beyond the limit
    it raises a `ValueError` before it measures anything.

    Args:
        gibibytes: Number > 0, in units of 2^30 bytes. 8 by default.

    Example:

    >>> ka.selection.set_memory_limit(16)
    >>> ka.selection.memory_limit()
    16.0
    >>> ka.selection.set_memory_limit(8)
    """
    global _limit
    check_that(
        "gibibytes",
        gibibytes,
        is_number(gibibytes) and gibibytes > 0,
        "a number above 0",
    )
    _limit = float(gibibytes)


def check_memory(what: str, units: int, needed: float) -> None:
    """Raises a `ValueError` if more memory is needed than may be taken.

    Args:
        what: What takes the memory.
        units: Size of the largest group.
        needed: Number of bytes.
    """
    if needed > _limit * _GIBIBYTE:
        raise ValueError(
            f"{what} takes {needed / _GIBIBYTE:.3g} GiB of memory, more than "
            f"the limit of {_limit:g} GiB. Leave out the widest groups by "
            "`exclude`, or raise the limit by "
            "`ka.selection.set_memory_limit`. Received: a group of "
            f"{units:,} units"
        )

"""Chooses the incoming weights of dead units to strip."""

from __future__ import annotations

import numpy as np


def strip_weights(
    kernel: np.ndarray,
    mask: np.ndarray,
    units: np.ndarray,
    share: float,
    unit_axis: int = -1,
) -> np.ndarray:
    """Masks the most negative of the remaining weights of some units.

    Masks `share` of the remaining weights of each unit, rounded to the nearest
    number: at least one, but never the last (Synaptic stripping, sections
    III-C and IV-A). As in the paper, it is a share of all remaining weights: a
    unit without negative weights loses its smallest ones.

    Args:
        kernel: The weights.
        mask: Boolean, of the kernel's shape: which weights remain.
        units: Indices of the units.
        share: Number above 0 and up to 1.
        unit_axis: Axis of the kernel along which the units lie.

    Returns:
        The new mask.

    Example:

    >>> kernel = np.array([[-3.0, -1.0], [-2.0, -4.0], [1.0, 2.0], [2.0, 0.5]])
    >>> mask = strip_weights(kernel, np.ones((4, 2), bool), [0], 0.5)
    >>> mask.astype(int).tolist()
    [[0, 1], [0, 1], [1, 1], [1, 1]]
    """
    new = mask.copy()
    for unit in units:
        weights = np.take(kernel, unit, unit_axis).ravel()
        remains = np.take(new, unit, unit_axis)
        left = np.flatnonzero(remains)
        count = min(max(1, round(share * left.size)), left.size - 1)
        order = np.argsort(weights[left].astype("float32"), kind="stable")
        remains.flat[left[order[: max(count, 0)]]] = False
        np.moveaxis(new, unit_axis, 0)[unit] = remains
    return new

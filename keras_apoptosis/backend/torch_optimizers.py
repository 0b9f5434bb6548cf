"""Lets optimizers and gradients of PyTorch follow resized parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

Kept = Mapping[int, np.ndarray]


def cut_torch_state(
    optimizers: Iterable[Any],
    parameters: Iterable[tuple[keras.Variable, Kept]],
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Cuts what PyTorch keeps for some parameters as they are cut.

    Optimizers keep tensors of a parameter's shape, or with size 1 along some
    of its axes.

    Args:
        optimizers: Optimizers of PyTorch.
        parameters: Variables that are about to lose entries, with the
            positions that stay along their axes.

    Returns:
        A function that changes the state of the optimizers, and the
        gradients, to be called once the parameters are cut, and one that
        restores them.
    """
    after: list[tuple[Any, Any]] = []
    before: list[tuple[Any, Any]] = []
    gradients: list[tuple[Any, Any, Any]] = []
    for variable, kept in parameters:
        parameter = variable._value
        if getattr(parameter, "grad", None) is not None:
            grad = parameter.grad
            gradients.append((parameter, grad, _cut(grad, parameter, kept)))
        for optimizer in optimizers:
            state = optimizer.state.get(parameter)
            if state:
                before.append((state, dict(state)))
                new = {k: _cut(v, parameter, kept) for k, v in state.items()}
                after.append((state, new))

    def apply() -> None:
        for state, new in after:
            state.update(new)
        for parameter, _, new in gradients:
            parameter.grad = new

    def restore() -> None:
        for state, old in before:
            state.update(old)
        for parameter, old, _ in gradients:
            parameter.grad = old

    return apply, restore


def _cut(value: Any, parameter: Any, kept: Kept) -> Any:
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim != parameter.ndim:
        return value
    for axis, positions in kept.items():
        if value.shape[axis] == parameter.shape[axis] != 1:
            index = torch.as_tensor(positions, device=value.device)
            value = value.index_select(axis, index)
    return value

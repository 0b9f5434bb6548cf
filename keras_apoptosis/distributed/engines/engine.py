"""Interface between the collectives and the library that connects processes."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np


class Engine(abc.ABC):
    """Connects the processes of a training: base of all engines.

    Attributes:
        name: Name of the library, for messages.
        whole_steps: Whether every process computes each step for the batches
            of all, as JAX does. Gradients and the variables that a step
            updates are then those of all workers already.
        compilable: Whether the backend can compile what `average` does.
        rank: Number of this process, counted from 0.
        size: Number of processes, at least 2.
    """

    name: ClassVar[str]
    whole_steps: ClassVar[bool] = False
    compilable: ClassVar[bool] = True
    rank: int
    size: int

    @abc.abstractmethod
    def reduce(self, values: np.ndarray, name: str, operation: str) -> Any:
        """Returns the sum or the maximum over all workers.

        Args:
            values: An array of the same shape on all workers.
            name: A name, the same on all workers.
            operation: `"sum"` or `"max"`.
        """

    @abc.abstractmethod
    def gather(self, value: Any, name: str) -> list[Any]:
        """Returns the values of all workers, by rank: of any picklable type."""

    @abc.abstractmethod
    def broadcast(self, value: Any, name: str) -> Any:
        """Returns the value of rank 0, of any picklable type."""

    def alone(self) -> AbstractContextManager[None]:
        """Returns a context in which one process acts without the others."""
        return contextlib.nullcontext()

    def average(
        self, tensors: Sequence[Any], name: str, compression: str = "none"
    ) -> list[Any]:
        """Averages tensors over all workers, within a training step.

        Args:
            tensors: Tensors of the same shapes on all workers.
            name: A name, the same on all workers.
            compression: `"none"`, or `"fp16"` to send half as much.
        """
        return list(tensors)

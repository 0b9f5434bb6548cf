"""A target that is measured: the time that a model takes to predict."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any, ClassVar

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.accounting.costs import Cost, flop_cost
from keras_apoptosis.graph import Analysis
from keras_apoptosis.targets.target import Target
from keras_apoptosis.utils.checks import check_count

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_SECONDS = 0.6  # How long to measure.


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True)
class Latency(Target):
    """Limits the time that a model takes to predict, on this machine.

    It is measured on the whole model, by the compiled `predict_on_batch`.
    FLOPs only steer which units to remove; how many follows from measuring
    candidates of the pruned model until the time is met.

    Args:
        at_most: A share of the time before pruning, above 0 and below 1; or
            a time as text, such as `"5 ms"` or `"800 us"`; or a schedule of
            shares.
        inputs: A batch to predict on. By default zeros, of as many samples as
            `batch_size` says.
        batch_size: Integer > 0. Samples of the default batch.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> ka.targets.Latency(at_most="5 ms").limit(whole=0.020)
    0.005
    >>> ka.targets.Latency(at_most=0.5).limit(whole=0.020)
    0.01
    """

    inputs: Any = dataclasses.field(
        default=None, repr=False, hash=False, compare=False
    )
    batch_size: int = 1

    counted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("batch_size", self.batch_size)

    def cost(self, analysis: Analysis) -> Cost:
        if self.inputs is None or not analysis.has_open_lengths:
            return flop_cost(analysis)
        inputs = backend.flat_inputs(analysis.graph.model, self.inputs)
        return flop_cost(analysis, [tuple(each.shape)[1:] for each in inputs])

    def counts_as(self, other: Target) -> bool:
        return (
            isinstance(other, Latency)
            and super().counts_as(other)
            and self.inputs is other.inputs
        )

    def measure(self, model: keras.Model) -> float:
        """Returns the seconds that one prediction takes.

        Args:
            model: A built Sequential or Functional model, or a nesting of
                those, also in the middle of an epoch of `fit`. It is compiled
                for prediction, if it was not.

        Raises:
            ValueError: If there are no `inputs` and the model takes such of
                unknown shapes.
        """
        inputs = self.inputs
        if inputs is None:
            inputs = self._zeros(model)
        times: list[float] = []
        with backend.beside_training(model):
            for _ in range(3):  # The first compiles.
                model.predict_on_batch(inputs)
            start = time.perf_counter()
            while len(times) < 10 or time.perf_counter() - start < _SECONDS:
                before = time.perf_counter()
                model.predict_on_batch(inputs)
                times.append(time.perf_counter() - before)
        # Whatever else the machine does makes it longer, never shorter.
        return float(np.quantile(times, 0.1))

    def show(self, amount: float) -> str:
        return f"{amount:.3g} s" if amount >= 1 else f"{1000 * amount:.3g} ms"

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments but `inputs`, which are data."""
        return {**super().get_config(), "inputs": None}

    def _zeros(self, model: keras.Model) -> Any:
        def zeros(tensor: keras.KerasTensor) -> np.ndarray:
            shape = tensor.shape[1:]
            if None in shape:
                raise ValueError(
                    "Expected `inputs`, a batch to measure the latency of a "
                    "model whose inputs have no fixed shape. Received: model "
                    f"'{model.name}' with inputs of shape {tensor.shape}"
                )
            return np.zeros((self.batch_size, *shape), tensor.dtype)

        found = [zeros(each) for each in model.inputs]
        return found if len(found) > 1 else found[0]

    def _checked(self, value: Any) -> Any:
        if isinstance(value, str):
            _seconds(value)
            return value
        if not (isinstance(value, (int, float)) and 0 < value < 1):
            raise ValueError(
                "Expected `at_most` to be a share above 0 and below 1, or a "
                f"time such as '5 ms'. Received: at_most={value!r}"
            )
        return value

    def _absolute(self, given: Any, whole: float) -> float:
        return _seconds(given) if isinstance(given, str) else given * whole


def _seconds(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(us|µs|ms|s)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise ValueError(
            "Expected `at_most` to be a time such as '5 ms', '800 us' or "
            f"'1.5 s'. Received: at_most={text!r}"
        )
    return float(found[1]) * _UNITS[found[2]]

"""Limits what pruning may cost, as measured on held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.distributed import collectives
from keras_apoptosis.surgery import snapshot
from keras_apoptosis.utils.checks import check_choice, check_count, check_size
from keras_apoptosis.utils.serialization import MissingData

# Words in the names of metrics by which one tells where better is.
_UP = ("acc", "auc", "precision", "recall", "f1", "iou", "r2", "cosine")
# Means of the same numbers may differ in the last bits.
_TINY = 1e-7
_DOWN = ("loss", "error", "mse", "mae", "entropy", "perplexity", "divergence")


@keras.saving.register_keras_serializable(package="keras_apoptosis")
@dataclasses.dataclass(frozen=True, eq=False)
class Limit:
    """Limits how much worse a model may become by pruning.

    After units were removed the model is evaluated; if the metric is worse
    than before by more than `worse_by`, the removal is undone to the last bit
    and tried with half as much, down to nothing.

    In `ka.prune` "before" is before the first step, so that what fine-tuning
    wins back may be spent again. In callbacks it is before the event, since
    the model learns anyway, and what events cost adds up. Where moving
    statistics are computed anew after a removal, they are for the measurement
    before it as well: what that wins back is no price.

    Args:
        monitor: Name of what `model.evaluate` returns: `"loss"` or a metric,
            such as `"accuracy"`. A prefix `"val_"` is allowed.
        worse_by: Float >= 0. By how much the metric may be worse, in its own
            unit: 0.005 of an accuracy is half a point.
        data: Held-out data by which to judge, with labels: `(x, y)`,
            `(x, y, sample_weight)`, or batches of that. Neither the training
            data, which pruning may fit, nor the test data. As many samples as
            the limit is fine: where a removal changes 2 % of the predictions,
            0.005 of an accuracy is two standard errors on 3,200 samples.
        mode: `"max"` if more is better, `"min"` if less is; `"auto"` tells by
            the name.
        batch_size: Integer > 0. How many samples of an array to run at once.
        attempts: Integer > 0. How often a removal is tried before nothing is
            removed, each time with half as much.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> x, y = np.ones((8, 4)), np.zeros(8)
    >>> ka.Limit("val_accuracy", worse_by=0.005, data=(x, y)).mode
    'max'
    """

    monitor: str
    worse_by: float
    data: Any = dataclasses.field(repr=False)
    mode: str = "auto"
    batch_size: int = 512
    attempts: int = 5

    def __post_init__(self) -> None:
        check_size("worse_by", self.worse_by)
        check_choice("mode", self.mode, ("auto", "min", "max"))
        check_count("batch_size", self.batch_size)
        check_count("attempts", self.attempts)
        if self.data is None:
            raise ValueError(
                "A limit is judged on held-out samples with labels: pass them "
                "as `data=(x, y)`. Received: data=None"
            )
        if self.mode == "auto":
            object.__setattr__(self, "mode", _mode_of(self.metric))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments without `data`."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name != "data"}

    @classmethod
    def from_config(cls, config: dict[str, Any], data: Any = None) -> Limit:
        """Makes a limit from what `get_config` returned.

        Args:
            config: The config.
            data: The held-out data, which configs do not hold.
        """
        return cls(data=MissingData() if data is None else data, **config)

    @property
    def metric(self) -> str:
        """The name by which `model.evaluate` returns the metric."""
        return self.monitor.removeprefix("val_")

    def check(self, model: keras.Model) -> None:
        """Raises a `ValueError` if a model cannot be judged."""
        if isinstance(self.data, MissingData):
            raise ValueError(
                "This limit was made from a config, which holds no data: use "
                "`ka.Limit.from_config(config, data=(x, y))`. Received: no data"
            )
        if not getattr(model, "compiled", False):
            raise ValueError(
                "Expected a compiled model, whose loss and metrics can be "
                f"evaluated. Received: model '{model.name}', not compiled"
            )

    def measure(self, model: keras.Model) -> float:
        """Evaluates a model, also in the middle of an epoch of `fit`.

        The metrics of the training go on as if nothing had happened, and so
        do seeds and statistics of activations. On several workers, each with
        its own share of the data, it is the mean over workers.

        Args:
            model: A compiled model.

        Raises:
            ValueError: If the model is not compiled, or has no such metric.
        """
        self.check(model)
        with backend.beside_training(model):
            state = (*model.metrics_variables, *model.non_trainable_variables)
            kept = [(each, np.array(backend.peek(each))) for each in state]
            with backend.same_random_state():
                found = self._evaluated(model)
            model.reset_metrics()
            for variable, value in kept:
                variable.assign(value)
        if self.metric not in found:
            raise ValueError(
                "Expected `monitor` to be one of the model's metrics: "
                f"{', '.join(sorted(found))}. Received: "
                f"monitor={self.monitor!r}"
            )
        value = np.array(float(found[self.metric]))
        name = f"limit.{self.metric}"
        total = collectives.all_reduce_sum(value, name)
        workers = collectives.all_reduce_sum(np.array(1.0), name)
        return float(total / workers)

    def _evaluated(self, model: keras.Model) -> dict[str, Any]:
        if not isinstance(self.data, (tuple, list)):
            return model.evaluate(self.data, verbose=0, return_dict=True)
        x, y, *weights = self.data
        return model.evaluate(
            x,
            y,
            sample_weight=weights[0] if weights else None,
            batch_size=self.batch_size,
            verbose=0,
            return_dict=True,
        )

    def worse(self, before: float, now: float) -> float:
        """Returns by how much a value is worse than another one.

        Not a number is infinitely worse.
        """
        loss = before - now if self.mode == "max" else now - before
        return float("inf") if np.isnan(loss) else loss

    def allows(self, before: float, now: float, spent: float = 0.0) -> bool:
        """Returns whether the limit allows one value after another.

        Args:
            before: The value before.
            now: The value now.
            spent: How much of `worse_by` earlier removals have cost.
        """
        return self.worse(before, now) <= self.worse_by - spent + _TINY


@dataclasses.dataclass(frozen=True)
class Attempt:
    """The effect of a removal on the metric of a limit.

    Args:
        share: How much of what was wanted was removed.
        value: The metric afterwards.
        kept: Whether the removal was within the limit; otherwise it was
            undone.
    """

    share: float
    value: float
    kept: bool


def measure_before(
    model: keras.Model, limit: Limit, recalibrate: Callable[[], Any]
) -> float:
    """Measures a model as it would be after a removal that costs nothing.

    A removal ends with moving statistics that are computed anew. Where they
    lagged behind, that may win back more than the removal costs.

    Args:
        model: The model, which stays as it is.
        limit: The limit.
        recalibrate: Computes the moving statistics anew.
    """
    start = snapshot(model)
    recalibrate()
    value = limit.measure(model)
    start.restore()
    return value


def within_limit(
    model: keras.Model,
    limit: Limit,
    before: float,
    act: Callable[[float], Any],
    spent: float = 0.0,
) -> tuple[Any, tuple[Attempt, ...]]:
    """Prunes by as much as a limit allows: all, half, and so on.

    Args:
        model: The model.
        limit: The limit. What exceeds it is undone, to the last bit.
        before: The value of its metric to compare with.
        act: Prunes by a share of what is wanted, from 1 downwards. Returns
            what it did, or `None` if there is nothing to do.
        spent: See `Limit.allows`.

    Returns:
        What `act` returned for what was kept, or `None`; and what was tried.
    """
    start = snapshot(model)
    attempts: list[Attempt] = []
    for number in range(limit.attempts):
        share = 0.5**number
        done = act(share)
        if done is None:
            break
        value = limit.measure(model)
        kept = limit.allows(before, value, spent)
        attempts.append(Attempt(share, value, kept))
        if kept:
            return done, tuple(attempts)
        start.restore()
    return None, tuple(attempts)


def _mode_of(metric: str) -> str:
    name = metric.lower()
    up = any(word in name for word in _UP)
    down = any(word in name for word in _DOWN)
    if up == down:
        raise ValueError(
            "Expected `mode` to be 'min' or 'max' for a metric by whose name "
            f"one cannot tell. Received: monitor={metric!r}, mode='auto'"
        )
    return "max" if up else "min"

"""Synaptic stripping: revives dead neurons while a model trains."""

from __future__ import annotations

import contextlib
import numbers
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_apoptosis.accounting.capacity import Capacity, capacity
from keras_apoptosis.callbacks.conflicts import BACKUP, BEST_WEIGHTS
from keras_apoptosis.callbacks.outcome import Masks, Skip
from keras_apoptosis.callbacks.pruning_callback import PruningCallback
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.layers.weight_mask import WeightMask
from keras_apoptosis.schedules import Constant, EveryEpoch, ValueSchedule
from keras_apoptosis.selection.price import Limit
from keras_apoptosis.selection.stripping import strip_weights
from keras_apoptosis.statistics.rectified_layers import (
    Rectified,
    rectified_layers,
)
from keras_apoptosis.training.activation_recorder import ActivationRecorder
from keras_apoptosis.training.masking import check_maskable, mask_of
from keras_apoptosis.training.tracking import start_tracking
from keras_apoptosis.utils.checks import check_count, check_size, check_that
from keras_apoptosis.utils.names import select


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class SynapticStripping(PruningCallback):
    """Masks weights of dead neurons while a model trains, to revive them.

    After Whitaker and Whitley, "Synaptic stripping: how pruning can bring
    dead neurons back to life". At the end of an epoch a unit behind a ReLU is
    dead if its activations over the validation data add up to zero (section
    III-B). The most negative 10 % of the weights that it has left are then
    masked (section III-C), which raises the input of its ReLU, until it is
    active again. Masks stay, and are saved with the model.

    The layers must be Prunable, for the masks: `ka.make_prunable(model)`
    makes them so. The pass over the validation data that `fit` makes anyway
    tells which units are dead. With `share=0` nothing is masked and units are
    only counted; plain layers are enough then, with `data`.

    Units that stay dead can be removed after the training:

    ```python
    ka.shrink(model, ka.selection.dead_units(model, x_val))
    plain = ka.strip_pruning(model)
    ```

    Args:
        share: Share of its remaining weights that a dead unit loses, rounded
            to the nearest number, but at least one weight and never the last:
            a number from 0 to below 1, or a schedule such as
            `ka.schedules.LinearDegree(0.2, 0.05)`.
        schedule: When to mask, always at the end of an epoch. Defaults to
            `ka.schedules.EveryEpoch()`; `EveryEpoch(2)` takes every other.
            The numbers of `ka.schedules.AtEpochs` are used instead of
            `share`.
        data: Where units are judged: `"validation"`, the pass over the
            validation data of `fit`; `"training"`, all batches of the epoch,
            as the weights change; or data of its own, for one more pass each
            epoch: arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            `DataLoader`. Do not use the data on which the model is judged in
            the end.
        threshold: Number of at least 0. A unit counts as dead if its
            activations add up to no more than that; above 0 that includes
            units that are mostly dead.
        convolutions: Whether to strip convolutions as well. The paper does
            not (section III-A): a weight of a filter serves all positions of
            a feature map, so that masking it changes them all.
        layers: Limits stripping to some layers: a name, a layer, a pattern
            or a list of those.
        exclude: Layers to leave as they are.
        limit: A `ka.Limit`, if pruning may cost only so much; see
            `PruningCallback`.
        batch_size: Integer of at least 1: how many samples of `data` to run
            at once.
        total_epochs: Epochs of the whole training, if it is spread over
            several calls of `fit`.
        verbose: 0, 1, 2 or `"auto"`; see `PruningCallback`.

    Attributes:
        dead: For each layer, by path, which of its units were dead when last
            judged: boolean, shape `(units,)`.
        history: A list with one `Event` for each event so far. `fit`'s logs
            get `dead_units` (a number), `active_parameters` (the share of all
            parameters that are neither pruned nor attached to a dead unit,
            section III-D), both again for each layer, as
            `dead_units/<layer>`, `parameters`, `units/<group>` and
            `synaptic_stripping_seconds`, the callback's own time. In epochs
            without a pass over validation data the numbers are those of the
            last one, or NaN before the first.

    Raises:
        ValueError: If an argument is out of range; when training begins, if
            the model has no layer to strip or layers that cannot be masked;
            or when an epoch that is due ends without a pass over validation
            data.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].bias.assign(np.repeat([-9.0, 0.0], 32))
    >>> model = ka.make_prunable(model)
    >>> model.compile("adam", "mse")
    >>> history = model.fit(
    ...     x, x[:, :1], validation_split=0.1, epochs=2, verbose=0,
    ...     callbacks=[ka.callbacks.SynapticStripping(share=0.25)],
    ... ).history
    >>> history["dead_units"]
    [32, 32]
    >>> kept = keras.ops.convert_to_numpy(model.layers[0].kernel_mask).sum(0)
    >>> int(kept[0]), int(kept[-1])  # 8 weights less 2, less 2 of 6
    (4, 8)
    """

    waits_for_epoch = True
    shown = ("dead_units",)
    transient: ClassVar[Mapping[str, Any]] = {
        **PruningCallback.transient,
        "_recorder": lambda: None,
    }

    def __init__(
        self,
        share: Any = 0.1,
        *,
        schedule: Any = None,
        data: Any = "validation",
        threshold: float = 0.0,
        convolutions: bool = False,
        layers: Any = None,
        exclude: Any = (),
        limit: Limit | None = None,
        batch_size: int = 512,
        total_epochs: int | None = None,
        verbose: bool | int | str = "auto",
    ):
        super().__init__(
            EveryEpoch() if schedule is None else schedule,
            layers=layers,
            exclude=exclude,
            limit=limit,
            recalibrate=False,  # `data` is no training data.
            total_epochs=total_epochs,
            verbose=verbose,
        )
        fixed = isinstance(share, numbers.Real) and 0 <= float(share) < 1
        check_that(
            "share",
            share,
            fixed or isinstance(share, ValueSchedule),
            "a number from 0 to below 1, or a schedule",
        )
        check_size("threshold", threshold)
        check_count("batch_size", batch_size)
        self.share = share
        self.data = data
        self.threshold = threshold
        self.convolutions = convolutions
        self.batch_size = batch_size
        self.dead: dict[str, np.ndarray] = {}
        self._degree = Constant(float(share)) if fixed else share
        self._recorder: Any = ActivationRecorder(data, batch_size)
        self._capacities: dict[str, Capacity] = {}
        self._judged = False  # In the present epoch.
        self._masked: dict[str, int] = {}  # At the present event.

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "dead": dict(self.dead)}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.dead = state["dead"]

    @property
    def conflicts(self) -> tuple[str, ...]:
        # Sizes stay, so that the best model may be one of before a mask.
        return (BEST_WEIGHTS, BACKUP)

    def begin(self, analysis: Analysis) -> None:
        layers = self._chosen(analysis)
        if not self._only_counts:
            self._check(layers)
        if isinstance(self.data, str):
            start_tracking(self.model, [each.judge for each in layers])
        self._recorder = ActivationRecorder(self.data, self.batch_size)
        self._recorder.begin_fit(layers)

    def end(self) -> None:
        if self._recorder is not None:
            self._recorder.end_fit()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        with self._timed():
            self._recorder.begin_epoch()

    def on_test_begin(self, logs: Any = None) -> None:
        super().on_test_begin(logs)
        with self._timed():
            self._recorder.begin_test()

    def on_test_end(self, logs: Any = None) -> None:
        with self._timed():
            self._recorder.end_test()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        with self._timed():
            self._judge()
        super().on_epoch_end(epoch, logs)

    def amount_at(self, event: int, progress: float) -> float:
        share = self.schedule.sparsity_at(event)
        if share is not None:
            return share
        events = len(self._trigger.times)
        position = event / (events - 1) if events > 1 else 0.0
        return float(self._degree(position))

    def prune(self, analysis: Analysis, amount: float) -> Masks | Skip:
        if not self._judged:
            raise ValueError(
                "Stripping is due, but `fit` made no pass over validation "
                "data in this epoch. Give it `validation_data` (with a "
                "`validation_freq` of 2 use `schedule=EveryEpoch(2)`), or "
                "judge units with `data='training'` or data of your own. "
                "Received: data='validation' and no validation in epoch "
                f"{self._progress.epoch}"
            )
        self._masked = dict.fromkeys(self.dead, 0)
        if self._only_counts:
            return Skip("units are only counted")
        masks: dict[WeightMask, np.ndarray] = {}
        for each in self._chosen(analysis):
            units = np.flatnonzero(self.dead[each.path])
            if not units.size or amount <= 0:
                continue
            kernel = ops.convert_to_numpy(each.layer.kernel)
            old = mask_of(each.layer)
            new = strip_weights(kernel, old, units, amount, each.rule.unit_axis)
            self._masked[each.path] = int(old.sum() - new.sum())
            if self._masked[each.path]:
                masks[each.layer] = new
        if masks:
            return Masks(masks)
        dead = sum(int(which.sum()) for which in self.dead.values())
        return Skip(f"{dead} units are dead, and none has weights to spare")

    def details(self) -> dict[str, Any]:
        return {
            "dead": {path: int(w.sum()) for path, w in self.dead.items()},
            "stripped": dict(self._masked),
        }

    def measures(self, analysis: Analysis) -> dict[str, float]:
        if self._judged:
            self._capacities = capacity(analysis, self.dead)
        paths = [each.path for each in self._chosen(analysis)]
        known = all(path in self._capacities for path in paths)
        found = {"dead_units": np.nan, "active_parameters": np.nan}
        if known:
            every = self._capacities.values()
            found["dead_units"] = sum(int(self.dead[p].sum()) for p in paths)
            found["active_parameters"] = sum(every, Capacity(0, 0)).share
        for path in paths:
            found[f"dead_units/{path}"] = (
                int(self.dead[path].sum()) if known else np.nan
            )
            found[f"active_parameters/{path}"] = (
                self._capacities[path].share if known else np.nan
            )
        return found

    @property
    def _only_counts(self) -> bool:
        return self._degree == Constant(0.0)

    def _judge(self) -> None:
        analysis = analyse(self.model)
        totals = self._recorder.end_epoch(analysis, self._chosen(analysis))
        self._judged = totals is not None
        if totals is not None:
            self.dead = {
                path: total <= self.threshold for path, total in totals.items()
            }

    def _chosen(self, analysis: Analysis) -> list[Rectified]:
        """Returns the layers whose units are judged."""
        chosen = select(
            rectified_layers(analysis.graph, self.convolutions),
            lambda each: {each.path, each.layer.name},
            self.layers,
            self.exclude,
            "layers whose units a ReLU follows",
            layers_of=lambda each: [each.layer],
        )
        if not chosen:
            kind = "dense layer"
            if self.convolutions:
                kind += " or convolution"
            raise ValueError(
                f"Expected a model with a {kind} whose units a ReLU follows "
                "directly; for units of other activations dead has no "
                f"meaning. Received: model '{self.model.name}' without any"
            )
        return chosen

    def _check(self, layers: list[Rectified]) -> None:
        """Raises if a layer cannot be masked, before anything changes."""
        for each in layers:
            if not isinstance(each.layer, WeightMask):
                raise ValueError(
                    "Weights can be masked in Prunable layers only. Convert "
                    "the model by `ka.make_prunable(model)`, or leave the "
                    "layer out by `exclude`; `share=0` counts dead units and "
                    f"masks nothing. Received: {type(each.layer).__name__} "
                    f"'{each.path}'"
                )
        check_maskable(self.model, {each.path: each.layer for each in layers})

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

"""Synaptic stripping: dead neurons come back to life while a model trains."""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.accounting.capacity import Capacity, capacity
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.layers.weight_mask import WeightMask
from keras_apoptosis.schedules import Constant, EventSchedule, EveryEpoch
from keras_apoptosis.selection.stripping import strip_weights
from keras_apoptosis.statistics.rectified_layers import (
    Rectified,
    rectified_layers,
)
from keras_apoptosis.training.activation_recorder import ActivationRecorder
from keras_apoptosis.training.masking import (
    check_maskable,
    mask_of,
    mask_weights,
)
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.settling_trigger import agenda_of
from keras_apoptosis.utils.checks import check_size


@dataclasses.dataclass(frozen=True)
class Stripping:
    """What one event of `SynapticStripping` did.

    Args:
        epoch: Epoch of the whole training at whose end it fired, counted
            from 0.
        share: Share of the remaining weights that each dead unit lost.
        dead: For each layer, by path, how many of its units were dead.
        stripped: For each layer, by path, how many weights were masked.
    """

    epoch: int
    share: float
    dead: Mapping[str, int]
    stripped: Mapping[str, int]


class SynapticStripping(keras.callbacks.Callback):
    """Masks weights of dead neurons while a model trains, to revive them.

    After Whitaker and Whitley, "Synaptic stripping: how pruning can bring
    dead neurons back to life". At the end of an epoch a unit behind a ReLU is
    dead if its activations over the validation data add up to zero (section
    III-B). The most negative 10 % of the weights that it has left are then
    masked (section III-C), which raises what its ReLU receives, until it is
    active again. Masks stay, and are saved with the model.

    The layers must be Prunable, for the masks, and keep statistics: the pass
    over the validation data that `fit` makes anyway then tells which units
    are dead. `ka.make_prunable(model, track_statistics=True)` makes them so.
    With `share=0` nothing is masked and units are only counted; plain layers
    will do then, with `data`.

    Units that stay dead can leave after the training:

    ```python
    ka.shrink(model, ka.selection.dead_units(model, x_val))
    plain = ka.strip_pruning(model)
    ```

    Args:
        share: Share of its remaining weights that a dead unit loses, rounded
            to the nearest number, but at least one weight and never the last:
            a number from 0 to below 1, or a schedule such as
            `ka.schedules.LinearDegree(0.2, 0.05)`.
        schedule: When, always at the end of an epoch. Defaults to
            `ka.schedules.EveryEpoch()`; `EveryEpoch(2)` takes every other.
            The amounts of `ka.schedules.AtEpochs` stand in for `share`.
        data: Where units are judged: `"validation"`, the pass over the
            validation data of `fit`; `"training"`, all batches of the epoch,
            as the weights change; or data of its own, for one more pass each
            epoch: arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            `DataLoader`. Never the data on which the model is judged in the
            end.
        threshold: Number, at least 0. A unit counts as dead if its
            activations add up to no more than that; above 0 that takes
            "mostly dead" units in.
        convolutions: Whether to strip convolutions as well. The paper does
            not (section III-A): a weight of a filter serves all positions of
            a feature map, so that masking it changes them all.
        layers: Names of layers to which it is limited.
        exclude: Names of layers to leave alone.
        batch_size: How many samples of `data` to run at once.
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`.

    Attributes:
        dead: For each layer, by path, which of its units were dead when last
            judged: boolean, shape `(units,)`.
        history: A list with one `Stripping` for each event so far. `fit`'s
            own logs get, for each epoch in which units were judged,
            `dead_units` (a number), `active_parameters` (the share of all
            parameters that are neither pruned nor attached to a dead unit,
            section III-D), both again for each layer, as
            `dead_units/<layer>`, and `synaptic_stripping_seconds`, the
            callback's own time. Callbacks that write logs, such as
            `CSVLogger`, must come after this one in the list.

    Raises:
        ValueError: If an argument is out of range; when training begins, if
            the model has no layer to strip, or layers that cannot be masked
            or keep no statistics; or when an epoch that is due ends without
            a pass over validation data.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> _ = model.layers[0].bias.assign(np.repeat([-9.0, 0.0], 32))
    >>> model = ka.make_prunable(model, track_statistics=True)
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

    def __init__(
        self,
        share: Any = 0.1,
        *,
        schedule: Any = None,
        data: Any = "validation",
        threshold: float = 0.0,
        convolutions: bool = False,
        layers: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        batch_size: int = 512,
        total_epochs: int | None = None,
    ):
        super().__init__()
        fixed = isinstance(share, numbers.Real)
        if not (callable(share) or (fixed and 0 <= share < 1)):
            raise ValueError(
                "Expected `share` to be a number from 0 to below 1, or a "
                f"schedule. Received: share={share}"
            )
        schedule = EveryEpoch() if schedule is None else schedule
        if not isinstance(schedule, EventSchedule):
            raise ValueError(
                "Expected `schedule` to be one of `ka.schedules` that fires "
                f"events, such as `EveryEpoch(2)`. Received: {schedule=}"
            )
        check_size("threshold", threshold)
        self.share = share if callable(share) else Constant(float(share))
        self.schedule = schedule
        self.threshold = threshold
        self.convolutions = convolutions
        self.layers = None if layers is None else tuple(layers)
        self.exclude = tuple(exclude)
        self.dead: dict[str, np.ndarray] = {}
        self.history: list[Stripping] = []
        self._only_counts = self.share == Constant(0.0)
        self._progress = TrainingProgress(total_epochs)
        self._agenda = agenda_of(schedule, self._progress, lambda: self.model)
        self._watch = ActivationRecorder(data, batch_size)
        self._seconds = 0.0

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint keeps; see `ka.callbacks.Checkpoint`."""
        return {
            "agenda": self._agenda.get_state(),
            "dead": dict(self.dead),
            "history": [dataclasses.asdict(event) for event in self.history],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` gave."""
        self._agenda.set_state(state["agenda"])
        self.dead = state["dead"]
        self.history = [Stripping(**event) for event in state["history"]]

    def on_train_begin(self, logs: Any = None) -> None:
        layers = self._chosen(analyse(self.model))
        if not self._only_counts:
            self._check(layers)
        self._watch.begin_fit(layers)
        self._progress.begin_fit(self.params)
        self._agenda.begin_fit()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._progress.begin_epoch(epoch)
        self._agenda.begin_epoch()
        self._seconds = 0.0
        with self._timed():
            self._watch.begin_epoch()

    def on_test_begin(self, logs: Any = None) -> None:
        with self._timed():
            self._watch.begin_test()

    def on_test_end(self, logs: Any = None) -> None:
        with self._timed():
            self._watch.end_test()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._progress.end_epoch()
        event = self._agenda.due()
        with self._timed():
            found = self._judge_and_strip(epoch, event)
        if logs is not None and found:
            logs.update(found)
            logs["synaptic_stripping_seconds"] = self._seconds

    def on_train_end(self, logs: Any = None) -> None:
        self._watch.end_fit()

    def _judge_and_strip(
        self, epoch: int, event: int | None
    ) -> dict[str, float]:
        """The measures of this epoch, for the logs."""
        analysis = analyse(self.model)
        layers = self._chosen(analysis)
        totals = self._watch.end_epoch(analysis, layers)
        if totals is None:
            if event is None:
                return {}
            raise ValueError(
                "Stripping is due, but `fit` made no pass over validation "
                "data in this epoch. Give it `validation_data` (with a "
                "`validation_freq` of 2 use `schedule=EveryEpoch(2)`), or "
                "judge units with `data='training'` or data of your own. "
                f"Received: data='validation' and no validation, {epoch=}"
            )
        self.dead = {path: t <= self.threshold for path, t in totals.items()}
        if event is not None and not self._only_counts:
            self._strip(layers, self._share_at(event))
        return _measures(self.dead, capacity(analysis, self.dead))

    def _share_at(self, event: int) -> float:
        amount = self.schedule.amount(event)
        if amount is not None:
            return amount
        last = len(self._agenda.times) - 1
        return float(self.share(event / last if last else 0.0))

    def _strip(self, layers: list[Rectified], share: float) -> None:
        masks: dict[WeightMask, np.ndarray] = {}
        stripped = dict.fromkeys(self.dead, 0)
        for each in layers:
            units = np.flatnonzero(self.dead[each.path])
            if not units.size or share <= 0:
                continue
            kernel = ops.convert_to_numpy(each.layer.kernel)
            old = mask_of(each.layer)
            new = strip_weights(kernel, old, units, share, each.rule.unit_axis)
            stripped[each.path] = int(old.sum() - new.sum())
            if stripped[each.path]:
                masks[each.layer] = new
        if masks:
            mask_weights(self.model, masks)
        counts = {path: int(each.sum()) for path, each in self.dead.items()}
        done = self._progress.epoch - 1
        self.history.append(Stripping(done, share, counts, stripped))

    def _chosen(self, analysis: Analysis) -> list[Rectified]:
        """The layers whose units are judged."""
        every = rectified_layers(analysis.graph, self.convolutions)
        names = {name for each in every for name in _names(each)}
        for name in (*(self.layers or ()), *self.exclude):
            if name not in names:
                raise ValueError(
                    "Expected names of layers whose units a ReLU follows: "
                    f"{', '.join(e.path for e in every) or '(none)'}. "
                    f"Received: '{name}'"
                )
        chosen = [
            each
            for each in every
            if (self.layers is None or _names(each) & {*self.layers})
            and not _names(each) & {*self.exclude}
        ]
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
        """Complains before the training, and before anything changes."""
        for each in layers:
            if not isinstance(each.layer, WeightMask):
                raise ValueError(
                    "Weights can be masked in Prunable layers only. Convert "
                    "the model by `ka.make_prunable(model, "
                    "track_statistics=True)`, or leave the layer out by "
                    "`exclude`; `share=0` counts dead units and masks "
                    f"nothing. Received: {type(each.layer).__name__} "
                    f"'{each.path}'"
                )
        check_maskable(self.model, {each.path: each.layer for each in layers})

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start


def _names(layer: Rectified) -> set[str]:
    return {layer.path, layer.layer.name}


def _measures(
    dead: Mapping[str, np.ndarray], capacities: Mapping[str, Capacity]
) -> dict[str, float]:
    """Dead units and active parameters, whole and by layer, for the logs."""
    whole = sum(capacities.values(), Capacity(0, 0))
    found: dict[str, float] = {
        "dead_units": sum(int(each.sum()) for each in dead.values()),
        "active_parameters": whole.share,
    }
    for path, each in dead.items():
        found[f"dead_units/{path}"] = int(each.sum())
        found[f"active_parameters/{path}"] = capacities[path].share
    return found

"""Weights or units with low scores leave while the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_apoptosis import criteria
from keras_apoptosis.backend import kernel_of, layers_inside
from keras_apoptosis.callbacks.scheduled_surgery import ScheduledSurgery
from keras_apoptosis.graph import UnitGroup
from keras_apoptosis.layers.weight_mask import WeightMask
from keras_apoptosis.schedules import EventSchedule, Polynomial
from keras_apoptosis.selection.budget import lowest, share_of
from keras_apoptosis.selection.mean_replacement import mean_replacements
from keras_apoptosis.statistics.streaming import labelled_batches, sample_of
from keras_apoptosis.surgery import Removal, shrink
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.training.masking import (
    check_maskable,
    mask_of,
    mask_weights,
    masked_count,
)
from keras_apoptosis.utils.checks import check_choice, check_count


class SaliencyPruning(ScheduledSurgery):
    """Prunes the weights or units that a criterion scores lowest.

    After Evci, "Detecting dead weights and units in neural networks", 2018.
    At each event of the schedule a share of what there was at the start has
    to be gone. Units leave the model, and their means go into the biases of
    the layers that read them (bias propagation); weights are masked, and stay
    exactly zero from then on.

    Args:
        criterion: The name of a criterion, or a function of a model and a
            sample that returns scores. For units
            `"mean_replacement_saliency"`, `"mean_replacement_penalty"`,
            `"l1_norm"`, `"squared_norm"` or `"random"`; for weights
            `"magnitude"`, `"taylor"`, `"taylor2"`, `"hessian"`, the last
            three with `"absolute_"` before it, `"loss_change"` or
            `"random"`. See `ka.criteria`.
        schedule: When, and what share is gone by then, such as
            `ka.schedules.AtEpochs({2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6})` (table
            4.2), `ka.schedules.Polynomial`, `ka.schedules.OneShot` or
            `ka.schedules.WhenSettled`. Defaults to `Polynomial(0.5, count=4)`.
        structure: `"units"`, or `"weights"`, of the kernels of Prunable
            layers.
        data: Training sample `(x, y)`, or batches of that, by which the
            criterion judges and over which means are taken. Callbacks do not
            see the data of `fit`, so it has to be given; 1,000 samples will
            do. Not the data on which the model is judged in the end.
        budget: `"local"` for the share of every group, or kernel; `"global"`
            for that of all together, wherever the scores are lowest.
        replacement: `"mean"` to replace units by their means, `"zero"` just
            to remove them.
        layers: Names of layers or groups to which it is limited.
        exclude: Names of layers or groups to leave alone.
        min_units: How many units every group keeps.
        samples: How many samples of `data` to use at most.
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`.
        verbose: Whether to print what events did; `"auto"` follows `fit`.

    Attributes:
        history: A list with one `Event` for each event so far. `fit`'s own
            logs get `parameters`, `units/<group>`, `masked_weights` and, in
            epochs with an event, `saliency_pruning_seconds`.

    Raises:
        ValueError: If an argument is out of range, or, when training begins,
            if the model has nothing to prune.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.compile("adam", "mse")
    >>> pruning = ka.callbacks.SaliencyPruning(
    ...     "mean_replacement_saliency",
    ...     schedule=ka.schedules.AtEpochs({1: 0.25, 2: 0.5}),
    ...     data=(x, x[:, :1]),
    ... )
    >>> _ = model.fit(
    ...     x, x[:, :1], epochs=3, callbacks=[pruning], verbose=0
    ... )
    >>> model.layers[0].units
    32
    """

    def __init__(
        self,
        criterion: Any = "mean_replacement_saliency",
        *,
        schedule: Any = None,
        structure: str = "units",
        data: Any = None,
        budget: str = "local",
        replacement: str = "mean",
        layers: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_units: int = 1,
        samples: int = 1000,
        total_epochs: int | None = None,
        verbose: bool | str = "auto",
    ):
        schedule = Polynomial(0.5, count=4) if schedule is None else schedule
        super().__init__(
            schedule,
            layers=layers,
            exclude=exclude,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        self.criterion = criteria.get(criterion, structure)
        self._labelled = self.criterion.needs_labels
        if not _has_amount(schedule):
            raise ValueError(
                "Expected `schedule` to say how much goes, as `ka.schedules."
                "AtEpochs`, `Polynomial` and `OneShot` do. "
                f"Received: {schedule=}"
            )
        check_choice("budget", budget, ("local", "global"))
        check_choice("replacement", replacement, ("mean", "zero"))
        check_count("min_units", min_units)
        measured = structure == "units" and replacement == "mean"
        if data is None and (measured or self.criterion.needs_data):
            raise ValueError(
                "Units and weights are judged, and means taken, on training "
                "samples, and callbacks do not see the data of `fit`. Pass "
                "some, as `data=(x_train[:1000], y_train[:1000])`. "
                f"Received: data=None, criterion={criterion!r}, "
                f"{replacement=}"
            )
        self.structure = structure
        self.budget = budget
        self.replacement = replacement
        self.min_units = min_units
        self._data = data
        self._samples = samples
        self._read: Any = None
        self._at_first: dict[str, int] = {}

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "at_first": self._at_first}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._at_first = state["at_first"]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        if self.structure == "weights":
            self._check_layers()
        if self._read is None and self._data is not None:
            self._read = sample_of(self._data, self._samples)
            if self._labelled:
                next(labelled_batches(self._read))  # Complains without.
        for group in self.groups():
            self._at_first.setdefault(group.name, group.size)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None and self.structure == "weights":
            logs["masked_weights"] = masked_count(self.model)

    def numbered_groups(self) -> list[tuple[int, UnitGroup]]:
        # Names are those of layers where weights are pruned.
        return super().numbered_groups() if self.structure == "units" else []

    def degree_at(self, event: int, events: int, progress: float) -> float:
        return self.schedule.amount(event)

    def operate(self, degree: float) -> tuple[Report | None, str]:
        if self.structure == "weights":
            return self._mask(degree)
        return self._remove(degree)

    def _remove(self, share: float) -> tuple[Report | None, str]:
        sizes = {group.name: group.size for group in self.groups()}
        scores = {
            name: each
            for name, each in self.criterion.score(
                self.model, self._read
            ).items()
            if name in sizes
        }
        if not scores:
            return None, "the criterion scores none of the groups"
        gone = {name: self._at_first[name] - sizes[name] for name in scores}
        if self.budget == "local":
            count: Any = {
                name: max(share_of(self._at_first[name], share) - before, 0)
                for name, before in gone.items()
            }
        else:
            every = sum(self._at_first[name] for name in scores)
            count = max(share_of(every, share) - sum(gone.values()), 0)
        chosen = lowest(scores, count, keep=self.min_units)
        removed = {name: each for name, each in chosen.items() if each.size}
        if not removed:
            return None, f"{share:.0%} of the units are gone already"
        replacements = (
            mean_replacements(self.model, self._read, removed)
            if self.replacement == "mean"
            else {}
        )
        return shrink(self.model, Removal(removed, replacements)), ""

    def _mask(self, share: float) -> tuple[Report | None, str]:
        layers = self._masked_layers()
        scores = self.criterion.score(self.model, self._read)
        weights = self.model.trainable_variables
        number = {id(weight): index for index, weight in enumerate(weights)}
        masks = {str(i): mask_of(layer) for i, layer in enumerate(layers)}
        flat = {}
        for name, layer in zip(masks, layers, strict=True):
            score = scores[number[id(kernel_of(layer))]]
            # What is masked stays so, and counts.
            flat[name] = np.where(masks[name], score, -np.inf).reshape(-1)
        count: Any = {n: share_of(each.size, share) for n, each in flat.items()}
        if self.budget == "global":
            count = share_of(sum(each.size for each in flat.values()), share)
        new = {}
        chosen = lowest(flat, count)
        for name, layer in zip(masks, layers, strict=True):
            mask = masks[name].copy()
            mask.reshape(-1)[chosen[name]] = False
            if (mask != masks[name]).any():
                new[layer] = mask
        if not new:
            return None, f"{share:.0%} of the weights are masked already"
        mask_weights(self.model, new)
        return None, ""

    def _masked_layers(self) -> list[WeightMask]:
        """The layers whose weights are pruned."""
        found = {
            id(layer): layer
            for layer in layers_inside(self.model)
            if isinstance(layer, WeightMask) and kernel_of(layer).trainable
        }
        return [
            layer
            for layer in found.values()
            if (self.layers is None or layer.name in self.layers)
            and layer.name not in self.exclude
        ]

    def _check_layers(self) -> None:
        names = {layer.name for layer in layers_inside(self.model)}
        for name in (*(self.layers or ()), *self.exclude):
            if name not in names:
                raise ValueError(
                    f"Expected names of layers of the model. Received: '{name}'"
                )
        layers = self._masked_layers()
        if not layers:
            raise ValueError(
                "Weights can be masked in Prunable layers only. Convert the "
                "model by `ka.make_prunable(model)`. Received: model "
                f"'{self.model.name}' without any whose kernel is trained"
            )
        check_maskable(self.model, {each.name: each for each in layers})


def _has_amount(schedule: Any) -> bool:
    return isinstance(schedule, EventSchedule) and (
        schedule.amount(0) is not None
    )

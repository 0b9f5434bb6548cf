"""Saliency pruning: prunes the weights or units that score lowest."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_apoptosis import criteria
from keras_apoptosis.backend import kernel_of, layers_inside
from keras_apoptosis.callbacks.outcome import Masks, Skip
from keras_apoptosis.callbacks.pruning_callback import PruningCallback
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.layers.weight_mask import WeightMask
from keras_apoptosis.schedules import (
    EventSchedule,
    Logarithmic,
    Polynomial,
)
from keras_apoptosis.selection.budget import lowest, share_of
from keras_apoptosis.selection.price import Limit
from keras_apoptosis.selection.ranking import (
    ALL_REPLACEMENTS,
    Ranking,
    Refitting,
)
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.statistics.streaming import labelled_batches, sample_of
from keras_apoptosis.surgery import Removal, snapshot
from keras_apoptosis.training.masking import (
    check_maskable,
    mask_of,
    masked_count,
)
from keras_apoptosis.utils.checks import check_choice, check_count, check_that
from keras_apoptosis.utils.names import select


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class SaliencyPruning(PruningCallback):
    """Prunes the weights or units that a criterion scores lowest.

    After Evci, "Detecting dead weights and units in neural networks", 2018.
    At each event the model is pruned to the sparsity of the schedule, a share
    of what there was at the start. Units are removed, and their means go into
    the biases of the layers that read them (bias propagation); weights are
    masked, and stay exactly zero from then on.

    Args:
        criterion: The name of a criterion, or a function of a model and a
            sample that returns scores. For units
            `"mean_replacement_saliency"`, `"mean_replacement_penalty"`,
            `"l1_norm"`, `"squared_norm"`, `"snap"`, `"cropit"`,
            `"normalization_scale"` or `"random"`; for weights `"magnitude"`,
            `"taylor"`, `"taylor2"`, `"hessian"`, the last three with
            `"absolute_"` before it, `"loss_change"` or `"random"`. See
            `ka.criteria`.
        schedule: When to prune, and to which sparsity, such as
            `ka.schedules.AtEpochs({2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6})` (table
            4.2), `ka.schedules.Polynomial`, `ka.schedules.OneShot` or
            `ka.schedules.WhenSettled`. Defaults to `Polynomial(0.5, count=4)`.
        granularity: `"units"`, or `"weights"` of the kernels of Prunable
            layers.
        data: Training sample `(x, y)`, or batches of that, on which the
            criterion judges and over which means are taken. Callbacks do not
            see the data of `fit`, so it has to be given, unless the criterion
            needs none and nothing is replaced by its mean; 1,000 samples are
            enough. Do not use the data on which the model is judged in the
            end.
        scope: `"local"` to reach the sparsity in every group, or kernel;
            `"global"` to reach it in all together, wherever the scores are
            lowest.
        replacement: `"mean"`, `"median"`, `"minimum"` or `"maximum"` to
            replace units by that, `"zero"` just to remove them. Criteria of
            mean replacement judge units by the same constants, and by means
            for the others. `"least_squares"` replaces them by combinations of
            the units that stay, as `ka.prune` does, which loses less; by means
            where units cannot be combined.
        at: `"post"` for the constants that stand for values after the
            activation, `"pre"` for values before it, as the thesis has it, at
            which criteria of mean replacement then judge, too.
        rounds: Integer of at least 1: in how many rounds an event chooses
            what to prune, with what is left scored anew in each. Each goes
            half of the way, the last all that is left of it. SNAP and CroPit-S
            prune in rounds (see `ka.criteria.snap`).
        layers: Limits pruning to some groups or layers; see
            `PruningCallback`.
        exclude: Groups or layers to leave as they are.
        target: Instead of the schedule's sparsities, for units: one of
            `ka.targets`, or several; see `PruningCallback`.
        limit: A `ka.Limit`, if pruning may cost only so much; see
            `PruningCallback`.
        min_units: Integer of at least 1: how many units every group keeps.
        round_to: Integer of at least 1: the number of kept units is rounded
            up to a multiple of it.
        samples: Integer of at least 1: how many samples of `data` to use.
        recalibrate: Whether to compute moving statistics anew, from `data`;
            see `PruningCallback`.
        prune_non_trainable: Whether layers with `trainable=False` may lose
            units, too; see `PruningCallback`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes, such as those
            of a residual stream; see `ka.shrink`.
        total_epochs: Epochs of the whole training, if it is spread over
            several calls of `fit`.
        verbose: 0, 1, 2 or `"auto"`; see `PruningCallback`.

    Attributes:
        history: A list with one `Event` for each event so far. `fit`'s logs
            get `parameters`, `units/<group>`, `saliency_pruning_seconds` and
            `masked_weights`.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
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

    shown = ("parameters", "masked_weights")

    def __init__(
        self,
        criterion: Any = "mean_replacement_saliency",
        *,
        schedule: Any = None,
        granularity: str = "units",
        data: Any = None,
        scope: str = "local",
        replacement: str = "mean",
        at: str = "post",
        rounds: int = 1,
        layers: Any = None,
        exclude: Any = (),
        target: Any = None,
        limit: Limit | None = None,
        min_units: int = 1,
        round_to: int = 1,
        samples: int = 4096,
        recalibrate: bool = True,
        prune_non_trainable: bool = False,
        prune_normalized: bool = False,
        total_epochs: int | None = None,
        verbose: bool | int | str = "auto",
    ):
        super().__init__(
            _default_schedule(target) if schedule is None else schedule,
            layers=layers,
            exclude=exclude,
            target=target,
            limit=limit,
            min_units=min_units,
            round_to=round_to,
            recalibrate=recalibrate,
            prune_non_trainable=prune_non_trainable,
            prune_normalized=prune_normalized,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        found = criteria.get(criterion, granularity)
        check_choice("scope", scope, ("local", "global"))
        check_choice("replacement", replacement, ALL_REPLACEMENTS)
        check_choice("at", at, ("pre", "post"))
        check_count("rounds", rounds)
        check_count("samples", samples)
        # What units are judged by is what replaces them.
        self._criterion = Ranking(found, replacement, None, at=at).criterion
        says_how_much = self.schedule.sparsity_at(0) is not None
        check_that(
            "schedule",
            schedule,
            says_how_much == (target is None),
            "one that says the sparsity to reach, as `ka.schedules.AtEpochs`, "
            "`Polynomial` and `OneShot` do, or with a `target` one that does "
            "not, as `Logarithmic`",
        )
        check_that(
            "target",
            target,
            target is None or granularity == "units",
            "None, since weights that are masked save nothing",
        )
        check_that(
            "rounds",
            rounds,
            target is None or rounds == 1,
            "1 with a `target`, on the way to which each event scores anew",
        )
        means = granularity == "units" and replacement != "zero"
        if data is None and (means or self._criterion.needs_data):
            raise ValueError(
                "Units and weights are judged, and means taken, on training "
                "samples, and callbacks do not see the data of `fit`. Pass "
                "some, as `data=(x_train[:1000], y_train[:1000])`. "
                f"Received: data=None, criterion={criterion!r}, "
                f"{replacement=}"
            )
        self.criterion = criterion
        self.granularity = granularity
        self.data = data
        self.scope = scope
        self.replacement = replacement
        self.at = at
        self.rounds = rounds
        self.samples = samples
        self._sample: Any = None
        self._first_sizes: dict[str, int] = {}

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "first_sizes": self._first_sizes}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._first_sizes = state["first_sizes"]

    def begin(self, analysis: Analysis) -> None:
        if self.granularity == "weights":
            layers = self._masked_layers()
            check_maskable(self.model, {each.name: each for each in layers})
        else:
            for group in self.groups(analysis):
                self._first_sizes.setdefault(group.name, group.size)
        self._take_sample()

    def _take_sample(self) -> None:
        if self._sample is None and self.data is not None:
            self._sample = sample_of(self.data, self.samples)
            if self._criterion.needs_labels:
                next(labelled_batches(self._sample))  # Raises without labels.

    def ranking(self) -> Ranking:
        self._take_sample()
        if self.replacement == "least_squares":
            return Ranking(
                self._criterion,
                None,  # Means where units cannot be combined.
                self._sample,
                Reconstruction(self._sample, self.samples),
                at=self.at,
            )
        return Ranking(
            self._criterion, self.replacement, self._sample, at=self.at
        )

    def refitting(self) -> Refitting | None:
        if self.replacement != "least_squares":
            return None
        return self.ranking().refitting()

    def measures(self, analysis: Analysis) -> dict[str, float]:
        return {"masked_weights": masked_count(self.model)}

    def prune(
        self, analysis: Analysis, amount: float
    ) -> Removal | Masks | Skip:
        if self.rounds == 1:
            return self._prune_once(analysis, amount)
        return self._prune_in_rounds(analysis, amount)

    def prune_less(
        self, analysis: Analysis, amount: float, share: float
    ) -> Removal | Masks | Skip:
        now = self._sparsity(analysis)
        return self.prune(analysis, now + share * (amount - now))

    def _prune_once(
        self, analysis: Analysis, amount: float
    ) -> Removal | Masks | Skip:
        if self.granularity == "weights":
            return self._mask(amount)
        return self._remove(analysis, amount)

    def _prune_in_rounds(
        self, analysis: Analysis, amount: float
    ) -> Removal | Masks | Skip:
        """Decides in rounds, each on the model as the one before leaves it.

        The rounds are undone, so that the event prunes once.
        """
        now = self._sparsity(analysis)
        sizes = {group.name: group.size for group in analysis.groups}
        left = {name: np.arange(size) for name, size in sizes.items()}
        masks: dict[WeightMask, np.ndarray] = {}
        start = snapshot(self.model)
        try:
            for number in range(1, self.rounds + 1):
                part = 0.5**number if number < self.rounds else 0.0
                outcome = self._prune_once(
                    analyse(self.model), amount - part * (amount - now)
                )
                if isinstance(outcome, Masks):
                    masks |= outcome
                elif isinstance(outcome, Removal):
                    for name, units in outcome.items():
                        left[name] = np.delete(left[name], units)
                if part:
                    self._apply(outcome)
        finally:
            start.restore()
            self._recalibrated = False  # That was undone, too.
        if masks:
            return Masks(masks)
        analysis = analyse(self.model)
        gone = {
            number: np.setdiff1d(np.arange(group.size), left[group.name])
            for number, group in enumerate(analysis.groups)
            if left[group.name].size < group.size
        }
        return self.ranking().removal(analysis, gone) if gone else outcome

    def _sparsity(self, analysis: Analysis) -> float:
        """Returns the share of the units, or weights, that are pruned."""
        if self.granularity == "weights":
            masks = [mask_of(layer).ravel() for layer in self._masked_layers()]
            return 1 - float(np.concatenate(masks).mean())
        groups = self.groups(analysis)
        first = sum(self._first_sizes[group.name] for group in groups)
        return 1 - sum(group.size for group in groups) / first

    def _remove(self, analysis: Analysis, sparsity: float) -> Removal | Skip:
        groups = self.numbered_groups(analysis)
        numbers = {group.name: number for number, group in groups}
        sizes = {group.name: group.size for _, group in groups}
        first = self._first_sizes
        scores = {
            name: np.asarray(each, "float64")
            for name, each in self._criterion.score(
                self.model, self._sample
            ).items()
            if name in sizes
        }
        if not scores:
            return Skip("the criterion scores none of the groups")
        gone = {name: first[name] - sizes[name] for name in scores}
        if self.scope == "local":
            count: Any = {
                name: max(share_of(first[name], sparsity) - before, 0)
                for name, before in gone.items()
            }
        else:
            every = sum(first[name] for name in scores)
            count = max(share_of(every, sparsity) - sum(gone.values()), 0)
        chosen = lowest(scores, count, self.min_units, self.round_to)
        removed = {name: each for name, each in chosen.items() if each.size}
        if not removed:
            return Skip(f"{sparsity:.0%} of the units are pruned already")
        return self.ranking().removal(
            analysis, {numbers[name]: units for name, units in removed.items()}
        )

    def _mask(self, sparsity: float) -> Masks | Skip:
        layers = self._masked_layers()
        scores = self._criterion.score(self.model, self._sample)
        number = {
            id(weight): index
            for index, weight in enumerate(self.model.trainable_variables)
        }
        masks = {str(i): mask_of(layer) for i, layer in enumerate(layers)}
        flat = {}
        for name, layer in zip(masks, layers, strict=True):
            score = np.asarray(scores[number[id(kernel_of(layer))]], "float64")
            # What is masked stays so, and counts.
            flat[name] = np.where(masks[name], score, -np.inf).reshape(-1)
        count: Any = {
            name: share_of(each.size, sparsity) for name, each in flat.items()
        }
        if self.scope == "global":
            every = sum(each.size for each in flat.values())
            count = share_of(every, sparsity)
        new = {}
        chosen = lowest(flat, count)
        for name, layer in zip(masks, layers, strict=True):
            mask = masks[name].copy()
            mask.reshape(-1)[chosen[name]] = False
            if (mask != masks[name]).any():
                new[layer] = mask
        if not new:
            return Skip(f"{sparsity:.0%} of the weights are masked already")
        return Masks(new)

    def _masked_layers(self) -> list[WeightMask]:
        """Returns the layers whose weights are pruned.

        Raises:
            ValueError: If a name is unknown or there is no such layer.
        """
        inside = {id(each): each for each in layers_inside(self.model)}
        chosen = [
            layer
            for layer in select(
                inside.values(),
                lambda layer: {layer.name},
                self.layers,
                self.exclude,
                "layers",
                layers_of=lambda layer: [layer],
            )
            if isinstance(layer, WeightMask)
            and getattr(kernel_of(layer), "trainable", False)
        ]
        if not chosen:
            raise ValueError(
                "Weights can be masked in Prunable layers only. Convert the "
                "model by `ka.make_prunable(model)`. Received: model "
                f"'{self.model.name}' without any whose kernel is trained"
            )
        return chosen


def _default_schedule(target: Any) -> EventSchedule:
    return Polynomial(0.5, count=4) if target is None else Logarithmic()

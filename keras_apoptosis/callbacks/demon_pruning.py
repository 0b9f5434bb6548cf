"""Demon pruning: drives units inactive, and removes them in training."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.accounting.size import Size, size_after
from keras_apoptosis.callbacks.death_record import DeathRecord
from keras_apoptosis.callbacks.outcome import Masks, Skip
from keras_apoptosis.callbacks.pressure_control import PressureControl
from keras_apoptosis.callbacks.pruning_callback import (
    PruningCallback,
    with_its_groups,
)
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.saturation import Gate, gates_of, silent_groups
from keras_apoptosis.schedules import (
    Fixed,
    OneCycle,
    ValueSchedule,
    Warmup,
)
from keras_apoptosis.selection.inactive_units import (
    Activity,
    measure,
    recorded,
    removal_of,
    spared,
)
from keras_apoptosis.selection.limits import kept_count
from keras_apoptosis.selection.price import Limit
from keras_apoptosis.selection.target_pruning import check_reach
from keras_apoptosis.surgery import Removal
from keras_apoptosis.targets import as_targets
from keras_apoptosis.training.noise import UnitNoise
from keras_apoptosis.training.penalty import Regularization, scales_of
from keras_apoptosis.training.pressure import Pressure
from keras_apoptosis.training.tracking import start_tracking
from keras_apoptosis.utils.checks import (
    check_choice,
    check_count,
    check_share,
    check_size,
    check_that,
)


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class DemonPruning(PruningCallback):
    """Makes units inactive by a penalty and noise, and removes them.

    After "Maxwell's demon at work: efficient pruning by leveraging saturation
    of neurons" (algorithm 1). In every step a penalty on the scales of the
    normalizations is added to the gradient, and Gaussian noise to the weights
    of the units that are active; both rise to a peak and fall again over the
    training. At each event, units that are inactive on some training samples
    are removed, and the rest of the training runs on the smaller model. When
    training ends, those that are dead then are removed as well.

    Units can die behind ReLU, ReLU6, GELU, SiLU (Swish), hard SiLU and Mish,
    where they come to rest at zero, and behind a leaky ReLU, where dead means
    never positive. Groups of units that are used without such an activation,
    as those of attention, are not pruned.

    Args:
        strength: λ, the peak of a one-cycle schedule, or a schedule such as
            `ka.schedules.Constant(1e-4)`, `Warmup` or `OneCycle(1e-4,
            warmup=0)`, a cosine decay (figure 4). The larger, the sparser;
            the paper's trainings of 250 epochs take 1e-5 to 1e-2, shorter
            ones need more: at 1e-3 a few thousand steps may prune nothing.
            With a `target` it is only where the controller begins.
        noise_variance: σ², likewise. The paper calls its 5e-5 the variance
            in sections 3.2 and 4.2, so it is one here; the standard deviation
            is 0.007, which costs trainings of a few thousand steps points of
            accuracy. 0 for no noise.
        schedule: When units are judged, τ. Defaults to
            `ka.schedules.Fixed(0.05, start=0.05)`, each twentieth of the
            training. The paper's is `ka.schedules.EverySteps(5000)`, in
            trainings of 100,000 steps.
        target: One of `ka.targets`, or several, such as
            `ka.targets.Parameters(at_most=0.2)`; none that is measured, as
            latency is. A controller raises or lowers `strength` (and noise)
            at each event so that the training ends there. It needs ten
            events or more. `strength` then rises to its peak and stays there
            until the target is reached. What is missing at 60 % of the
            training is taken from units that are not dead but the least
            active beside the others of their layer, which the event's notes
            say; the rest of the training makes up for it.
        data: Training samples on which units are judged: arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or a
            generator of batches (of which `samples` are kept). `None` to
            take the layers' own statistics since the last event, of all
            batches of the training, for layers made by `ka.make_prunable`.
        penalty: `"l1"`, `λ Σ|γ|`, or `"l2"`, `λ Σ γ²`, whose gradient is added
            to the loss' before the optimizer scales it (appendix F.5).
        regularize: `"scales"` of all normalizations, whose offsets stay free
            to become negative (section 3.1); `"all"` weights; or `"auto"`,
            scales if a model has any and all weights if not (section 4.2).
        threshold: ε, number of at least 0: a unit is dead if its activation
            is at most that for all samples and positions.
        constant: Whether a unit that stays within `threshold` of another
            constant than zero is dead as well. The paper does not count
            those; the penalty makes them of units whose offset is positive
            when their scale vanishes, and their consumers absorb the
            constant into their biases. Needs `data`.
        samples: Integer of at least 1: how many samples of `data` to use. The
            paper takes 512.
        batch_size: Integer of at least 1: how many of them to run at once.
        start: Number from 0 to below 1: the fraction of the training before
            which no unit is removed, though units are judged. For layers
            whose units revive late, as the last block of a vision transformer
            (appendix G.2).
        dynamic: Whether units are removed during the training; otherwise only
            at its end (figure 7).
        symmetric_noise: Whether dead units get noise as well, which may revive
            them (appendix D.1).
        noise_every: Integer of at least 1: add the variance of so many steps
            at once, each so many steps.
        min_gain: Number from 0 to below 1: as long as less than this share of
            the parameters would be removed, the dead wait for the next event,
            or the end. 0 to remove them at once, as the paper does.
        min_units: Integer of at least 1: how many units every group keeps.
        round_to: Integer of at least 1: the number of kept units is rounded
            up to a multiple of it; dead units wait for that.
        layers: Limits pruning, noise and the penalty on scales to some groups
            or layers; see `PruningCallback`.
        exclude: Groups or layers to leave as they are.
        limit: A `ka.Limit`, if pruning may cost only so much; see
            `PruningCallback`. What penalty and noise cost between events
            counts as well: as long as the metric is worse than at its best
            event by more than the limit, both rest. They come back with half
            the strength that they had.
        recalibrate: Whether to compute moving statistics anew, from `data`;
            see `PruningCallback`.
        prune_non_trainable: Whether layers with `trainable=False` may lose
            units, too; see `PruningCallback`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes, such as those
            of a residual stream; see `ka.shrink`.
        total_epochs: Epochs of the whole training, if it is spread over
            several calls of `fit`.
        seed: Integer. The noise follows from it and the number of the step.
        verbose: 0, 1, 2 or `"auto"`; see `PruningCallback`.

    Attributes:
        history: A list with one `Event` for each event so far; `dead` and
            `overlap` tell of the dead units.
        regularized: Paths of the weights that are regularized.
        retraces: How often units were removed, and the step traced anew.
            `fit`'s logs get `parameters`, `units/<group>`, `dead_units`,
            `neuron_sparsity`, `weight_sparsity`, `flop_sparsity`,
            `demon_pruning_seconds` and `demon_strength`, the present λ.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
            if the model has no unit that can die and be removed.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, name="hidden"),
    ...     keras.layers.BatchNormalization(),
    ...     keras.layers.ReLU(),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> demon = ka.callbacks.DemonPruning(
    ...     0.1, schedule=ka.schedules.Fixed(0.1, start=0.1), data=x
    ... )
    >>> _ = model.fit(x, x[:, :1], epochs=20, callbacks=[demon], verbose=0)
    >>> model.layers[0].units < 64
    True
    """

    at_end = True
    shown = ("parameters", "dead_units")
    transient: ClassVar[Mapping[str, Any]] = {
        **PruningCallback.transient,
        "_pressure": lambda: None,
        "_before_test": list,
    }

    def __init__(
        self,
        strength: Any = 1e-3,
        *,
        noise_variance: Any = 1e-6,
        schedule: Any = None,
        target: Any = None,
        data: Any = None,
        penalty: str = "l1",
        regularize: str = "auto",
        threshold: float = 0.01,
        constant: bool = True,
        samples: int = 4096,
        batch_size: int = 512,
        start: float = 0.0,
        dynamic: bool = True,
        symmetric_noise: bool = False,
        noise_every: int = 1,
        min_gain: float = 0.01,
        min_units: int = 1,
        round_to: int = 1,
        layers: Any = None,
        exclude: Any = (),
        limit: Limit | None = None,
        recalibrate: bool = True,
        prune_non_trainable: bool = False,
        prune_normalized: bool = False,
        total_epochs: int | None = None,
        seed: int = 0,
        verbose: bool | int | str = "auto",
    ):
        super().__init__(
            Fixed(0.05, start=0.05) if schedule is None else schedule,
            layers=layers,
            exclude=exclude,
            target=target,
            limit=limit,
            min_units=min_units,
            round_to=round_to,
            min_gain=min_gain,
            recalibrate=recalibrate,
            prune_non_trainable=prune_non_trainable,
            prune_normalized=prune_normalized,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        # A controller ends the pressure itself, once the target is reached.
        cycle = OneCycle if target is None else Warmup
        self._strength = _cycle("strength", strength, cycle)
        self._variance = _cycle("noise_variance", noise_variance, OneCycle)
        check_that(
            "schedule",
            schedule,
            self.schedule.sparsity_at(0) is None,
            "one that only says when, since `strength` and `target` say how "
            "much",
        )
        check_share("start", start)
        check_size("threshold", threshold)
        check_choice("penalty", penalty, ("l1", "l2"))
        check_choice("regularize", regularize, ("auto", "scales", "all"))
        check_count("samples", samples)
        check_count("batch_size", batch_size)
        check_count("noise_every", noise_every)
        check_count("seed", seed, least=0)
        measured = [
            each
            for each in (() if target is None else as_targets(target))
            if not each.counted
        ]
        check_that("target", target, not measured, "a target that is counted")
        self.strength = strength
        self.noise_variance = noise_variance
        self.data = self.keep(data, samples)
        self.penalty = penalty
        self.regularize = regularize
        self.threshold = threshold
        self.constant = constant
        self.samples = samples
        self.batch_size = batch_size
        self.start = start
        self.dynamic = dynamic
        self.symmetric_noise = symmetric_noise
        self.noise_every = noise_every
        self.seed = seed
        self.regularized: list[str] = []
        self._pressure: Any = None  # A `Pressure`, while it trains.
        self._whole: Any = None  # A `Size`, once it has begun.
        self._control: PressureControl | None = None
        self._record = DeathRecord({})
        self._restored: Any = None  # The controller's state.
        self._factor = 1.0  # Of the pressure, at present.
        self._most = math.inf  # What the limit leaves of that.
        self._best: float | None = None  # The limit's metric.
        self._alive: dict[str, np.ndarray] = {}  # As noise has it.
        self._dead: dict[str, np.ndarray] = {}  # At the present event.
        self._chosen: Any = None  # Activity and units, at the present event.
        self._found: dict[str, Any] = {}  # What the event records.
        self._reached = False  # The target, at the present event.
        self._notes: tuple[str, ...] = ()
        self._before_test: list[tuple[Any, np.ndarray]] = []

    def get_state(self) -> dict[str, Any]:
        return {
            **super().get_state(),
            "whole": self._whole and dataclasses.asdict(self._whole),
            "record": self._record.get_state(),
            "alive": self._alive,
            "control": self._control and self._control.get_state(),
            "pressure": [self._factor, self._most, self._best],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._whole = state["whole"] and Size(**state["whole"])
        self._record.set_state(state["record"])
        self._alive = dict(state["alive"])
        self._restored = state["control"]
        self._factor, self._most, self._best = state["pressure"]

    def begin_target(self, whole: Sequence[float]) -> None:
        targets = as_targets(self.target)
        analysis = analyse(self.model)
        chosen = [number for number, _ in self.numbered_groups(analysis)]
        check_reach(
            analysis,
            targets,
            whole,
            self._gates(analysis),
            {
                number: group.reason
                or (_obstacle(analysis, number) if number in chosen else "")
                or "left out"
                for number, group in enumerate(analysis.groups)
            },
            self.min_units,
            self.round_to,
        )
        # The controller goes on where it was, in the next `fit` as well.
        if self._control is None:
            self._control = PressureControl(targets, whole, self.round_to)
            if self._restored is not None:
                self._control.set_state(self._restored)

    @property
    def retraces(self) -> int:
        return sum(not event.skipped for event in self.history)

    def begin(self, analysis: Analysis) -> None:
        gates = self._gates(analysis)
        if self.data is None:
            start_tracking(self.model, _judges(gates))
            analysis = analyse(self.model)
            gates = self._gates(analysis)
            recorded(analysis, gates)  # Raises if layers keep no statistics.
        sizes = {
            analysis.groups[n].name: analysis.groups[n].size for n in gates
        }
        whole = size_after(analysis)
        if self._whole is None or not self._record.fits(sizes):
            self._whole = whole
            self._record = DeathRecord(sizes)
            self._alive = {}
        self.end()  # What a `fit` that broke off has left.
        weights = self._to_regularize(analysis, gates)
        self.regularized = [weight.path for weight in weights]
        noise = UnitNoise(
            self.model,
            self._variance,
            lambda analysis: list(self._gates(analysis)),
            self.noise_every,
            self.seed,
            self.symmetric_noise,
            self.allowed,
        )
        self._pressure = Pressure(
            self.model,
            Regularization(self._strength, self.penalty, weights),
            noise if getattr(self._variance, "peak", 1.0) > 0 else None,
            self._alive,
            self._factor,
        )
        self._reset_statistics(gates)
        if self.loudness:
            self._tell_what_is_regularized(weights)

    def end(self) -> None:
        if self._pressure is not None:
            self._pressure.end()
            self._pressure = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._pressure.tell_time(
            self._progress.fraction, self._progress.per_step
        )

    @with_its_groups
    def on_test_begin(self, logs: Any = None) -> None:
        super().on_test_begin(logs)
        # Layers count in evaluation as well, but units are judged on
        # training data alone.
        if self.data is None:
            gates = self._gates(analyse(self.model))
            self._before_test = [
                (variable, np.array(backend.peek(variable)))
                for layer in _judges(gates)
                for variable in layer.statistics_variables
            ]

    def on_test_end(self, logs: Any = None) -> None:
        for variable, value in self._before_test:
            variable.assign(value)
        self._before_test = []

    def amount_at(self, event: int, progress: float) -> float:
        return self._factor * float(self._strength(progress))

    def prune(self, analysis: Analysis, amount: float) -> Removal | Skip:
        gates = self._gates(analysis)
        activity = self._measure(analysis, gates)
        dead = activity.dead(self.threshold)
        self._dead = {analysis.groups[n].name: each for n, each in dead.items()}
        self._found = self._record.take_down(self._dead)
        self._reached = False
        if not self._may_remove():
            count = sum(int(which.sum()) for which in dead.values())
            return Skip(f"{count:,} units are dead; none is removed yet")
        # The rest of the training repairs what that costs.
        wanted = (
            {n: np.ones(which.size, bool) for n, which in dead.items()}
            if self._finishing
            else dead
        )
        candidates = spared(activity, wanted, self.min_units, self.round_to)
        chosen = candidates
        if self._control is not None:
            chosen = self._control.choose(analysis, activity, candidates)
            self._reached = any(
                chosen[n].size < units.size for n, units in candidates.items()
            )
        self._chosen = activity, chosen
        removal = removal_of(analysis, activity, chosen)
        return removal if len(removal) else Skip("no unit is dead")

    def is_worth_it(self, gain: float) -> bool:
        at_once = self._finishing or self._reached or self.training_ends
        return at_once or super().is_worth_it(gain)

    def prune_less(
        self, analysis: Analysis, amount: float, share: float
    ) -> Removal | Skip:
        # The least active of each group.
        activity, chosen = self._chosen
        fewer = {}
        for number, units in chosen.items():
            size = analysis.groups[number].size
            kept = kept_count(
                size - int(share * units.size), size, 1, self.round_to
            )
            fewer[number] = units[: size - kept]
        removal = removal_of(analysis, activity, fewer)
        return removal if len(removal) else Skip("no unit would be left to try")

    def after_pruning(
        self, analysis: Analysis, outcome: Removal | Masks | Skip
    ) -> None:
        removed = outcome if isinstance(outcome, Removal) else Removal({})
        living = 0
        for name, which in self._dead.items():
            units = removed.get(name, np.array([], int))
            living += int((~which[units]).sum())
            self._record.remove(name, units)
            if not self.symmetric_noise:
                self._alive[name] = np.delete(~which, units)
        self._notes = ()
        if living:
            self._notes = (
                f"{living:,} of the units were not dead but the least active: "
                "dead ones alone did not reach the target",
            )
        self._pressure.set_alive(self._alive)
        self._reset_statistics(self._gates(analysis))
        self._steer(analysis)

    def _steer(self, analysis: Analysis) -> None:
        """Sets the pressure anew, by the target and by the limit."""
        factor = 1.0
        if self._control is not None:
            factor = self._control.steer(
                analysis, self._progress.fraction, self._reached
            )
        if self.limit is not None and self._costs_too_much(self.limit):
            if self._factor:
                self._most = self._factor / 2
            factor = 0.0
        self._factor = min(factor, self._most)
        self._pressure.steer(self._factor)

    def _costs_too_much(self, limit: Limit) -> bool:
        """Tells whether the model is worse than at its best event."""
        kept = [each.value for each in self._attempts if each.kept]
        value = kept[0] if kept else self.measure_price(limit)
        if self._best is None or limit.worse(self._best, value) <= 0:
            self._best = value
        if limit.allows(self._best, value):
            return False
        self._notes += (
            f"{limit.metric} is {value:.4g} and has been {self._best:.4g}: "
            "penalty and noise rest",
        )
        return True

    def details(self) -> dict[str, Any]:
        return {**self._found, "notes": self._notes}

    def measures(self, analysis: Analysis) -> dict[str, float]:
        share = size_after(analysis).sparsity(self._whole)
        dead = self.history[-1].dead if self.history else {}
        return {
            "dead_units": sum(dead.values()),
            "neuron_sparsity": share["neurons"],
            "weight_sparsity": share["weights"],
            "flop_sparsity": share["flops"],
            "demon_strength": self.amount_at(0, self._progress.fraction),
        }

    @property
    def _finishing(self) -> bool:
        """`True` if units that are not dead may be removed for the target."""
        return (
            self._control is not None
            and self._progress.fraction >= self._control.reach
        )

    def _may_remove(self) -> bool:
        started = self._progress.fraction >= self.start
        return self.training_ends or (self.dynamic and started)

    def _measure(
        self, analysis: Analysis, gates: Mapping[int, list[Gate]]
    ) -> Activity:
        if self.data is None:
            return recorded(analysis, gates)
        return measure(
            analysis,
            gates,
            self.data,
            self.samples,
            self.batch_size,
            self.constant,
        )

    def _gates(self, analysis: Analysis) -> dict[int, list[Gate]]:
        """Returns the groups whose units may die, with their activations.

        Raises:
            ValueError: If there is none.
        """
        found = silent_groups(analysis)
        chosen = dict(self.numbered_groups(analysis))
        gates = {n: each for n, each in found.items() if n in chosen}
        if not gates:
            why = "\n".join(
                f"  {group.name}: {_obstacle(analysis, number)}"
                for number, group in chosen.items()
            )
            raise ValueError(
                f"Model '{self.model.name}' has no units that can die: they "
                "need a ReLU, ReLU6, leaky ReLU, GELU, SiLU or Mish before "
                f"their consumers. Received:\n{why}"
            )
        return gates

    def _to_regularize(
        self, analysis: Analysis, gates: Mapping[int, list[Gate]]
    ) -> list[keras.Variable]:
        """Returns the weights to regularize."""
        if not self._takes_scales:
            return list(self.model.trainable_variables)
        found = scales_of(self.model)
        if self.layers is not None or self.exclude:
            mine = np.isin(analysis.group_of, list(gates))
            axes = analysis.trace.axes
            found = [
                scale
                for scale in found
                if any(mine[u].any() for u in axes.get(id(scale), {}).values())
            ]
        if not found:
            raise ValueError(
                "Expected a model with normalizations whose scales are "
                "trained, for `regularize='scales'`; 'all' does without. "
                f"Received: model '{self.model.name}' without any"
            )
        return found

    @property
    def _takes_scales(self) -> bool:
        if self.regularize == "auto":
            return bool(scales_of(self.model))
        return self.regularize == "scales"

    def _tell_what_is_regularized(self, weights: list[keras.Variable]) -> None:
        count = sum(int(np.prod(weight.shape)) for weight in weights)
        what = "all weights"
        if self._takes_scales:
            what = f"the scales of {len(weights)} normalizations"
        elif self.regularize == "auto":
            what += ", since the model has no normalization with a scale"
        print(
            f"DemonPruning: {self.penalty} penalty on {what} ({count:,})",
            flush=True,
        )

    def _reset_statistics(self, gates: Mapping[int, list[Gate]]) -> None:
        if self.data is None:
            backend.sync_from_jax(self.model)
            for layer in _judges(gates):
                layer.reset_statistics()
            backend.sync_to_jax(self.model)


def _judges(gates: Mapping[int, list[Gate]]) -> list[Any]:
    """Returns the layers that apply the activations, each once."""
    layers = [
        gate.step.operation
        for each in gates.values()
        for gate in each
        if gate.step is not None
    ]
    return list({id(layer): layer for layer in layers}.values())


def _obstacle(analysis: Analysis, number: int) -> str:
    """Explains why the units of a group cannot die."""
    for gate in gates_of(analysis, number):
        if not gate.side:
            path = analysis.trace.sources[gate.source].path
            return f"used after '{path}', which no such activation follows"
    return "used inside a layer, where no such activation follows"


def _cycle(
    name: str, value: Any, cycle: type[OneCycle | Warmup]
) -> ValueSchedule:
    if isinstance(value, ValueSchedule):
        return value
    ok = isinstance(value, numbers.Real) and 0 <= float(value) < math.inf
    check_that(name, value, ok, "a finite number of at least 0, or a schedule")
    return cycle(float(value))

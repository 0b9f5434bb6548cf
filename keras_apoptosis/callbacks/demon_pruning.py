"""Demon pruning: units are driven to die, and leave while the model trains."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.accounting.size import Size, size_of
from keras_apoptosis.callbacks.deaths import DeathRecord, Deaths
from keras_apoptosis.callbacks.scheduled_surgery import ScheduledSurgery
from keras_apoptosis.callbacks.sparsity_target import SparsityTarget
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.saturation import Gate, gates_of, silent_groups
from keras_apoptosis.schedules import OneCycle, ValueSchedule, Warmup
from keras_apoptosis.selection.inactive_units import (
    Activity,
    measure,
    recorded,
    removal_of,
    spared,
)
from keras_apoptosis.statistics.streaming import lasting
from keras_apoptosis.surgery import Removal, shrink
from keras_apoptosis.surgery.plan import parameters_after
from keras_apoptosis.surgery.report import Report
from keras_apoptosis.training.noise import UnitNoise
from keras_apoptosis.training.penalty import Regularization, scales_of
from keras_apoptosis.training.pressure import Pressure
from keras_apoptosis.training.step_trigger import StepAgenda
from keras_apoptosis.utils.checks import (
    check_choice,
    check_count,
    check_share,
    check_size,
)


class DemonPruning(ScheduledSurgery):
    """Drives units to die by a penalty and noise, and removes the dead.

    After "Maxwell's demon at work: efficient pruning by leveraging saturation
    of neurons" (algorithm 1). In every step a penalty on the scales of the
    normalizations is added to the gradient, and Gaussian noise to the weights
    of the units that are alive; both rise to a peak and fall again over the
    training. Every so many steps, units that are inactive on some training
    samples are removed, and the rest of the training runs on the smaller
    model. At the end of the training those that are dead then leave as well.

    Units can die behind ReLU, ReLU6, GELU, SiLU (Swish), hard SiLU and Mish,
    where they come to rest at zero, and behind a leaky ReLU, where dead means
    never positive. Groups of units that others read without such an
    activation, as those of attention, are left alone.

    Args:
        strength: λ, the peak of a one-cycle schedule, or a schedule such as
            `ka.schedules.Constant(1e-4)`, `Warmup` or `OneCycle(1e-4,
            warmup=0)`, a cosine decay (figure 4). The more, the sparser; the
            paper's runs of 250 epochs take 1e-5 to 1e-2, shorter ones need
            more.
        noise_variance: σ², likewise. The paper calls 5e-5 the variance in
            sections 3.2 and 4.2, so it is one here; the standard deviation is
            0.007. 0 for no noise.
        prune_every: τ, how often units are judged: a number of steps
            (integer), or a fraction of the training (float, above 0 and up to
            1). The paper's 5,000 steps are meant for runs of 100,000.
        target_sparsity: Where given, a controller raises or lowers `strength`
            (and noise) at each event so that the training ends at this
            sparsity, a number above 0 and below 1. It needs some ten events or
            more. `strength` then rises to its peak and stays there until the
            target is reached; what dies beyond that stays. What is missing
            at 90 % of the training is made up for by the least active units
            that are alive, which the event's notes say.
        data: Training samples on which units are judged: arrays, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or a
            generator of batches (of which `samples` are kept). `None` to
            take the layers' own statistics since the last event, of all
            batches of the training; `ka.make_prunable(model,
            track_statistics=True)` makes layers keep them.
        sparsity: What `target_sparsity` counts: `"weights"`, `"neurons"` or
            `"flops"` of a forward pass.
        penalty: `"l1"`, `λ Σ|γ|`, or `"l2"`, `λ Σ γ²`, whose gradient is added
            to the loss' before the optimizer scales it (appendix F.5).
        regularize: `"scales"` of all normalizations, whose offsets stay free
            to go negative (section 3.1); `"all"` weights; or `"auto"`, scales
            where a model has any and all weights where not (section 4.2).
        tolerance: ε, number, at least 0: a unit is dead if its activation is
            at most that for all samples and positions.
        constant: Whether a unit that stays within `tolerance` of another
            constant than zero is dead as well. The paper does not count
            those; they are what the penalty makes of a unit whose offset is
            positive when its scale is gone, and their consumers take the
            constant into their biases. Needs `data`.
        samples: How many samples of `data` to use at most.
        batch_size: How many of them to run at once.
        start: Before that no unit leaves, though units are judged: a number of
            steps (integer), or a fraction of the training (float). For layers
            that revive late, as the last block of a vision transformer
            (appendix G.2).
        dynamic: Whether units leave during the training; otherwise they do at
            its end (figure 7).
        symmetric_noise: Whether dead units get noise as well, which may revive
            them (appendix D.1).
        noise_every: Integer, at least 1. Add the variance of so many steps at
            once, each so many steps: random numbers are what noise costs.
        min_gain: Number from 0 to below 1. As long as less than this share of
            the parameters would go, the dead wait for the next event: a
            removal costs tracing the step anew. They leave at the end at the
            latest. 0 to remove them at once, as the paper does.
        min_units: How many units every group keeps.
        layers: Names of layers or groups to which pruning and noise are
            limited, and the penalty on scales.
        exclude: Names of layers or groups to leave alone.
        total_epochs: Epochs of the whole training, where it is spread over
            several calls of `fit`.
        seed: Integer. Noise follows from it and the number of the step.
        verbose: Whether to print what events did; `"auto"` follows `fit`.

    Attributes:
        history: A list with one `Event` for each event so far.
        deaths: A list with one `Deaths` for each of them.
        regularized: Paths of the weights that are regularized.
        retraces: How often units left, and the step was traced anew.
            `fit`'s logs get `parameters`, `units/<group>`, `dead_units`,
            `neuron_sparsity`, `weight_sparsity`, `flop_sparsity` and
            `demon_strength`, the present λ.

    Raises:
        ValueError: If an argument is out of range, or, when training begins,
            if the model has no unit that can die and leave.

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
    ...     strength=0.1, prune_every=0.1, data=x
    ... )
    >>> _ = model.fit(x, x[:, :1], epochs=20, callbacks=[demon], verbose=0)
    >>> model.layers[0].units < 64
    True
    """

    def __init__(
        self,
        strength: Any = 1e-3,
        *,
        noise_variance: Any = 5e-5,
        prune_every: int | float = 5000,
        target_sparsity: float | None = None,
        data: Any = None,
        sparsity: str = "weights",
        penalty: str = "l1",
        regularize: str = "auto",
        tolerance: float = 0.01,
        constant: bool = True,
        samples: int = 512,
        batch_size: int = 256,
        start: int | float = 0,
        dynamic: bool = True,
        symmetric_noise: bool = False,
        noise_every: int = 1,
        min_gain: float = 0.01,
        min_units: int = 1,
        layers: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        total_epochs: int | None = None,
        seed: int = 0,
        verbose: bool | str = "auto",
    ):
        super().__init__(
            None,
            layers=layers,
            exclude=exclude,
            total_epochs=total_epochs,
            verbose=verbose,
        )
        # A controller ends the pressure itself, once the target is reached.
        cycle = OneCycle if target_sparsity is None else Warmup
        self.strength = _schedule("strength", strength, cycle)
        self.noise_variance = _schedule(
            "noise_variance", noise_variance, OneCycle
        )
        _check_time("prune_every", prune_every, prune_every > 0)
        _check_time("start", start, start >= 0)
        check_size("tolerance", tolerance)
        check_choice("penalty", penalty, ("l1", "l2"))
        check_choice("regularize", regularize, ("auto", "scales", "all"))
        check_count("samples", samples)
        check_count("batch_size", batch_size)
        check_count("noise_every", noise_every)
        check_share("min_gain", min_gain)
        check_count("min_units", min_units)
        self.target = (
            None
            if target_sparsity is None
            else SparsityTarget(target_sparsity, sparsity)
        )
        self.data = None if data is None else lasting(data, samples)
        self.penalty = penalty
        self.regularize = regularize
        self.tolerance = tolerance
        self.constant = constant
        self.samples = samples
        self.batch_size = batch_size
        self.start = start
        self.dynamic = dynamic
        self.symmetric_noise = symmetric_noise
        self.noise_every = noise_every
        self.min_gain = min_gain
        self.min_units = min_units
        self.seed = seed
        self.deaths: list[Deaths] = []
        self.regularized: list[str] = []
        self._agenda = StepAgenda(prune_every, self._progress)
        self._pressure: Pressure | None = None
        self._whole: Size | None = None
        self._record = DeathRecord({})
        self._alive: dict[str, np.ndarray] = {}  # As noise has it.
        self._before_test: list[tuple[Any, np.ndarray]] = []

    def get_state(self) -> dict[str, Any]:
        return {
            **super().get_state(),
            "deaths": [dataclasses.asdict(each) for each in self.deaths],
            "whole": self._whole and dataclasses.asdict(self._whole),
            "record": self._record.get_state(),
            "alive": self._alive,
            "target": self.target and self.target.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.deaths = [Deaths(**each) for each in state["deaths"]]
        self._whole = state["whole"] and Size(**state["whole"])
        self._record.set_state(state["record"])
        self._alive = dict(state["alive"])
        if self.target is not None:
            self.target.set_state(state["target"])

    @property
    def retraces(self) -> int:
        return sum(not event.skipped for event in self.history)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        analysis = analyse(self.model)
        gates = self._gates(analysis)
        if self.data is None:
            recorded(analysis, gates)  # Complains of layers without any.
        if self._whole is None:
            self._whole = size_of(self.model)
            self._record = DeathRecord(
                {
                    analysis.groups[n].name: analysis.groups[n].size
                    for n in gates
                }
            )
        self._end_pressure()  # Of a fit that broke off.
        weights = self._to_regularize(analysis, gates)
        self.regularized = [weight.path for weight in weights]
        noise = UnitNoise(
            self.model,
            self.noise_variance,
            lambda analysis: list(self._gates(analysis)),
            self.noise_every,
            self.seed,
        )
        self._pressure = Pressure(
            self.model,
            Regularization(self.strength, self.penalty, weights),
            noise if getattr(self.noise_variance, "peak", 1.0) > 0 else None,
            self._alive,
            1.0 if self.target is None else self.target.factor,
        )
        self._reset_statistics(analysis, gates)
        if self._loud():
            self._say_what_is_regularized(weights)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._pressure.tell_time(
            self._progress.fraction, self._progress.per_step
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            share = size_of(self.model).sparsity(self._whole)
            logs["neuron_sparsity"] = share["neurons"]
            logs["weight_sparsity"] = share["weights"]
            logs["flop_sparsity"] = share["flops"]
            logs["demon_strength"] = self.degree_at(
                0, 0, self._progress.fraction
            )
            if self.deaths:
                logs["dead_units"] = sum(self.deaths[-1].dead.values())

    def on_test_begin(self, logs: Any = None) -> None:
        # Layers count in evaluation as well, but units are judged on
        # training data alone.
        if self.data is None:
            analysis = analyse(self.model)
            self._before_test = [
                (variable, np.array(backend.peek(variable)))
                for layer in _judges(self._gates(analysis))
                for variable in layer.statistics_variables
            ]

    def on_test_end(self, logs: Any = None) -> None:
        for variable, value in self._before_test:
            variable.assign(value)
        self._before_test = []

    def on_train_end(self, logs: Any = None) -> None:
        super().on_train_end(logs)
        self._end_pressure()

    def degree_at(self, event: int, events: int, progress: float) -> float:
        factor = 1.0 if self.target is None else self.target.factor
        return factor * float(self.strength(progress))

    def operate(self, degree: float) -> tuple[Report | None, str]:
        analysis = analyse(self.model)
        gates = self._gates(analysis)
        activity = self._measure(analysis, gates)
        dead = activity.dead(self.tolerance)
        names = {n: analysis.groups[n].name for n in dead}
        self.deaths.append(
            self._record.take_down(
                self._progress.steps_done,
                {names[n]: which for n, which in dead.items()},
            )
        )
        going, reached, reason = self._choose(analysis, activity, dead)
        removal = removal_of(analysis, activity, going)
        gone = {n: going.get(n, np.array([], int)) for n in dead}
        for number, units in gone.items():
            self._record.remove(names[number], units)
        if not self.symmetric_noise:
            self._alive = {
                names[n]: np.delete(~which, gone[n])
                for n, which in dead.items()
            }
        report = self._carry_out(removal, analysis, gates)
        if self.target is not None:
            self._steer(reached)
        if report is None:
            return None, reason
        return dataclasses.replace(
            report, notes=(*report.notes, *_notes(dead, going))
        ), ""

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

    def _choose(
        self,
        analysis: Analysis,
        activity: Activity,
        dead: Mapping[int, np.ndarray],
    ) -> tuple[dict[int, np.ndarray], bool, str]:
        """Which units leave, whether that is all that should, or why none."""
        if not self._may_leave():
            count = sum(int(which.sum()) for which in dead.values())
            return {}, False, f"{count:,} units are dead; none leaves yet"
        finishing = (
            self.target is not None
            and self._progress.fraction >= self.target.finish
        )
        # The last part of the training still repairs what that costs.
        leaving = (
            {n: np.ones(which.size, bool) for n, which in dead.items()}
            if finishing
            else dead
        )
        candidates = spared(activity, leaving, self.min_units)
        going, reached = candidates, False
        if self.target is not None:
            going = self.target.choose(
                analysis, activity, candidates, self._whole
            )
            reached = any(
                going[n].size < units.size for n, units in candidates.items()
            )
        removal = removal_of(analysis, activity, going)
        if not len(removal):
            return {}, reached, "no unit is dead that may leave"
        if not (finishing or reached or self._is_last()):
            left = parameters_after(analysis, removal)
            gain = 1 - left / self.model.count_params()
            if gain < self.min_gain:
                return (
                    {},
                    False,
                    f"it would remove {gain:.1%} of the parameters, less than "
                    f"min_gain={self.min_gain:.0%}",
                )
        return going, reached, ""

    def _carry_out(
        self,
        removal: Removal,
        analysis: Analysis,
        gates: Mapping[int, list[Gate]],
    ) -> Report | None:
        self._pressure.set_alive(self._alive)
        report = shrink(self.model, removal) if len(removal) else None
        if report is None:  # Else what is in the step was built anew.
            self._pressure.renew_alive()
        self._reset_statistics(analysis, gates)
        return report

    def _steer(self, reached: bool) -> None:
        share = size_of(self.model).sparsity(self._whole)[self.target.kind]
        self._pressure.steer(
            self.target.steer(share, self._progress.fraction, reached)
        )

    def _end_pressure(self) -> None:
        if self._pressure is not None:
            self._pressure.end()
            self._pressure = None

    def _is_last(self) -> bool:
        return self._progress.fraction >= 1 or self.model.stop_training

    def _may_leave(self) -> bool:
        if self._is_last():
            return True
        progress = self._progress
        done = (
            progress.steps_done
            if isinstance(self.start, int)
            else progress.fraction
        )
        return self.dynamic and done >= self.start

    def _gates(self, analysis: Analysis) -> dict[int, list[Gate]]:
        """The groups whose units may die and leave, with their gates."""
        found = silent_groups(analysis)
        chosen = dict(self.numbered_groups())
        gates = {n: each for n, each in found.items() if n in chosen}
        if not gates:
            why = "\n".join(
                f"  {group.name}: read at '{_first_odd(analysis, number)}', "
                "no activation that falls silent"
                for number, group in chosen.items()
            )
            raise ValueError(
                f"Model '{self.model.name}' has no units that can die: they "
                "need a ReLU, ReLU6, leaky ReLU, GELU, SiLU or Mish before "
                f"they are read. Received:\n{why}"
            )
        return gates

    def _to_regularize(
        self, analysis: Analysis, gates: Mapping[int, list[Gate]]
    ) -> list[keras.Variable]:
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

    def _say_what_is_regularized(self, weights: list[keras.Variable]) -> None:
        count = sum(int(np.prod(weight.shape)) for weight in weights)
        what = "all there are"
        if self._takes_scales:
            what = f"the scales of {len(weights)} normalizations"
        elif self.regularize == "auto":
            what += ", as the model has no normalization with a scale"
        print(
            f"DemonPruning: {self.penalty} penalty on {count:,} weights, "
            f"{what}",
            flush=True,
        )

    def _reset_statistics(
        self, analysis: Analysis, gates: Mapping[int, list[Gate]]
    ) -> None:
        if self.data is None:
            backend.sync_from_jax(self.model)
            for layer in _judges(gates):
                layer.reset_statistics()
            backend.sync_to_jax(self.model)

    def _loud(self) -> bool:
        loud = self.verbose
        return bool(self.params.get("verbose", 1) if loud == "auto" else loud)


def _notes(
    dead: Mapping[int, np.ndarray], going: Mapping[int, np.ndarray]
) -> tuple[str, ...]:
    living = sum(int((~dead[n][units]).sum()) for n, units in going.items())
    if not living:
        return ()
    return (
        f"{living:,} units were alive, the least active: deaths alone did not "
        "reach the target",
    )


def _judges(gates: Mapping[int, list[Gate]]) -> list[Any]:
    """The layers that apply the activations, each once."""
    layers = [gate.step.operation for each in gates.values() for gate in each]
    return list({id(layer): layer for layer in layers}.values())


def _first_odd(analysis: Analysis, number: int) -> str:
    source = next(g.source for g in gates_of(analysis, number) if not g.side)
    return analysis.trace.sources[source].path


def _schedule(
    name: str, value: Any, cycle: type[OneCycle | Warmup]
) -> ValueSchedule:
    if isinstance(value, ValueSchedule):
        return value
    if not (isinstance(value, numbers.Real) and 0 <= value < np.inf):
        raise ValueError(
            f"Expected `{name}` to be a finite number of at least 0, or a "
            f"schedule. Received: {name}={value}"
        )
    return cycle(float(value))


def _check_time(name: str, value: Any, ok: bool) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (ok and (whole or (isinstance(value, float) and value <= 1))):
        raise ValueError(
            f"Expected `{name}` to be a number of steps (integer) or a "
            f"fraction of the training (float, up to 1). Received: "
            f"{name}={value}"
        )

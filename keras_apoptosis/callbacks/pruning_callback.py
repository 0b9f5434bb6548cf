"""The base class of all callbacks that prune while a model trains."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import keras

from keras_apoptosis import backend
from keras_apoptosis.accounting import parameters
from keras_apoptosis.backend.callbacks import (
    callbacks_beside,
    hide_from_progress,
)
from keras_apoptosis.callbacks.conflicts import (
    BACKUP,
    BEST_FILE,
    BEST_WEIGHTS,
    check_conflicts,
)
from keras_apoptosis.callbacks.event import Event
from keras_apoptosis.callbacks.outcome import Masks, Skip
from keras_apoptosis.distributed import collectives
from keras_apoptosis.distributed.long_work import quiet
from keras_apoptosis.graph import Analysis, UnitGroup, analyse
from keras_apoptosis.graph.groups import Allowed, allowing
from keras_apoptosis.graph.named_groups import named_groups
from keras_apoptosis.schedules import EventSchedule
from keras_apoptosis.selection.price import (
    Attempt,
    Limit,
    measure_before,
    within_limit,
)
from keras_apoptosis.selection.ranking import Ranking, Refitting
from keras_apoptosis.selection.target_pruning import (
    TargetPruning,
    results_of,
)
from keras_apoptosis.statistics.output_change import OutputChange
from keras_apoptosis.statistics.streaming import lasting
from keras_apoptosis.surgery import Removal, Report, shrink
from keras_apoptosis.surgery.plan import parameters_after, work_after
from keras_apoptosis.surgery.shrink import shrink_group_by_group
from keras_apoptosis.targets import as_targets
from keras_apoptosis.training.masking import mask_weights, masked_count
from keras_apoptosis.training.progress import TrainingProgress
from keras_apoptosis.training.recalibration import recalibrate
from keras_apoptosis.training.step_clock import StepClock
from keras_apoptosis.training.trigger import Trigger
from keras_apoptosis.utils.checks import check_count, check_share, check_that
from keras_apoptosis.utils.names import check_names
from keras_apoptosis.utils.serialization import (
    MissingData,
    arguments_of,
    from_config,
)


def with_its_groups(method: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a method of a callback see the units that it may prune.

    Work in it shows its progress only if the callback prints.
    """

    @functools.wraps(method)
    def wrapped(self: PruningCallback, *args: Any, **kwargs: Any) -> Any:
        with allowing(self.allowed), quiet(not self.loudness):
            return method(self, *args, **kwargs)

    return wrapped


class PruningCallback(keras.callbacks.Callback):
    """Base class of callbacks that prune while a model trains.

    A method overrides `prune`, which decides what to prune at an event. This
    class fires the events, applies what was decided, and keeps the records:
    history, logs, printing, and state for `ka.callbacks.Checkpoint`.

    Each argument of a subclass' `__init__` has to be kept as an attribute of
    the same name; configs are made from them.

    Args:
        schedule: When to prune, one of `ka.schedules` that fires events.
        layers: Limits pruning to some groups, or layers: a name, a layer, a
            pattern such as `"conv*"`, or a list of those. `None` for all.
        exclude: Groups or layers to leave as they are, likewise.
        target: One of `ka.targets`, or several that count different things,
            all of which are met: what the model may cost when the last event
            is over. Only for methods that say how units are ranked, in
            `ranking`.
            Events then go there in steps of the same factor, and choose units
            over all groups, wherever that saves most for the least error.
        limit: A `ka.Limit`, if pruning may cost only so much. Each event is
            judged by it: one that costs more than is left is undone, to the
            last bit, and tried with half as much, down to nothing. What
            events cost adds up over the training; what training wins back
            between them does not count.
        min_units: Integer of at least 1: how many units every group keeps.
        round_to: Integer of at least 1: the number of units that a group
            keeps is rounded up to a multiple of it, where the method does.
        min_gain: Number from 0 to below 1. An event that would remove less
            than this share of the parameters is skipped: a removal costs
            tracing the step anew.
        recalibrate: Whether to compute the moving statistics of batch
            normalizations anew, by `ka.recalibrate`, after each event that
            prunes, and at the end of a training in which units or weights
            were pruned. Only methods that were given training data as
            `data` can do it.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`; see `ka.shrink`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes, such as those
            of a residual stream; see `ka.shrink`. How much an event changes
            the outputs is measured then, where the method has data.
        total_epochs: Integer, the epochs of the whole training, if it is
            spread over several calls of `fit`.
        verbose: 0 for silence, 1 for one line for each event that prunes, 2
            for those that do not, too; `"auto"` follows `fit`.

    Attributes:
        history: A list with one `Event` for each event so far.

    Raises:
        ValueError: If an argument is out of range or, when training begins,
            if the model has nothing to prune or `fit` has a callback that
            cannot follow a removal.

    Example: remove the last unit of each group, whatever it does.

    >>> class LastUnits(ka.callbacks.PruningCallback):
    ...     def prune(self, analysis, amount):
    ...         return ka.Removal({
    ...             group.name: [group.size - 1]
    ...             for group in self.groups(analysis)
    ...         })
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.compile("adam", "mse")
    >>> x = np.zeros((32, 4))
    >>> pruning = LastUnits(ka.schedules.EveryEpoch())
    >>> history = model.fit(
    ...     x, x[:, :1], epochs=3, callbacks=[pruning], verbose=0
    ... ).history
    >>> history["units/hidden"]
    [7, 6, 5]
    """

    # Whether an event fires when training ends, whatever the schedule says.
    at_end: ClassVar[bool] = False
    # Whether events wait for the end of their epoch.
    waits_for_epoch: ClassVar[bool] = False
    # Keys of the logs that Keras' progress line shows.
    shown: ClassVar[tuple[str, ...]] = ("parameters",)
    # What copies and pickles leave out, and what stands there instead.
    transient: ClassVar[Mapping[str, Callable[[], Any]]] = {
        "_model": lambda: None,
        "_to_target": lambda: None,
    }

    def __init__(
        self,
        schedule: EventSchedule,
        *,
        layers: Any = None,
        exclude: Any = (),
        target: Any = None,
        limit: Limit | None = None,
        min_units: int = 1,
        round_to: int = 1,
        min_gain: float = 0.0,
        recalibrate: bool = True,
        prune_non_trainable: bool = False,
        prune_normalized: bool = False,
        total_epochs: int | None = None,
        verbose: bool | int | str = "auto",
    ):
        super().__init__()
        check_that(
            "schedule",
            schedule,
            isinstance(schedule, EventSchedule),
            "one of `ka.schedules` that fires events, such as "
            "`ka.schedules.Logarithmic()`",
        )
        check_that(
            "limit",
            limit,
            limit is None or isinstance(limit, Limit),
            "a `ka.Limit`, or None",
        )
        check_count("min_units", min_units)
        check_count("round_to", round_to)
        check_share("min_gain", min_gain)
        check_that(
            "verbose",
            verbose,
            verbose == "auto" or verbose in (0, 1, 2),
            "0, 1, 2 or 'auto'",
        )
        self.schedule = schedule
        self.layers = check_names("layers", layers)
        self.exclude = check_names("exclude", exclude) or ()
        if target is not None:
            as_targets(target)
        self.target = target
        self.limit = limit
        self.min_units = min_units
        self.round_to = round_to
        self.min_gain = min_gain
        self.recalibrate = bool(recalibrate)
        self.prune_non_trainable = bool(prune_non_trainable)
        self.prune_normalized = bool(prune_normalized)
        self.total_epochs = total_epochs
        self.verbose = verbose
        self.history: list[Event] = []
        self._progress = TrainingProgress(total_epochs)
        self._trigger = Trigger(schedule, self._progress, self.at_end)
        self._clock = StepClock()
        self._seconds = 0.0  # Spent in the present epoch.
        self._events_before = 0  # The present `fit`.
        self._whole_costs: list[float] | None = None  # By each target.
        self._to_target: TargetPruning | None = None
        self._spent = 0.0  # Of what the limit allows.
        self._fitting = False
        self._recalibrated = False  # Since the last step.
        self._attempts: tuple[Attempt, ...] = ()  # At the present event.
        self._logged: set[str] = set()

    # What a method overrides.

    def prune(
        self, analysis: Analysis, amount: float
    ) -> Removal | Masks | Skip:
        """Decides what to prune at an event.

        Args:
            analysis: The model's unit groups as they are now.
            amount: How much to prune; see `amount_at`.

        Returns:
            A `ka.Removal` of units; `Masks`, to mask weights; or `Skip`, with
            a reason, to prune nothing.
        """
        raise NotImplementedError

    # What a method may override.

    def amount_at(self, event: int, progress: float) -> float:
        """Returns how much to prune at an event.

        Args:
            event: Integer, counted from 0.
            progress: The fraction of the training that is done.

        Returns:
            The sparsity of the schedule, by default; 0 where it has none.
        """
        return self.schedule.sparsity_at(event) or 0.0

    def begin(self, analysis: Analysis) -> None:
        """Prepares for a call of `fit`, and checks that there is work.

        Args:
            analysis: The model's unit groups.

        Raises:
            ValueError: If there is nothing to prune.
        """
        self.groups(analysis)

    def end(self) -> None:
        """Cleans up after a call of `fit`."""

    def refitting(self) -> Refitting | None:
        """Returns what fits groups that are removed one by one.

        It is called for all groups but the first, with the model's unit
        groups as they are then, and the removal of the group; it returns the
        removal to apply instead.

        Returns:
            A function to use for one removal; `None`, the default, if all
            groups are removed at once.
        """
        return None

    def is_worth_it(self, gain: float) -> bool:
        """Tells whether a removal is worth tracing the step anew.

        Args:
            gain: The share of the parameters that it would remove.
        """
        return gain >= self.min_gain

    def ranking(self) -> Ranking:
        """Returns how units are ranked, and replaced, on the way to a target.

        Raises:
            ValueError: If the method takes no target.
        """
        raise ValueError(
            "Expected no `target`, since the method does not rank units. "
            f"Received: target={self.target!r} for `{type(self).__name__}`"
        )

    def begin_target(self, whole: Sequence[float]) -> None:
        """Prepares to reach the target.

        Args:
            whole: What the model cost before it was pruned, by each target.

        Raises:
            ValueError: If it is out of reach.
        """
        self._to_target = TargetPruning(
            self.model,
            as_targets(self.target),
            self.ranking(),
            self.layers,
            self.exclude,
            self.min_units,
            self.round_to,
            whole,
        )
        self._to_target.check()
        check_that(
            "schedule",
            self.schedule,
            bool(self._trigger.times),
            "one whose number of events is known, since a target is reached "
            "at the last",
        )

    def prune_less(
        self, analysis: Analysis, amount: float, share: float
    ) -> Removal | Masks | Skip:
        """Decides again what to prune, when that much exceeded the `limit`.

        By default `prune` is asked again, for that share of the amount.

        Args:
            analysis: The model's unit groups, as they were for `prune`.
            amount: How much was to be pruned.
            share: How much of it to prune, above 0 and below 1.
        """
        return self.prune(analysis, share * amount)

    def after_pruning(
        self, analysis: Analysis, outcome: Removal | Masks | Skip
    ) -> None:
        """Takes note of what has been applied.

        Args:
            analysis: The model's unit groups as they are now.
            outcome: What has been applied.
        """

    def measures(self, analysis: Analysis) -> dict[str, float]:
        """Returns what else to log, with the same keys in every epoch."""
        return {}

    def details(self) -> dict[str, Any]:
        """Returns further fields of the `Event` that is being recorded."""
        return {}

    # What the methods share.

    def groups(self, analysis: Analysis) -> list[UnitGroup]:
        """Returns the groups that the callback may prune.

        Raises:
            ValueError: If a name is unknown or there is no such group.
        """
        return [group for _, group in self.numbered_groups(analysis)]

    def numbered_groups(
        self, analysis: Analysis
    ) -> list[tuple[int, UnitGroup]]:
        """Returns the groups that may be pruned, with their indices."""
        chosen = named_groups(analysis, self.layers, self.exclude)
        if not chosen:
            reasons = "\n".join(
                f"  {group.name}: {group.reason or 'excluded'}"
                for group in analysis.groups
            )
            raise ValueError(
                f"Model '{self.model.name}' has no units that can be pruned:\n"
                f"{reasons or '  it has no unit groups'}"
            )
        return chosen

    def keep(self, data: Any, samples: int) -> Any:
        """Returns data that can be read again and again.

        Args:
            data: Data as a user gives it.
            samples: How many samples of a generator to keep.
        """
        if data is None or isinstance(data, (str, MissingData)):
            return data
        return lasting(data, samples)

    @property
    def allowed(self) -> Allowed:
        """Permissions of the removals."""
        return Allowed(self.prune_non_trainable, self.prune_normalized)

    @property
    def loudness(self) -> int:
        """The amount of printing: 0, 1 or 2."""
        if self.verbose == "auto":
            return 1 if (self.params or {}).get("verbose", 1) else 0
        return int(self.verbose)

    @property
    def training_ends(self) -> bool:
        """`True` if no step follows."""
        return self._progress.fraction >= 1 or self.model.stop_training

    # Configuration and state.

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the callback, without its data.

        An argument `data` is only there if it is `None` or a string.
        """
        config = arguments_of(self, without=("data",))
        if hasattr(self, "data") and (
            self.data is None or isinstance(self.data, str)
        ):
            config["data"] = self.data
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **arguments: Any) -> Self:
        """Makes a callback from what `get_config` returned.

        Args:
            config: The config.
            **arguments: Arguments to add or to replace, such as `data`,
                which configs do not hold. It may be set as an attribute
                later, before training begins.
        """
        given = {key: from_config(value) for key, value in config.items()}
        given.update(arguments)
        if "data" not in given and "data" in inspect.signature(cls).parameters:
            given["data"] = MissingData()
        return cls(**given)

    def get_state(self) -> dict[str, Any]:
        """Returns what `ka.callbacks.Checkpoint` keeps."""
        return {
            "trigger": self._trigger.get_state(),
            "spent": self._spent,
            "whole_costs": self._whole_costs,
            "history": [dataclasses.asdict(event) for event in self.history],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resumes from what `get_state` returned."""
        self._trigger.set_state(state["trigger"])
        self._spent = state["spent"]
        self._whole_costs = state["whole_costs"]
        self.history = [Event.from_state(each) for each in state["history"]]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name, instead in self.transient.items():
            if name in state:
                state[name] = instead()
        return state

    # What Keras calls.

    @with_its_groups
    def on_train_begin(self, logs: Any = None) -> None:
        if isinstance(getattr(self, "data", None), MissingData):
            raise ValueError(
                f"This `{type(self).__name__}` was made from a config, which "
                "holds no data. Set its attribute `data`, or pass "
                "`from_config(config, data=...)`. Received: no data"
            )
        check_conflicts(self, self.conflicts)
        if self.limit is not None:
            self.limit.check(self.model)
        collectives.together()  # Raises if processes are not connected.
        backend.check_devices(self.model)
        split = backend.split_of(self.model)
        check_that(
            "round_to",
            self.round_to,
            self.round_to % split == 0,
            f"a multiple of {split}, into which `keras.distribution` splits "
            f"the weights of model '{self.model.name}'",
        )
        self._progress.begin_fit(self.params)
        self._trigger.begin_fit(self._progress.epochs)
        analysis = analyse(self.model)
        if self.target is not None:
            targets = as_targets(self.target)
            if self._whole_costs is None:
                self._whole_costs = [t.measure(self.model) for t in targets]
            self.begin_target(self._whole_costs)
        self.begin(analysis)
        self._fitting, self._recalibrated = True, False
        self._clock = StepClock()
        self._events_before = len(self.history)
        for other in callbacks_beside(self):
            if isinstance(other, keras.callbacks.ProgbarLogger):
                hide_from_progress(other, self._is_hidden)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """The kinds of callbacks that cannot run beside this one."""
        return (BEST_WEIGHTS, BEST_FILE, BACKUP)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._progress.begin_epoch(epoch)
        self._trigger.begin_epoch()
        self._seconds = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._recalibrated = False
        self._clock.start()

    @with_its_groups
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._clock.stop()
        self._progress.end_step(batch)
        if not self.waits_for_epoch:
            self._fire(self._trigger.due(self.model))

    @with_its_groups
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._progress.end_epoch()
        self._fire(self._trigger.due(self.model))
        if logs is not None:
            found = self._logs()
            self._logged = set(found)
            logs.update(found)

    @with_its_groups
    def on_train_end(self, logs: Any = None) -> None:
        if self.model.stop_training and not self.waits_for_epoch:
            self._fire(self._trigger.due_at_end())
        self._tell_if_idle()
        self._tell_of_target()
        self.end()
        self._recalibrate_at_end()
        self._fitting = False

    @with_its_groups
    def on_test_begin(self, logs: Any = None) -> None:
        # The last validation of `fit` sees the model as `fit` leaves it.
        if self._fitting:
            self._recalibrate_at_end()

    def _recalibrate_at_end(self) -> None:
        """Recalibrates a model that was pruned, once no step follows."""
        pruned = any(not event.skipped for event in self.history)
        if pruned and self.training_ends and not self._recalibrated:
            self._recalibrate()

    def _logs(self) -> dict[str, float]:
        analysis = analyse(self.model)
        found: dict[str, float] = {"parameters": parameters(self.model)}
        for group in analysis.groups:
            if group.removable:
                found[f"units/{group.name}"] = group.size
        found[f"{_snake(type(self).__name__)}_seconds"] = self._seconds
        return {**found, **self.measures(analysis)}

    def _is_hidden(self, key: str) -> bool:
        """Tells whether the progress line leaves out a key of the logs."""
        return key in self._logged and key not in self.shown

    def _fire(self, event: int | None) -> None:
        if event is None:
            return
        analysis = analyse(self.model)
        sizes = {g.name: g.size for g in analysis.groups if g.removable}
        size, masked = parameters(self.model), masked_count(self.model)
        work = work_after(analysis)
        progress = self._progress.fraction
        amount = float(self.amount_at(event, progress))
        if self._to_target is not None:
            amount = (event + 1) / len(self._trigger.times)
        start = time.perf_counter()
        outcome, report, analysis = self._prune(analysis, amount)
        seconds = time.perf_counter() - start
        self._seconds += seconds
        saving = None
        if report is not None:
            known = work > 0  # It is NaN where lengths are unknown.
            share = 1 - work_after(analysis) / work if known else 0.0
            left = self._progress.steps_left if known else None
            saving = self._clock.saving(share, left)
            self._clock.retrace()
        after = {g.name: g.size for g in analysis.groups}
        details = self.details()
        notes = details.pop("notes", ())
        found = Event(
            epoch=self._progress.epoch - (not self._progress.step),
            step=self._progress.step,
            steps=self._progress.steps_done,
            progress=progress,
            amount=amount,
            units={name: (size, after[name]) for name, size in sizes.items()},
            parameters=(size, parameters(self.model)),
            masked=(masked, masked_count(self.model)),
            seconds=seconds,
            residuals={
                change.name: change.residual
                for change in (report.groups if report else ())
                if change.residual is not None
            },
            skipped=outcome.reason if isinstance(outcome, Skip) else "",
            attempts=self._attempts,
            saving=saving,
            output_change=report.output_change if report else None,
            notes=(*(report.notes if report else ()), *notes),
            **details,
        )
        self.history.append(found)
        if self.loudness > bool(found.skipped):
            print(f"\n{type(self).__name__} {found}", flush=True)

    @with_its_groups
    def fire(self, amount: float) -> Report | None:
        """Prunes the model at once, without a schedule or a record.

        Args:
            amount: How much to prune; see `amount_at`.

        Returns:
            The report of the removal; `None` if nothing was removed.
        """
        return self._prune(analyse(self.model), amount)[1]

    def _prune(
        self, analysis: Analysis, amount: float
    ) -> tuple[Removal | Masks | Skip, Report | None, Analysis]:
        outcome = self._decide(analysis, amount)
        self._attempts = ()
        report = None
        if self.limit is not None and not isinstance(outcome, Skip):
            outcome, report = self._within(self.limit, amount, outcome)
        else:
            report = self._apply(outcome)
        if report is not None:
            analysis = analyse(self.model)
        self.after_pruning(analysis, outcome)
        return outcome, report, analysis

    def _decide(
        self, analysis: Analysis, amount: float, share: float = 1.0
    ) -> Removal | Masks | Skip:
        """Decides what to prune, or a share of what `prune` just decided."""
        outcome: Any
        if self._to_target is not None:
            outcome = self._to_target.removal(analysis, amount, share)
            if not len(outcome):
                return Skip("the model costs no more than it may by now")
            if amount >= 1:  # There is no later event.
                return outcome
        elif share == 1:
            outcome = self.prune(analysis, amount)
        else:
            outcome = self.prune_less(analysis, amount, share)
        if not isinstance(outcome, (Removal, Masks, Skip)):
            raise ValueError(
                f"Expected `{type(self).__name__}.prune` to return a "
                "`ka.Removal`, `ka.callbacks.Masks` or `ka.callbacks.Skip`. "
                f"Received: {outcome!r}"
            )
        return self._weighed(analysis, outcome)

    def _within(
        self, limit: Limit, amount: float, first: Removal | Masks
    ) -> tuple[Removal | Masks | Skip, Report | None]:
        """Prunes by as much as the limit allows: all, half, and so on."""

        def act(share: float) -> tuple[Removal | Masks, Report | None] | None:
            outcome: Removal | Masks | Skip = first
            if share < 1:
                outcome = self._decide(analyse(self.model), amount, share)
            if isinstance(outcome, Skip):
                return None
            return outcome, self._apply(outcome)

        before = self.measure_price(limit)
        done, self._attempts = within_limit(
            self.model, limit, before, act, self._spent
        )
        if done is not None:
            worse = limit.worse(before, self._attempts[-1].value)
            self._spent += max(worse, 0.0)
            return done
        self._recalibrated = False  # That was undone, too.
        left = max(limit.worse_by - self._spent, 0.0)
        return Skip(
            f"{limit.metric} would become worse than the limit allows: "
            f"{before:.4g} would be "
            f"{', '.join(f'{each.value:.4g}' for each in self._attempts)}, "
            f"and {left:.3g} of {limit.worse_by:g} is left"
        ), None

    def measure_price(self, limit: Limit) -> float:
        """Measures a limit's metric as after an event that costs nothing."""
        if not (self.recalibrate and self._own_data is not None):
            return limit.measure(self.model)
        was = self._recalibrated
        value = measure_before(self.model, limit, self._recalibrate)
        self._recalibrated = was
        return value

    def _weighed(
        self, analysis: Analysis, outcome: Removal | Masks | Skip
    ) -> Removal | Masks | Skip:
        """Skips a removal that is not worth it."""
        if not isinstance(outcome, Removal):
            return outcome
        left = parameters_after(analysis, outcome)
        gain = 1 - left / parameters_after(analysis)
        if self.is_worth_it(gain):
            return outcome
        return Skip(
            f"it would remove {gain:.1%} of the parameters, less than "
            f"min_gain={self.min_gain:.0%}"
        )

    def _apply(self, outcome: Removal | Masks | Skip) -> Report | None:
        """Changes the model, and computes its moving statistics anew."""
        report = None
        if isinstance(outcome, Masks):
            mask_weights(self.model, outcome)
        elif isinstance(outcome, Removal):
            data = self._own_data if self.prune_normalized else None
            change = OutputChange(self.model, data)
            report = dataclasses.replace(
                self._shrink(outcome), output_change=change.measure()
            )
        if not isinstance(outcome, Skip):
            self._recalibrate()
        return report

    def _shrink(self, removal: Removal) -> Report:
        if self._to_target is not None:
            return self._to_target.remove(removal)
        refit = self.refitting()
        if refit is None:
            return shrink(self.model, removal)
        return shrink_group_by_group(self.model, removal, refit)

    @property
    def _own_data(self) -> Any:
        """The data that the callback was given, if any."""
        data = getattr(self, "data", None)
        return None if isinstance(data, str) else data

    def _recalibrate(self) -> None:
        """Computes moving statistics of normalizations anew, from `data`."""
        data = self._own_data
        if self.recalibrate and data is not None:
            self._recalibrated = True
            recalibrate(
                self.model,
                data,
                samples=getattr(self, "samples", 4096),
                batch_size=getattr(self, "batch_size", 512),
            )

    def _tell_of_target(self) -> None:
        """Tells what has become of the target, once training is over."""
        if self._whole_costs is None or not self.training_ends:
            return
        targets = as_targets(self.target)
        for each in results_of(self.model, targets, self._whole_costs):
            text = (
                f"{each.name} {each.show(each.after)}, of at most "
                f"{each.show(each.limit)}"
            )
            if not each.met:
                warnings.warn(
                    f"`{type(self).__name__}` has not reached its target: "
                    f"{text}.",
                    stacklevel=2,
                )
            elif self.loudness:
                print(f"\n{type(self).__name__}: {text}", flush=True)

    def _tell_if_idle(self) -> None:
        """Tells of a training in which nothing was pruned."""
        events = self.history[self._events_before :]
        name = type(self).__name__
        if not self.history and self.model.stop_training:
            warnings.warn(
                f"Training stopped at {self._progress.fraction:.0%}, before "
                f"the first event of `{name}`: nothing was pruned. Let "
                "early stopping begin later (`start_from_epoch`), or prune "
                "earlier (`schedule`).",
                stacklevel=2,
            )
        elif (
            self.loudness == 1
            and events
            and all(event.skipped for event in events)
        ):
            print(
                f"\n{name} pruned nothing in {len(events)} events; the last "
                f"{events[-1]}",
                flush=True,
            )


def _snake(name: str) -> str:
    return "".join(
        f"_{letter.lower()}" if letter.isupper() else letter for letter in name
    ).lstrip("_")

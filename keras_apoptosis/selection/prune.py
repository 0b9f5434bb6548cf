"""One call that prunes a trained model to a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend, criteria
from keras_apoptosis.accounting.costs import widths_of
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.selection.allocation import allocate
from keras_apoptosis.selection.candidate import obstacle
from keras_apoptosis.selection.curves import Curve, score_curve
from keras_apoptosis.selection.mean_replacement import mean_replacements
from keras_apoptosis.selection.price import Attempt, Limit
from keras_apoptosis.selection.reconstruction import Reconstruction
from keras_apoptosis.statistics.streaming import labelled_batches, sample_of
from keras_apoptosis.surgery import Removal, rebuild, shrink, snapshot
from keras_apoptosis.surgery.report import GroupChange, Report
from keras_apoptosis.targets import Target, as_targets
from keras_apoptosis.training.recalibration import recalibrate
from keras_apoptosis.utils.checks import check_choice, check_count
from keras_apoptosis.utils.names import check_names, select
from keras_apoptosis.utils.tables import table

# Their scores are in units of weights, and mean nothing beside other groups'.
_RELATIVE = ("l1_norm", "squared_norm", "random")
# How often a copy of the model is measured, and how near a limit is enough.
_MEASUREMENTS = 8
_NEAR = 0.05
_REPLACEMENTS = ("least_squares", "mean", "zero")


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """The outcome for one target.

    Args:
        target: The target.
        before: What it was.
        limit: What it was to be at most.
        after: What it is.
    """

    target: Target
    before: float
    limit: float
    after: float

    @property
    def name(self) -> str:
        """The name of what is counted."""
        return self.target.name

    def show(self, amount: float) -> str:
        """Returns an amount as text for people."""
        return self.target.show(amount)

    @property
    def met(self) -> bool:
        """`True` if the model costs no more than it may.

        Of what is measured, within 5 %.
        """
        slack = 1e-9 if self.target.counted else 0.05
        return self.after <= self.limit * (1 + slack)


@dataclasses.dataclass(frozen=True)
class PruningReport(Report):
    """Reports what `ka.prune` did to a model.

    Args:
        targets: What became of each target.
        metric: Name of the metric of the limit; `""` without a limit.
        metric_before: The metric before.
        attempts: What each removal did to it.
    """

    targets: tuple[TargetResult, ...] = ()
    metric: str = ""
    metric_before: float | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def met(self) -> bool:
        """`True` if every target is met."""
        return all(each.met for each in self.targets)

    def __str__(self) -> str:
        rows = [
            (
                each.name,
                *(
                    each.show(amount)
                    for amount in (each.before, each.limit, each.after)
                ),
                "yes" if each.met else "no",
            )
            for each in self.targets
        ]
        lines = [super().__str__()]
        if rows:
            header = ("target", "before", "at most", "after", "met")
            lines.append(table(header, rows))
        if self.attempts:
            lines.append(f"{self.metric} before: {self.metric_before:.4f}")
            lines += [
                f"{self.metric} with {each.share:.0%} of the step: "
                f"{each.value:.4f}, {'kept' if each.kept else 'undone'}"
                for each in self.attempts
            ]
        return "\n".join(lines)


def prune(
    model: keras.Model,
    target: Any,
    data: Any = None,
    *,
    criterion: Any = "reconstruction",
    replacement: str | None = None,
    limit: Limit | None = None,
    steps: int = 1,
    fine_tune: Callable[[keras.Model], Any] | Mapping[str, Any] | None = None,
    layers: Any = None,
    exclude: Any = None,
    min_units: int = 1,
    round_to: int = 1,
    samples: int = 4096,
    batch_size: int = 512,
    seed: int = 0,
) -> PruningReport:
    """Prunes a trained model to a target, in place.

    Units are removed wherever that saves most of what the target counts for
    the least error, over all groups of the model. The model stays compiled
    and keeps its optimizer's state; the moving statistics of its
    normalization layers are computed anew (`ka.recalibrate`).

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        target: One of `ka.targets`, or several of different kinds, which are
            all met, such as `ka.targets.Flops(at_most=0.5)`. A share is one
            of the model as it is given.
        data: Training sample: inputs for `"reconstruction"`, `(x, y)` for
            criteria that look at the loss. A few thousand samples will do.
        criterion: `"reconstruction"`, which keeps the units that best explain
            what the next layers receive; the name of a criterion of units;
            or one of your own. See `ka.criteria`.
        replacement: What stands in for removed units: `"least_squares"` (the
            best combination of the kept ones), `"mean"` or `"zero"`. Defaults
            to least squares for `"reconstruction"`, otherwise to the mean, or
            to zero without `data`.
        limit: A `ka.Limit`, if pruning may cost only so much: a step that
            costs more is undone and tried with half as much.
        steps: Integer > 0. In how many steps to go to the target, each by the
            same factor.
        fine_tune: What to do after each step: a function of the model, or
            arguments of `model.fit`.
        layers: Names, layers or patterns to which it is limited.
        exclude: Names, layers or patterns to leave alone.
        min_units: Integer > 0. How many units every group keeps.
        round_to: Integer > 0. Widths that change become multiples of it.
        samples: Integer > 0. How many samples of `data` to use at most.
        batch_size: Integer > 0. How many of them to run at once.
        seed: Integer, the seed of the random projection of
            `"reconstruction"`.

    Returns:
        What was done, to print. Its `met` says whether the targets were
        reached, which only a limit can prevent.

    Raises:
        ValueError: If an argument is out of range, or a target is out of
            reach. The model is unchanged then.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(64, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> report = ka.prune(model, ka.targets.Parameters(at_most=0.5), x)
    >>> report.met, model.count_params() <= 641 / 2
    (True, True)
    """
    check_count("steps", steps)
    check_count("min_units", min_units)
    check_count("round_to", round_to)
    check_count("samples", samples)
    if not (limit is None or isinstance(limit, Limit)):
        raise ValueError(
            f"Expected `limit` to be a `ka.Limit` or None. Received: {limit=}"
        )
    names = check_names("layers", layers), check_names("exclude", exclude)
    targets = as_targets(target)
    sample = None if data is None else sample_of(data, samples)
    method = _method(criterion, replacement, sample, samples, batch_size, seed)
    pruning = _Pruning(model, targets, method, *names, min_units, round_to)

    def act(limits: Sequence[float]) -> None:
        if pruning.carry_out(limits) and sample is not None:
            recalibrate(model, sample, samples=samples, batch_size=batch_size)
        _fine_tune(model, fine_tune)

    pruning.check_reach()
    backend.sync_from_jax(model)
    before = None if limit is None else limit.measure(model)
    attempts: list[Attempt] = []
    for step in range(steps):
        wanted = pruning.limits((step + 1) / steps)
        if limit is None or before is None:
            act(wanted)
            continue
        attempts += pruning.attempt(wanted, limit, before, act)
        if not attempts[-1].kept:
            break
    return pruning.report(limit, before, attempts)


class _Pruning:
    """A pruning on its way to its targets."""

    def __init__(
        self,
        model: keras.Model,
        targets: Sequence[Target],
        method: _Method,
        layers: Any,
        exclude: Any,
        min_units: int,
        round_to: int,
    ):
        self.model = model
        self.targets = targets
        self.method = method
        self.layers = layers
        self.exclude = exclude
        self.options = {"min_units": min_units, "round_to": round_to}
        self.sizes = {group.name: group.size for group in analyse(model).groups}
        self.parameters = model.count_params()
        self.whole = [target.measure(model) for target in targets]
        self.notes: dict[str, None] = {}
        self.residuals: dict[str, float | None] = {}

    def groups(self, analysis: Analysis) -> list[int]:
        """Returns the groups that may be pruned, by number."""
        numbers = select(
            range(len(analysis.groups)),
            lambda n: _names(analysis.groups[n]),
            self.layers,
            self.exclude,
            layers_of=lambda n: analysis.groups[n].producers,
        )
        return [n for n in numbers if self.method.why_not(analysis, n) == ""]

    def check_reach(self) -> None:
        """Raises a `ValueError` if a target cannot be reached at all."""
        analysis = analyse(self.model)
        numbers = self.groups(analysis)
        flat = {n: np.zeros(analysis.groups[n].size + 1) for n in numbers}
        reasons = "\n".join(
            f"  {group.name}: {self.method.why_not(analysis, n) or 'left out'}"
            for n, group in enumerate(analysis.groups)
            if n not in numbers
        )
        if not numbers:
            raise ValueError(
                f"Model '{self.model.name}' has no units that can be pruned:\n"
                f"{reasons or '  it has no unit groups'}"
            )
        costs = [target.cost(analysis) for target in self.targets]
        limits = [
            target.limit(whole)
            for target, whole in zip(self.targets, self.whole, strict=True)
        ]
        least = allocate(
            costs, [0.0] * len(costs), widths_of(analysis), flat, **self.options
        ).widths
        for target, cost, limit in zip(
            self.targets, costs, limits, strict=True
        ):
            amount = float(cost(least))
            if not target.counted:
                amount = target.measure(self.narrowed(analysis, least))
            if amount > limit:
                raise ValueError(
                    f"Target {target!r} cannot be reached: with every group "
                    f"as narrow as it may be, {target.name} are "
                    f"{target.show(amount)}, and at most "
                    f"{target.show(limit)} is wanted. Not pruned:\n{reasons}"
                )

    def limits(self, progress: float) -> list[float]:
        """Returns what each target allows after a part of the steps."""
        found = []
        for target, whole in zip(self.targets, self.whole, strict=True):
            limit = target.limit(whole, progress)
            if not callable(target.at_most) and limit < whole:
                limit = whole * (limit / whole) ** progress
            found.append(limit)
        return found

    def attempt(
        self,
        wanted: Sequence[float],
        limit: Limit,
        before: float,
        act: Callable[[Sequence[float]], Any],
    ) -> list[Attempt]:
        """Prunes by as much as the limit allows: all, half, and so on."""
        start = snapshot(self.model)
        now = self.amounts()
        notes, residuals = dict(self.notes), dict(self.residuals)
        attempts: list[Attempt] = []
        for number in range(limit.attempts):
            share = 0.5**number
            act(
                [
                    max(w, n - share * (n - w)) if n > w else w
                    for n, w in zip(now, wanted, strict=True)
                ]
            )
            value = limit.measure(self.model)
            allowed = limit.allows(before, value)
            attempts.append(Attempt(share, value, allowed))
            if allowed:
                break
            start.restore()
            self.notes, self.residuals = dict(notes), dict(residuals)
        return attempts

    def amounts(self) -> list[float]:
        """Returns what the model costs now."""
        return [target.measure(self.model) for target in self.targets]

    def carry_out(self, limits: Sequence[float]) -> bool:
        """Removes units until limits are met, and returns whether it did."""
        analysis = analyse(self.model)
        numbers = self.groups(analysis)
        curves = self.method.curves(self.model, analysis, numbers)
        widths = widths_of(analysis)
        found = self.widths_within(analysis, curves, limits)
        removed = {
            number: curve.removed(int(found[number]))
            for number, curve in curves.items()
            if found[number] < widths[number]
        }
        if not removed:
            return False
        for report in self.method.remove(self.model, analysis, removed):
            self.notes.update(dict.fromkeys(report.notes))
            for change in report.groups:
                self.residuals[change.name] = change.residual
        return True

    def widths_within(
        self,
        analysis: Analysis,
        curves: Mapping[int, Curve],
        limits: Sequence[float],
    ) -> np.ndarray:
        """Finds widths at which all limits are met, measured ones included."""
        costs = [target.cost(analysis) for target in self.targets]
        before = widths_of(analysis)
        errors = {number: curve.error for number, curve in curves.items()}
        measured = [n for n, t in enumerate(self.targets) if not t.counted]
        counts = list(limits)
        for n in measured:
            counts[n] = float(costs[n](before))
        found = allocate(costs, counts, before, errors, **self.options).widths
        for n in measured:
            target, allowed = self.targets[n], limits[n]
            # What met the limit, and what did not: pairs of count and time.
            below: tuple[float, float] | None = None
            above = counts[n], target.measure(self.model)
            if above[1] <= allowed:
                continue
            counts[n] *= allowed / above[1]
            for _ in range(_MEASUREMENTS):
                now = allocate(
                    costs, counts, before, errors, **self.options
                ).widths
                time = target.measure(self.narrowed(analysis, now))
                if time <= allowed:
                    below, found = (float(costs[n](now)), time), now
                    if time > (1 - _NEAR) * allowed:
                        break
                else:
                    above = float(costs[n](now)), time
                counts[n] = _next_count(below, above, allowed)
            else:
                if below is None:
                    found = now
        return found

    def narrowed(self, analysis: Analysis, widths: np.ndarray) -> keras.Model:
        """Returns a copy of the model at other widths, with any weights."""
        removed: Any = {
            group.name: np.arange(width, group.size)
            for group, width in zip(analysis.groups, widths, strict=True)
            if width < group.size
        }
        return rebuild(self.model, Removal(removed))

    def report(
        self,
        limit: Limit | None,
        before: float | None,
        attempts: list[Attempt],
    ) -> PruningReport:
        sizes = {g.name: g.size for g in analyse(self.model).groups}
        return PruningReport(
            groups=tuple(
                GroupChange(
                    name, size, sizes.get(name, size), self.residuals.get(name)
                )
                for name, size in self.sizes.items()
                if sizes.get(name, size) < size
            ),
            parameters_before=self.parameters,
            parameters_after=self.model.count_params(),
            notes=tuple(self.notes),
            targets=tuple(
                TargetResult(target, whole, target.limit(whole), amount)
                for target, whole, amount in zip(
                    self.targets, self.whole, self.amounts(), strict=True
                )
            ),
            metric="" if limit is None else limit.metric,
            metric_before=before,
            attempts=tuple(attempts),
        )


class _Method:
    """Chooses and replaces units by scores.

    Args:
        criterion: The criterion.
        replacement: What stands in for removed units.
        sample: The sample, in memory, or `None`.
        reconstruction: What fits replacements by least squares; `None` where
            that is not wanted.
    """

    def __init__(
        self,
        criterion: Any,
        replacement: str,
        sample: Any,
        reconstruction: Reconstruction | None,
        batch_size: int,
    ):
        self.criterion = criterion
        self.replacement = replacement
        self.sample = sample
        self.reconstruction = reconstruction
        self.batch_size = batch_size

    def why_not(self, analysis: Analysis, number: int) -> str:
        """Returns why a group cannot be pruned; `""` if it can."""
        group = analysis.groups[number]
        if not group.removable:
            return group.reason
        if self.replacement == "least_squares":
            return obstacle(group, measured=True)
        return ""

    def curves(
        self, model: keras.Model, analysis: Analysis, numbers: list[int]
    ) -> dict[int, Curve]:
        """Computes what is lost with every width of some groups."""
        scores = self.criterion.score(model, self.sample)
        relative = self.criterion.name in _RELATIVE
        return {
            number: score_curve(scores[analysis.groups[number].name], relative)
            for number in numbers
            if analysis.groups[number].name in scores
        }

    def remove(
        self,
        model: keras.Model,
        analysis: Analysis,
        removed: Mapping[int, np.ndarray],
    ) -> list[Report]:
        """Removes units of some groups, and replaces them."""
        names: Any = {analysis.groups[n].name: r for n, r in removed.items()}
        if self.reconstruction is None:
            given: Any = {}
            if self.replacement == "mean":
                given = mean_replacements(
                    model, self.sample, names, batch_size=self.batch_size
                )
            return [shrink(model, Removal(names, given))]
        reports = []
        # The fit of a group changes what the groups after it see.
        units: Any
        for number, units in removed.items():
            analysis = analyse(model)
            measured = self.reconstruction.measure(analysis, [number])
            fit = self.reconstruction.fit(analysis, number, units, measured)
            name = analysis.groups[number].name
            removal = Removal({name: units}, {name: fit.replacements})
            reports.append(shrink(model, removal))
        return reports


class _Reconstructing(_Method):
    """Chooses by what the kept units explain."""

    reconstruction: Reconstruction

    def curves(
        self, model: keras.Model, analysis: Analysis, numbers: list[int]
    ) -> dict[int, Curve]:
        measured = self.reconstruction.measure(analysis, numbers)
        return {
            number: self.reconstruction.curve(analysis, number, measured)
            for number in numbers
        }


def _method(
    criterion: Any,
    replacement: str | None,
    sample: Any,
    samples: int,
    batch_size: int,
    seed: int,
) -> _Method:
    """Checks what is chosen by, and returns it."""
    by_reconstruction = criterion == "reconstruction"
    found = None
    if not by_reconstruction:
        found = criteria.get(criterion, "units")
    if replacement is None:
        blind = "zero" if sample is None else "mean"
        replacement = "least_squares" if by_reconstruction else blind
    check_choice("replacement", replacement, _REPLACEMENTS)
    needs = by_reconstruction or (found is not None and found.needs_data)
    if sample is None and (needs or replacement != "zero"):
        raise ValueError(
            "Units are judged, and replaced, by a sample of the training data. "
            "Pass one, as `data=(x_train[:4096], y_train[:4096])`. Received: "
            f"data=None, criterion={criterion!r}, replacement={replacement!r}"
        )
    if found is not None and found.needs_labels:
        next(labelled_batches(sample))  # Complains without labels.
    fits = by_reconstruction or replacement == "least_squares"
    reconstruction = (
        Reconstruction(sample, samples, batch_size, seed=seed) if fits else None
    )
    kind = _Reconstructing if by_reconstruction else _Method
    return kind(found, replacement, sample, reconstruction, batch_size)


def _next_count(
    below: tuple[float, float] | None,
    above: tuple[float, float],
    allowed: float,
) -> float:
    """Returns the count to try next, so that a measured limit is just met.

    On the line between what met the limit and what did not; where nothing met
    it yet, on that through zero, and a little below.
    """
    if below is None:
        return 0.8 * above[0] * allowed / above[1]
    aim = (1 - _NEAR / 2) * allowed
    part = (aim - below[1]) / max(above[1] - below[1], 1e-12)
    return below[0] + min(max(part, 0.1), 0.9) * (above[0] - below[0])


def _fine_tune(model: keras.Model, how: Any) -> None:
    if isinstance(how, Mapping):
        model.fit(**how)
    elif how is not None:
        how(model)


def _names(group: Any) -> set[str]:
    return {group.name, *(layer.name for layer in group.producers)}

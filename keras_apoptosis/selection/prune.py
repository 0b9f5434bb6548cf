"""One call that prunes a trained model to a target."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_apoptosis import backend
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.groups import Allowed, allowing
from keras_apoptosis.selection.price import (
    Attempt,
    Limit,
    measure_before,
    within_limit,
)
from keras_apoptosis.selection.pruning_report import PruningReport
from keras_apoptosis.selection.ranking import ranking_of
from keras_apoptosis.selection.target_pruning import TargetPruning
from keras_apoptosis.statistics.streaming import sample_of
from keras_apoptosis.surgery import Report
from keras_apoptosis.surgery.report import GroupChange
from keras_apoptosis.targets import as_targets
from keras_apoptosis.training.recalibration import recalibrate
from keras_apoptosis.utils.checks import check_count
from keras_apoptosis.utils.names import check_names


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
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
    seed: int = 0,
) -> PruningReport:
    """Prunes a trained model to a target, in place.

    Units are removed wherever that saves most of what the target counts for
    the least error, over all groups of the model. The model stays compiled
    and keeps its optimizer's state; the moving statistics of its
    normalization layers are computed anew (`ka.recalibrate`).

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        target: One of `ka.targets`, or several that count different things,
            all of which are met, such as `ka.targets.Flops(at_most=0.5)`. A
            share is one of the model as it is given.
        data: Training sample: inputs for `"reconstruction"`, `(x, y)` for
            criteria that look at the loss. A few thousand samples will do.
        criterion: `"reconstruction"`, which keeps the units that best explain
            what the next layers receive; the name of a criterion of units;
            or one of your own. See `ka.criteria`.
        replacement: What stands in for removed units: `"least_squares"` (the
            best combination of the kept ones), `"mean"`, `"median"`,
            `"minimum"`, `"maximum"` or `"zero"`. Defaults to least squares,
            or to the mean in groups whose units cannot be combined, or to
            zero without `data`.
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
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes; see
            `ka.shrink`.
        seed: Integer, the seed of the random projection of
            `"reconstruction"`.

    Returns:
        What was done, to print. Its `met` says whether the targets were
        reached, which a limit can prevent; a latency that is missed by more
        than 5 % is warned of, too.

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
    sample = None if data is None else sample_of(data, samples)
    with allowing(Allowed(prune_non_trainable, prune_normalized)):
        pruning = TargetPruning(
            model,
            as_targets(target),
            ranking_of(
                criterion, replacement, sample, samples, batch_size, seed
            ),
            check_names("layers", layers),
            check_names("exclude", exclude),
            min_units,
            round_to,
        )
        pruning.check()
        backend.sync_from_jax(model)
        renew = functools.partial(
            recalibrate, model, sample, samples=samples, batch_size=batch_size
        )
        before = None
        if limit is not None and sample is not None:
            before = measure_before(model, limit, renew)
        elif limit is not None:
            before = limit.measure(model)
        before_pruning = backend.parameters_of(model)
        sizes = {group.name: group.size for group in analyse(model).groups}
        reports: list[Report] = []
        attempts: list[Attempt] = []

        def act(progress: float, share: float = 1.0) -> list[Report]:
            removal = pruning.removal(analyse(model), progress, share)
            done = [pruning.remove(removal)] if len(removal) else []
            if done and sample is not None:
                renew()
            _fine_tune(model, fine_tune)
            return done

        for step in range(steps):
            progress = (step + 1) / steps
            if limit is None or before is None:
                reports += act(progress)
                continue
            done, tried = within_limit(
                model, limit, before, functools.partial(act, progress)
            )
            attempts += tried
            if done is None:
                break
            reports += done
        results = pruning.results()
        for each in results:
            if limit is None and not each.met:
                warnings.warn(
                    f"Model '{model.name}' has missed its target: {each.name} "
                    f"{each.show(each.after)}, of at most "
                    f"{each.show(each.limit)}. Something else may have been "
                    "running beside it.",
                    stacklevel=2,
                )
        return PruningReport(
            groups=_changes(model, sizes, reports),
            parameters_before=before_pruning,
            parameters_after=backend.parameters_of(model),
            notes=tuple(
                dict.fromkeys(n for each in reports for n in each.notes)
            ),
            targets=results,
            metric="" if limit is None else limit.metric,
            metric_before=before,
            attempts=tuple(attempts),
        )


def _changes(
    model: keras.Model, sizes: Mapping[str, int], reports: Sequence[Report]
) -> tuple[GroupChange, ...]:
    """Sums up what reports say of each group."""
    now = {group.name: group.size for group in analyse(model).groups}
    residuals = {
        change.name: change.residual
        for report in reports
        for change in report.groups
    }
    return tuple(
        GroupChange(name, size, now[name], residuals.get(name))
        for name, size in sizes.items()
        if now.get(name, size) < size
    )


def _fine_tune(model: keras.Model, how: Any) -> None:
    if isinstance(how, Mapping):
        model.fit(**how)
    elif how is not None:
        how(model)

"""Removes units from a model: in place, or into a new one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Callable
from typing import Any

import keras

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import without_hooks
from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.graph.groups import Allowed
from keras_apoptosis.statistics.output_change import OutputChange
from keras_apoptosis.surgery.apply import (
    UsedElsewhere,
    apply_plan,
    renew_training,
)
from keras_apoptosis.surgery.check import check
from keras_apoptosis.surgery.configuration import resized_copy
from keras_apoptosis.surgery.followed import fault_of_class
from keras_apoptosis.surgery.plan import make_plan
from keras_apoptosis.surgery.removal import Removal
from keras_apoptosis.surgery.report import Report, report_of
from keras_apoptosis.surgery.saving import keep_saveable


def shrink(
    model: keras.Model,
    removal: Removal,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
    data: Any = None,
) -> Report:
    """Removes units from a model in place.

    The model stays the same object, and so do its layers and variables. It may
    be called between batches or epochs of `fit`, from a callback: compiled
    steps are traced anew.

    Whatever else holds its weights follows: optimizers keep their state, cut
    with the same indices, and moving averages of weights absorb the
    replacement as the weights do; other models that share layers shrink as
    well; an own training loop in PyTorch goes on. An own `tf.function` that
    was traced before fails at its next use, and must be made anew.

    Of several workers all must call it, with the same removal; see
    `ka.distributed.alone`.

    Args:
        model: A built Sequential or Functional model, or a nesting of those;
            of a subclassed model the parts that are either.
        removal: The units to remove, and what replaces them.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes, such as those
            of the residual stream of a transformer. Removed units are then
            read as the mean of those that stay, not as zero; the scale and
            the epsilon make up for what stays. Outputs change even where the
            removed units were zero; `data` tells by how much.
        data: Inputs of the model, as `fit` takes them, on which to measure
            how much its outputs change (`Report.output_change`); the first
            4096 samples are used.

    Returns:
        A report of what was done, to print.

    Raises:
        ValueError: If the removal does not fit the model, another model uses
            its units, or it is distributed over devices. All is unchanged
            then.
        RuntimeError: On all workers, if their removals differ. All models are
            unchanged then.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> report = ka.shrink(model, ka.Removal({"hidden": [0, 1, 2]}))
    >>> model.layers[0].units
    5
    """
    allowed = Allowed(prune_non_trainable, prune_normalized)
    analysis = _checked(model, removal, allowed)
    change = OutputChange(model, data)
    report = _shrink(model, analysis, removal, _search())
    return dataclasses.replace(report, output_change=change.measure())


def _search() -> Any:
    """Returns a function that finds holders, and remembers them."""
    return functools.cache(backend.holders_of)


def _shrink(
    model: keras.Model, analysis: Analysis, removal: Removal, search: Any
) -> Report:
    """Shrinks a model of which the removal has been checked."""
    collectives.assert_same(
        removal.digest(),
        "the units to remove and their replacements",
        "Each rank must decide by the same weights, seeds and statistics that "
        "are summed over ranks; processors of different kinds round "
        "differently.",
    )
    before = backend.parameters_of(model)
    notes = None
    with contextlib.suppress(UsedElsewhere):
        notes = _apply(model, analysis, removal, search(model))
    if notes is None:  # The other model may be deleted, but not collected.
        search.cache_clear()
        gc.collect()
        notes = _apply(model, analysis, removal, search(model))
    after = backend.parameters_of(model)
    return report_of(analysis.groups, removal, before, after, notes)


def shrink_group_by_group(
    model: keras.Model,
    removal: Removal,
    refit: Callable[[Analysis, Removal], Removal],
) -> Report:
    """Removes units of one group after the other, as `shrink` does.

    Args:
        model: The model.
        removal: The units to remove, and what replaces them.
        refit: Called for all groups but the first with the model's units as
            they are then, and the removal of the group; returns the removal
            to apply instead.

    Returns:
        One report of all.
    """
    search = _search()  # It takes longer than the removal of a group.
    reports: list[Report] = []
    for part in removal.parts():
        analysis = analyse(model)
        if reports:
            part = refit(analysis, part)
        _check(analysis, part)
        reports.append(_shrink(model, analysis, part, search))
    notes = (note for report in reports for note in report.notes)
    return Report(
        groups=tuple(group for report in reports for group in report.groups),
        parameters_before=reports[0].parameters_before,
        parameters_after=reports[-1].parameters_after,
        notes=tuple(dict.fromkeys(notes)),
    )


def rebuild(
    model: keras.Model,
    removal: Removal,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> keras.Model:
    """Builds a smaller model, with copied weights.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
            It is left as it is.
        removal: The units to remove, and what replaces them.
        prune_non_trainable: See `shrink`.
        prune_normalized: See `shrink`.

    Returns:
        A new model, not compiled, whose layers have the same names.

    Raises:
        ValueError: If the removal does not fit the model, or the model is
            distributed over devices.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> small = ka.rebuild(model, ka.Removal({"hidden": [0, 1, 2]}))
    >>> small.count_params(), model.count_params()
    (37, 58)
    """
    allowed = Allowed(prune_non_trainable, prune_normalized)
    analysis = _checked(model, removal, allowed)
    backend.sync_from_jax(model)
    return resized_copy(model, analysis.graph, make_plan(analysis, removal))


def _checked(
    model: keras.Model, removal: Removal, allowed: Allowed
) -> Analysis:
    analysis = analyse(model, allowed)
    _check(analysis, removal)
    return analysis


def _check(analysis: Analysis, removal: Removal) -> None:
    check(analysis, removal)
    backend.check_devices(analysis.graph.model)


def _apply(
    model: keras.Model,
    analysis: Analysis,
    removal: Removal,
    holders: backend.Holders,
) -> list[str]:
    """Shrinks a model, and lets all that holds its layers follow."""
    for each in holders.models:
        backend.sync_from_jax(each)
    copies = [
        each
        for optimizer in holders.optimizers
        for each in backend.weight_copies(optimizer)
    ]
    plan = make_plan(analysis, removal, copies)
    with contextlib.ExitStack() as stack:
        for optimizer in holders.optimizers:
            stack.enter_context(without_hooks(optimizer))
        apply_plan(analysis, plan, holders)
    renew_training(holders)
    if not any(plan.kept.values()):
        return list(plan.notes)
    models = (m for m in holders.models if isinstance(m, keras.Model))
    saving = keep_saveable(models)
    notes = [*plan.notes, *saving]
    said = any(f"model '{model.name}'" in note for note in saving)
    fault = "" if said else fault_of_class(analysis, plan)
    if fault:
        message = (
            f"model '{model.name}' of class {type(model).__name__} cannot be "
            f"saved as a whole: {fault}. Save the weights (`save_weights`), or "
            "build it of `keras.Model(inputs, outputs)`."
        )
        backend.refuse_to_save(model, message)
        notes.append(message)
    return notes

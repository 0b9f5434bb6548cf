"""Removing units from a model: in place, or into a new one."""

from __future__ import annotations

import contextlib
import gc

import keras

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import without_hooks
from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.surgery.apply import UsedElsewhere, apply_plan
from keras_apoptosis.surgery.check import check
from keras_apoptosis.surgery.configuration import resized_copy
from keras_apoptosis.surgery.plan import Plan, make_plan
from keras_apoptosis.surgery.removal import Removal
from keras_apoptosis.surgery.report import Report, report_of


def shrink(model: keras.Model, removal: Removal) -> Report:
    """Removes units from a model in place.

    The model stays the same object, and so do its layers and variables. Its
    optimizer keeps its state, cut with the same indices. It may be called
    between batches or epochs of `fit`, from a callback. Compiled steps are
    dropped, so that the next step is traced anew; those of *other* models
    that share layers with this one are not known here. Of several workers all
    must call it, with the same removal; see `ka.distributed.alone`.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        removal: What goes, and what replaces it.

    Returns:
        What was done, to print.

    Raises:
        ValueError: If the removal does not fit the model, or the model is
            distributed over devices. The model is unchanged then.
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
    analysis = _checked(model, removal)
    collectives.assert_same(
        removal.digest(),
        "the units to remove and their replacements",
        "Each rank must decide by the same weights, seeds and statistics that "
        "are summed over ranks; processors of different kinds round "
        "differently.",
    )
    before = backend.parameters_of(model)
    plan = None
    with contextlib.suppress(UsedElsewhere):
        plan = _applied(model, analysis, removal)
    if plan is None:  # The other model may be deleted, but not collected.
        gc.collect()
        plan = _applied(model, analysis, removal)
    after = backend.parameters_of(model)
    return report_of(analysis.groups, removal, before, after, plan.notes)


def rebuild(model: keras.Model, removal: Removal) -> keras.Model:
    """Makes the smaller model anew, with copied weights.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
            It is left as it is.
        removal: What goes, and what replaces it.

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
    analysis = _checked(model, removal)
    backend.sync_from_jax(model)
    return resized_copy(model, analysis.graph, make_plan(analysis, removal))


def _checked(model: keras.Model, removal: Removal) -> Analysis:
    analysis = analyse(model)
    check(analysis, removal)
    over = backend.distribution_of(model)
    if over is not None:
        raise ValueError(
            "Removing units from a model that is distributed over devices is "
            f"not supported yet. Received: model '{model.name}' under {over}"
        )
    return analysis


def _applied(model: keras.Model, analysis: Analysis, removal: Removal) -> Plan:
    """Shrinks a model, and lets all that holds its layers follow."""
    holders = backend.holders_of(model)
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
    for each in holders.models:
        backend.sync_to_jax(each)
    return plan

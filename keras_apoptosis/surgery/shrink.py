"""Removing units from a model: in place, or into a new one."""

from __future__ import annotations

import keras

from keras_apoptosis import backend
from keras_apoptosis.backend.step_hooks import without_hooks
from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, analyse
from keras_apoptosis.surgery.check import check
from keras_apoptosis.surgery.configuration import resized_copy
from keras_apoptosis.surgery.plan import Plan, make_plan
from keras_apoptosis.surgery.removal import Removal
from keras_apoptosis.surgery.report import Report, report_of
from keras_apoptosis.surgery.resize import resize


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
    analysis, plan = _prepare(model, removal)
    collectives.assert_same(
        removal.digest(),
        "the units to remove and their replacements",
        "Each rank must decide by the same weights, seeds and statistics that "
        "are summed over ranks; processors of different kinds round "
        "differently.",
    )
    before = model.count_params()
    with without_hooks(getattr(model, "optimizer", None)):
        resize(model, analysis, plan)
    backend.sync_to_jax(model)
    return report_of(
        analysis.groups, removal, before, model.count_params(), plan.notes
    )


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
    analysis, plan = _prepare(model, removal)
    return resized_copy(model, analysis.graph, plan)


def _prepare(model: keras.Model, removal: Removal) -> tuple[Analysis, Plan]:
    analysis = analyse(model)
    check(analysis, removal)
    over = backend.distribution_of(model)
    if over is not None:
        raise ValueError(
            "Removing units from a model that is distributed over devices is "
            f"not supported yet. Received: model '{model.name}' under {over}"
        )
    backend.sync_from_jax(model)
    return analysis, make_plan(analysis, removal)

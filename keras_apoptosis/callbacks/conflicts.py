"""Refuses callbacks of Keras that would undo a removal, or break on it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import keras

from keras_apoptosis.backend.callbacks import callbacks_beside

BEST_WEIGHTS = "restores the weights of an epoch before a removal"
BEST_FILE = "keeps a file of a model before a removal as the best"
BACKUP = "loads the weights of a smaller model into the original one"


def _restores(callback: Any) -> bool:
    return bool(getattr(callback, "restore_best_weights", False))


def _keeps_best(callback: Any) -> bool:
    return bool(getattr(callback, "save_best_only", False))


def _always(callback: Any) -> bool:
    return True


# The class, its arguments that conflict, what it does, when, and instead.
_CONFLICTS: tuple[
    tuple[str, str, Callable[[Any], bool], str, str],
    ...,
] = (
    (
        "EarlyStopping",
        "restore_best_weights=True",
        _restores,
        BEST_WEIGHTS,
        "ka.callbacks.BestModel(monitor, patience=...)",
    ),
    (
        "ModelCheckpoint",
        "save_best_only=True",
        _keeps_best,
        BEST_FILE,
        "ka.callbacks.BestModel(monitor, path=...)",
    ),
    (
        "OrbaxCheckpoint",
        "save_best_only=True",
        _keeps_best,
        BEST_FILE,
        "ka.callbacks.BestModel(monitor, path=...)",
    ),
    (
        "BackupAndRestore",
        "",
        _always,
        BACKUP,
        "ka.callbacks.Checkpoint(path, callbacks)",
    ),
)


def check_conflicts(
    callback: keras.callbacks.Callback,
    kinds: Collection[str] = (BEST_WEIGHTS, BEST_FILE, BACKUP),
) -> None:
    """Raises if a callback of the same `fit` cannot follow a removal.

    Args:
        callback: A callback that prunes, whose training has begun.
        kinds: The kinds of conflict to look for.

    Raises:
        ValueError: If there is one; it names the callback to use instead.
    """
    for other in callbacks_beside(callback):
        for name, argument, applies, kind, instead in _CONFLICTS:
            known = getattr(keras.callbacks, name, None)
            if (
                known is not None
                and kind in kinds
                and isinstance(other, known)
                and not getattr(other, "follows_removals", False)
                and applies(other)
            ):
                raise ValueError(
                    f"`{name}({argument})` {kind}, so it cannot be used "
                    f"beside `{type(callback).__name__}`. Use `{instead}` "
                    f"instead. Received: callbacks with a {name}"
                )

"""Finds the callbacks that run beside one in a call of `fit`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import keras


def callbacks_beside(
    callback: keras.callbacks.Callback,
) -> list[keras.callbacks.Callback]:
    """Returns the other callbacks of the `fit` that a callback runs in.

    Keras shows a callback neither the list that it is in nor its neighbors.
    Of all lists that are alive, the one of the present `fit` is the one that
    has given the callback its parameters.

    Args:
        callback: A callback whose training has begun.

    Returns:
        The other callbacks, in the order in which they run.
    """
    found: list[keras.callbacks.Callback] = []
    for each in gc.get_objects():
        if type(each) is not keras.callbacks.CallbackList:
            continue
        members = list(each.callbacks)
        mine = any(member is callback for member in members)
        if mine and each.params is callback.params:
            found += [member for member in members if member is not callback]
    return found


def hide_from_progress(
    progress: keras.callbacks.ProgbarLogger, hidden: Callable[[str], bool]
) -> None:
    """Keeps logs out of Keras' progress line, and only out of that.

    Args:
        progress: The callback that prints the line.
        hidden: Tells of the name of a log whether to leave it out.
    """
    show = progress.on_epoch_end

    def show_the_rest(epoch: int, logs: Any = None) -> None:
        left = {k: v for k, v in (logs or {}).items() if not hidden(k)}
        show(epoch, left)

    progress.on_epoch_end = show_the_rest

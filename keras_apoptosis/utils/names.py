"""Resolves names of layers and unit groups: the one place that does."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import keras

Item = TypeVar("Item")
Names = tuple[str | keras.Layer, ...]


def check_names(argument: str, value: Any) -> Names | None:
    """Checks an argument such as `layers` or `exclude`, before a model is seen.

    Args:
        argument: Name of the argument, for the error.
        value: A name, a layer, a pattern such as `"conv*"`, a list, tuple or
            set of those, or `None`.

    Returns:
        The entries as a tuple; `None` stays `None`.

    Raises:
        ValueError: If the value is anything else.

    Example:

    >>> from keras_apoptosis.utils.names import check_names
    >>> check_names("layers", "hidden"), check_names("layers", ["a", "b*"])
    (('hidden',), ('a', 'b*'))
    """
    if value is None:
        return None
    single = isinstance(value, (str, keras.Layer))
    known = single or isinstance(value, (list, tuple, set, frozenset))
    entries = (value,) if single else tuple(value) if known else ()
    # Sets have no order of their own, and the order shows in errors.
    if isinstance(value, (set, frozenset)):
        entries = tuple(sorted(entries, key=_text))
    if not known or not all(
        isinstance(each, keras.Layer) or (isinstance(each, str) and each)
        for each in entries
    ):
        raise ValueError(
            f"Expected `{argument}` to be a name, a layer, a pattern such as "
            f"'conv*', or a list of those. Received: {argument}={value!r}"
        )
    return entries


def select(
    items: Iterable[Item],
    names_of: Callable[[Item], Collection[str]],
    include: Names | None = None,
    exclude: Names | None = None,
    what: str = "unit groups",
    layers_of: Callable[[Item], Iterable[keras.Layer]] | None = None,
) -> list[Item]:
    """Selects items by their names, by layers or by patterns.

    Args:
        items: The items to select from.
        names_of: Returns the names by which an item is known.
        include: The entries to select by; `None` selects all items. A text
            is a name, or, where no item has that name, a pattern in the
            syntax of `fnmatch`: `"conv*"`, `"block_[12]"`.
        exclude: The entries of items to leave out.
        what: What the items are, for the error.
        layers_of: Returns the layers that belong to an item. Layers are
            compared with these by identity, and by name without it.

    Returns:
        The selected items, in their order.

    Raises:
        ValueError: If an entry fits no item. The error lists the names that
            exist, those close to the unknown one first.

    Example:

    >>> from keras_apoptosis.utils.names import select
    >>> select(["conv1", "conv2", "dense"], lambda name: {name}, ("conv*",))
    ['conv1', 'conv2']
    """
    items = list(items)
    names = [set(names_of(item)) for item in items]
    known = set().union(*names)

    def matching(entry: str | keras.Layer) -> set[int]:
        if isinstance(entry, keras.Layer):
            if layers_of is not None:
                found = {
                    place
                    for place, item in enumerate(items)
                    if any(layer is entry for layer in layers_of(item))
                }
            else:
                found = {p for p, own in enumerate(names) if entry.name in own}
        elif entry in known:
            found = {p for p, own in enumerate(names) if entry in own}
        else:
            found = {
                place
                for place, own in enumerate(names)
                if any(fnmatchcase(name, entry) for name in own)
            }
        if not found:
            raise ValueError(_unknown(entry, names, what))
        return found

    left_out = set().union(*(matching(each) for each in exclude or ()))
    chosen = set(range(len(items)))
    if include is not None:
        chosen = set().union(*(matching(each) for each in include))
    return [item for p, item in enumerate(items) if p in chosen - left_out]


def _unknown(entry: str | keras.Layer, names: list[set[str]], what: str) -> str:
    """Composes the error for an entry that fits no item."""
    every = list(dict.fromkeys(n for own in names for n in sorted(own)))
    close = difflib.get_close_matches(_text(entry), every)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return (
        f"Expected a name, a layer or a pattern of {what} of the model: "
        f"{', '.join(every) or '(none)'}.{hint} Received: {_text(entry)!r}"
    )


def _text(entry: Any) -> str:
    return entry.name if isinstance(entry, keras.Layer) else str(entry)

"""Settings of followed layers that follow their units, found by trial.

A layer that is followed is made by its config, which has to say that it became
smaller, or a saved model would not load. Which entry says so is tried: it is
changed, a twin of the layer is made of the changed config, and every weight's
shape is compared with what the removal makes of it, and every call with the
layer's own. Exactly one explanation is taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend.arguments import (
    ARGUMENTS,
    is_array,
    with_changes,
)
from keras_apoptosis.graph.expansion import Expansion, NotFollowed, follow
from keras_apoptosis.graph.trace import Size, Trace

ENTRIES = 6  # Entries of which several may have to change together,
TOGETHER = 3  # and how many of them at once.


@dataclasses.dataclass(frozen=True)
class Setting:
    """An entry of a config that is proportional to a number of units.

    Args:
        path: Where it stands.
        value: What it is at present.
    """

    path: tuple
    value: float

    def at(self, part: float) -> Any:
        """Returns the entry for a part of the units."""
        value = self.value * part
        return round(value) if isinstance(self.value, int) else value


Explanation = tuple[Setting, ...] | str  # Or why there is none.


# By class, and what is equal for layers that behave alike.
_known: weakref.WeakKeyDictionary[type, dict[str, dict[int, Explanation]]] = (
    weakref.WeakKeyDictionary()
)


class Composite:
    """A followed layer, and the units that its weights hold.

    Args:
        expansion: One call of it.
        entered: The labels along the axes of each tensor that enters it.
        trace: What the rules recorded.
        unit_of: For each label the number of its unit.
        group_of: For each label the index of its group.
    """

    def __init__(
        self,
        expansion: Expansion,
        entered: Sequence[Mapping[int, np.ndarray]],
        trace: Trace,
        group_of: np.ndarray,
        index_of: np.ndarray,
    ):
        self.layer = expansion.layer
        self.expansion = expansion
        self.entered = list(entered)
        self.trace = trace
        self.group_of = np.append(group_of, -1)  # The last is FIXED.
        self.index_of = np.append(index_of, -1)
        self.shapes = [tuple(v.shape) for v in self.layer.variables]
        self.axes = [
            trace.axes.get(id(variable), {})
            for variable in self.layer.variables
        ]

    def groups(self) -> list[int]:
        """Returns the groups of its weights and of what enters it, in order."""
        found = (
            self.group_of[labels]
            for axes in [*self.axes, *self.entered]
            for labels in axes.values()
        )
        order = dict.fromkeys(int(g) for groups in found for g in groups)
        return [group for group in order if group >= 0]

    def labels(self, group: int) -> np.ndarray:
        """Returns a label of each unit of a group."""
        mine = np.flatnonzero(self.group_of[:-1] == group)
        _, first = np.unique(self.index_of[mine], return_index=True)
        return mine[first]

    def kind(self, config: Mapping[str, Any]) -> str:
        """Returns what is equal for layers that behave alike."""
        names = {group: n for n, group in enumerate(self.groups())}
        places = [
            (
                axis,
                [names.get(int(g)) for g in np.unique(self.group_of[labels])],
            )
            for axes in [*self.axes, *self.entered]
            for axis, labels in axes.items()
        ]
        own = {**config, "name": None}
        arguments = [
            each
            for each in keras.tree.flatten(self.expansion.arguments)
            if not isinstance(each, keras.KerasTensor)
        ]
        inputs = [tuple(each.shape) for each in self.expansion.inputs]
        return repr(
            (type(self.layer), own, self.shapes, places, arguments, inputs)
        )

    def without_one(
        self, group: int, axes: Mapping[int, np.ndarray], shape: tuple
    ) -> tuple[int, ...]:
        """Returns a shape once the first unit of a group is removed."""
        sizes = list(shape)
        for axis, labels in axes.items():
            sizes[axis] -= int(self._first(group, labels).sum())
        return tuple(sizes)

    def _first(self, group: int, labels: np.ndarray) -> np.ndarray:
        return (self.group_of[labels] == group) & (self.index_of[labels] == 0)

    def explain(self, group: int, config: Mapping[str, Any]) -> Explanation:
        """Tries which settings follow the units of a group."""
        size = self.labels(group).size
        if size < 2:
            return "has one of them only"
        inputs = [
            self.without_one(group, axes, tensor.shape)
            for axes, tensor in zip(
                self.entered, self.expansion.inputs, strict=False
            )
        ]
        wanted = [
            self.without_one(group, axes, shape)
            for axes, shape in zip(self.axes, self.shapes, strict=True)
        ]
        part = (size - 1) / size
        same = [tuple(each.shape) for each in self.expansion.inputs]
        try:
            _, built, _ = twin_of(
                self.layer, self.expansion, {}, same[: len(inputs)]
            )
        except Exception as error:  # Whatever its class does.
            fault = str(error).strip().split("\n")[0][:80]
            return f"cannot be made again of its own config ({fault})"
        if built != self.shapes:
            return "has other weights than its config says"
        plain = self._twin({}, inputs)
        candidates = list(_candidates(config, size))
        closest = ""
        for count in range(TOGETHER + 1):
            found: list[tuple[Setting, ...]] = []
            acting: list[Setting] = []
            for settings in itertools.combinations(candidates, count):
                changes = {each.path: each.at(part) for each in settings}
                twin = plain
                if count:
                    twin = self._twin(changes, inputs, wanted)
                if twin is None or plain is None or twin[0] != plain[0]:
                    acting.extend(settings)
                if twin is None or twin[0] != wanted:
                    continue
                difference = self._difference(twin[1], group)
                if difference:
                    closest = difference
                    continue
                found.append(settings)
            if len(found) == 1:
                return found[0]
            if found:
                entries = " or ".join(_names(each) for each in found)
                return f"follows them by {entries}, and it is not clear which"
            if count == 1:  # Alone without effect, together without need.
                candidates = acting[:ENTRIES]
        return closest or "has no setting that says how many there are"

    def _twin(
        self,
        changes: Mapping[tuple, Any],
        inputs: Sequence[tuple],
        wanted: list[tuple] | None = None,
    ) -> tuple[list[tuple], Expansion] | None:
        """Returns the shapes of a twin's weights, and its calls.

        The calls are of no meaning where the shapes are not those `wanted`.
        """
        try:
            shapes = self._built(changes, inputs)
            if wanted is not None and shapes not in (None, wanted):
                return shapes, self.expansion
            _, shapes, calls = twin_of(
                self.layer, self.expansion, changes, inputs
            )
        except Exception:  # Whatever it objects to.
            return None
        return shapes, calls

    def _built(
        self, changes: Mapping[tuple, Any], inputs: Sequence[tuple]
    ) -> list[tuple] | None:
        """Returns the shapes that a twin's `build` makes, if it makes all."""
        before = [tuple(each.shape) for each in self.expansion.inputs]
        shapes = backend.with_sizes(
            backend.build_shapes(self.layer), before, [*map(tuple, inputs)]
        )
        _, found = backend.pristine(self.layer, changes, shapes)
        return found if len(found) == len(self.shapes) else None

    def _difference(self, twin: Expansion, group: int) -> str:
        """Tells how a twin's calls differ from the layer's, beside sizes."""
        own = self.expansion.records
        if len(own) != len(twin.records):
            return "would make other calls with fewer of them"
        for one, other, path in zip(
            own, twin.records, self.expansion.paths, strict=True
        ):
            if type(one.operation) is not type(other.operation):
                return "would make other calls with fewer of them"
            changes = self._changes(one.operation, group)
            if changes is None:
                return f"reads fixed places of them at '{path}'"
            told = {
                place[1:]: changes.pop(place)
                for place in [*changes]
                if place[0] == ARGUMENTS
            }
            after = _settings(other, {})
            for first, *_ in list(changes):
                if isinstance(after, dict) and after.get(str(first), 0) is None:
                    # Left to what the layer is built on: weights were compared.
                    changes = {
                        k: v for k, v in changes.items() if k[0] != first
                    }
                    changes[(first,)] = None
            before = _settings(one, changes)
            if before != after:
                return f"would do something else at '{path}' with fewer of them"
            if not _same_constants(one, other, told):
                return f"computes with a number at '{path}' that follows them"
        return ""

    def told(self, group: int) -> str:
        """Returns the path of a function that is told of the units, or `""`.

        What it is told stands in the layer's code, or in its settings.
        """
        pairs = zip(self.expansion.records, self.expansion.paths, strict=True)
        for record, path in pairs:
            operation = record.operation
            if not isinstance(operation, keras.Layer):
                for size in self.trace.sizes.get(id(operation), {}).values():
                    if (self.group_of[size.labels] == group).any():
                        return path
        return ""

    def _changes(
        self, operation: keras.Operation, group: int
    ) -> dict[tuple, Any] | None:
        """Returns what an operation is to be told without one of the units.

        Returns:
            The new settings, by path, or `None` if they depend on which unit
            it is: a layer's config can only say how many there are.
        """
        found = {}
        for place, size in self.trace.sizes.get(id(operation), {}).items():
            mine = self.group_of[size.labels] == group
            index = self.index_of[size.labels]
            each = [
                size.value(np.flatnonzero(~(mine & (index == unit))))
                for unit in np.unique(index[mine])[: 1 if size.counts else None]
            ]
            if each:
                found[place] = each[0]
            if any(not _same(each[0], other) for other in each[1:]):
                return None
        return found


def settle(
    trace: Trace, group_of: np.ndarray, index_of: np.ndarray
) -> dict[int, dict[str, list[str]]]:
    """Finds the settings of followed layers, and notes them in the trace.

    Args:
        trace: What the rules recorded.
        group_of: For each label the index of its group.
        index_of: For each label the index of its unit in that group.

    Returns:
        For each group that a layer cannot be without: why, and which layers.
    """
    held: dict[int, dict[str, list[str]]] = {}
    fixed = {
        int(group) for labels, *_ in trace.held for group in group_of[labels]
    }
    seen: set[int] = set()
    for step in trace.graph.steps:
        expansion = step.expansion
        if expansion is None or step.index >= 0:
            continue
        if id(expansion.layer) in seen:
            continue
        seen.add(id(expansion.layer))
        entered = [
            {a: units.labels for a, units in trace.units.get(k, {}).items()}
            for k in step.inputs
        ]
        composite = Composite(expansion, entered, trace, group_of, index_of)
        groups = composite.groups()
        if not groups or fixed.issuperset(groups):
            continue
        layer = expansion.layer
        who = f"{type(layer).__name__} '{step.path}'"
        factors: dict[tuple, list[np.ndarray]] = {}
        values: dict[tuple, Any] = {}
        fault = ""
        try:
            config = backend.config_of(layer)
        except Exception as error:  # Whatever its class does.
            config = None
            fault = str(error).strip().split("\n")[0][:80]
        kind = "" if config is None else composite.kind(config)
        for number, group in enumerate(groups):
            if group in fixed:
                continue
            if config is None:
                found: Explanation = (
                    f"has no config, so that no file could hold it ({fault})"
                )
            else:
                cache = _known.setdefault(type(layer), {}).setdefault(kind, {})
                if number not in cache:
                    cache[number] = composite.explain(group, config)
                found = cache[number]
            if isinstance(found, str):
                if layer is trace.graph.model:
                    place = composite.told(group)
                    if not place:  # That no file holds it will be said.
                        continue
                    found = (
                        f"tells '{place}' sizes or places of them, and has no "
                        "setting that says how many there are"
                    )
                why = f"{found} (see `ka.inline`)"
                held.setdefault(group, {}).setdefault(why, []).append(who)
                continue
            for setting in found:
                factors.setdefault(setting.path, []).append(
                    composite.labels(group)
                )
                values[setting.path] = setting
        for path, labels in factors.items():
            sizes = trace.sizes.setdefault(id(layer), {})
            sizes[path] = _size(values[path], labels)
    return held


def twin_of(
    layer: keras.Layer,
    expansion: Expansion,
    changes: Mapping[tuple, Any],
    inputs: Sequence[tuple[int, ...]],
) -> tuple[keras.Layer, list[tuple], Expansion]:
    """Makes a layer of other settings, called on inputs of other sizes.

    Args:
        layer: The layer to take after.
        expansion: One call of it.
        changes: Entries of its config to change, by path.
        inputs: The shapes of its inputs.

    Returns:
        The new layer, the shapes of its weights, and its calls.
    """
    before = [tuple(each.shape) for each in expansion.inputs]
    shapes = backend.with_sizes(
        backend.build_shapes(layer), before, [*map(tuple, inputs)]
    )
    calls: list[Expansion] = []

    def call(twin: keras.Layer) -> None:
        calls.append(
            follow(twin, expansion.arguments, inputs, expansion.opened)
        )

    twin, found = backend.pristine(layer, changes, shapes, call)
    return twin, found, calls[0]


def _size(setting: Setting, labels: Sequence[np.ndarray]) -> Size:
    """Finds a setting that is proportional to several numbers of units."""
    ends = np.cumsum([each.size for each in labels])

    def value(kept: np.ndarray) -> Any:
        counts = np.diff(np.searchsorted(kept, ends), prepend=0)
        parts = [c / e.size for c, e in zip(counts, labels, strict=True)]
        return setting.at(math.prod(parts))

    return Size(np.concatenate(labels), value)


def _candidates(config: Any, size: int, path: tuple = ()) -> Iterator[Setting]:
    """Entries of a config that could be proportional to a number of units."""
    if isinstance(config, Mapping):
        items: Any = config.items()
    elif isinstance(config, (list, tuple)):
        items = enumerate(config)
    else:
        number = isinstance(config, (int, float, np.number))
        if not number or isinstance(config, bool) or config <= 0:
            return
        if isinstance(config, float) or config % size == 0:
            yield Setting(path, config)
        return
    for key, value in items:
        yield from _candidates(value, size, (*path, key))


def _names(settings: Sequence[Setting]) -> str:
    names = ("/".join(map(str, each.path)) for each in settings)
    return " and ".join(f"'{name}'" for name in names) or "its inputs"


def first_difference(one: Expansion, other: Expansion) -> Any:
    """Returns the innermost layer in which two recordings of a layer differ.

    Returns:
        The layer; `None` if they do not differ.
    """
    pairs = itertools.zip_longest(one.records, other.records)
    for first, second in pairs:
        if (
            first is not None
            and second is not None
            and type(first.operation) is type(second.operation)
            and first.inside == second.inside
            and _settings(first, {}) == _settings(second, {})
            and _same_constants(first, second, {})
        ):
            continue
        around = [each.inside for each in (first, second) if each is not None]
        return max(around, key=len)[-1]
    return None


def _settings(record: Any, changes: Mapping[tuple, Any]) -> Any:
    """Returns what an operation does, beside its weights, as plain data."""
    operation = record.operation
    if isinstance(operation, keras.Layer):
        try:
            config = backend.config_of(operation)
        except Exception:  # It has none, or a faulty one.
            config = {}
        config = backend.changed_config(config, changes)
        return _plain(
            {
                key: value
                for key, value in config.items()
                if key != "name" and not key.endswith("_initializer")
            }
        )
    attributes = backend.plain_attributes(operation)
    for (name, *rest), value in changes.items():
        attributes[name] = backend.changed(attributes[name], rest, value)
    ignored = ("name", "index", "shape")
    return _plain({k: v for k, v in attributes.items() if k not in ignored})


def _plain(value: Any) -> Any:
    """Returns data that compares equal where it means the same."""
    if isinstance(value, Mapping):
        return {
            str(key): _plain(each)
            for key, each in value.items()
            if key not in ("build_config", "_auto_config", "name")
            and not str(key).startswith("_keras_apoptosis")
        }
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return repr(value)


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other)) if is_array(one) else one == other


def _same_constants(one: Any, other: Any, changes: Mapping[tuple, Any]) -> bool:
    """Returns whether two calls were given the same numbers.

    Args:
        one: A call.
        other: Another.
        changes: Arguments of the first that are to be others, by path.
    """
    flat = [
        keras.tree.flatten(with_changes((each.args, each.kwargs), told))
        for each, told in ((one, changes), (other, {}))
    ]
    if len(flat[0]) != len(flat[1]):
        return False
    for place, (first, second) in enumerate(zip(*flat, strict=True)):
        if isinstance(first, keras.KerasTensor) or place in one.computed:
            continue
        if ops.is_tensor(first) or isinstance(first, np.ndarray):
            if not np.array_equal(
                ops.convert_to_numpy(first),
                ops.convert_to_numpy(second),
                equal_nan=True,
            ):
                return False
        elif not callable(first) and first != second:
            return False
    return True


__all__ = ["NotFollowed", "first_difference", "settle", "twin_of"]

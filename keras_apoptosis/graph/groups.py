"""Unit groups: units that the graph ties together, so they go together."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis.graph.lengths import input_tensors, work_of
from keras_apoptosis.graph.reading import Graph, read
from keras_apoptosis.graph.rule_table import BORDER, rule_of
from keras_apoptosis.graph.sizes import settle
from keras_apoptosis.graph.trace import (
    Block,
    Consumer,
    Trace,
    Work,
    components,
)
from keras_apoptosis.graph.tracing import trace
from keras_apoptosis.graph.units import FIXED


@dataclasses.dataclass(frozen=True, eq=False)
class Observation:
    """Place where a group's units are observed and replaced.

    It is the last tensor before the consumers in which the units take new
    values: after the activation, a pooling or a sum. Consumers that share
    their weights between several calls share the observation too, which then
    has several sources.

    Args:
        name: Path of the layer whose output is observed.
        sources: Indices of the sources in the trace.
        consumers: The calls that read the units from there, each with the
            positions along its weight's axis: shape `(occurrences, size)`.
        measurable: Whether the values can be computed: they cannot where
            they stand deep inside a layer.
    """

    name: str
    sources: tuple[int, ...]
    consumers: tuple[tuple[Consumer, np.ndarray], ...]
    measurable: bool = True

    @property
    def combines(self) -> bool:
        """Returns whether kept units can replace removed ones."""
        return all(consumer.combines for consumer, _ in self.consumers)

    @property
    def shifts(self) -> bool:
        """Returns whether a constant can replace removed units."""
        return all(consumer.shifts for consumer, _ in self.consumers)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class UnitGroup:
    """Units that the graph ties together, so they can only be removed together.

    Unit `i` of a group is neuron or channel `i` of its first producer, as
    long as all producers are tied unit by unit.

    Args:
        name: Path of the first producer; does not change when the model
            shrinks.
        size: The number of units.
        producers: Layers whose outputs are the units.
        carriers: Layers that the units pass through.
        consumers: Layers that read the units.
        removable: Whether units may be removed.
        reason: Why not, where they may not; `""` where they may.
        observations: Where units are observed and replaced.
    """

    name: str
    size: int
    producers: list[keras.Layer]
    carriers: list[keras.Layer]
    consumers: list[keras.Layer]
    removable: bool
    reason: str
    observations: tuple[Observation, ...]

    def __repr__(self) -> str:
        return (
            f"<UnitGroup name={self.name}, size={self.size}, "
            f"removable={self.removable}>"
        )

    def __str__(self) -> str:
        lines = [f"Group '{self.name}': {self.size} units"]
        for role in ("producers", "carriers", "consumers"):
            names = ", ".join(layer.name for layer in getattr(self, role))
            lines.append(f"  {role + ':':<11}{names or '(none)'}")
        seen = ", ".join(each.name for each in self.observations)
        lines.append(f"  {'observed:':<11}{seen or '(nowhere)'}")
        if not self.removable:
            lines.append(f"  not prunable: {self.reason}")
        return "\n".join(lines)


def obstacle(group: UnitGroup, measured: bool = False) -> str:
    """Returns why kept units of a group cannot replace removed ones.

    Args:
        group: The group.
        measured: Whether the activations of the units have to be measured.

    Returns:
        The reason; `""` where they can.
    """
    if not group.observations:
        return "no layer consumes the units with weights"
    for point in group.observations:
        if not (point.combines and point.shifts):
            return (
                f"a consumer at '{point.name}' cannot use other units as a "
                "replacement"
            )
        if measured and not point.measurable:
            return (
                f"the units are used inside layer '{point.name}', where "
                "activations cannot be measured"
            )
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """The units of a model: its graph, its trace and its groups.

    Args:
        trace: What the rules recorded.
        groups: The groups, from the input of the model to its output.
        group_of: For each label the index of its group.
        index_of: For each label the index of its unit in that group.
    """

    trace: Trace
    groups: tuple[UnitGroup, ...]
    group_of: np.ndarray
    index_of: np.ndarray

    @property
    def graph(self) -> Graph:
        return self.trace.graph

    def work(self, input_shape: Any = None) -> tuple[Work, ...]:
        """Returns the multiplications of one sample's forward pass.

        Args:
            input_shape: Shapes of the inputs without the batch, where the
                model leaves lengths open; see `ka.flops`.

        Returns:
            The multiplications, call by call; see `work_of`.
        """
        key = repr(input_shape)
        if key not in self._works:
            self._works[key] = work_of(self.trace, input_shape)
        return self._works[key]

    @functools.cached_property
    def _works(self) -> dict[str, tuple[Work, ...]]:
        return {}

    @functools.cached_property
    def blocks_of(self) -> list[list[Block]]:
        """The producers of each group, by its index."""
        found: list[list[Block]] = [[] for _ in self.groups]
        for block in self.trace.blocks:
            for number in np.unique(self.group_of[block.start : block.stop]):
                found[number].append(block)
        return found

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The inputs of the model, with their shapes as declared."""
        return input_tensors(self.graph)

    @property
    def has_open_lengths(self) -> bool:
        """Returns whether the model's inputs leave lengths open."""
        return any(None in each.shape[1:] for each in self.inputs)

    def positions(self, labels: np.ndarray, group: int) -> np.ndarray:
        """Returns the positions of a group's units along an axis.

        Args:
            labels: Labels along an axis.
            group: Index of the group.

        Returns:
            Positions, shape `(occurrences, size of the group)`.
        """
        places = np.flatnonzero(self.member(labels, group))
        units = self.index_of[labels[places]]
        order = places[np.argsort(units, kind="stable")]
        return order.reshape(self.groups[group].size, -1).T

    def member(self, labels: np.ndarray, group: int) -> np.ndarray:
        """Returns which labels belong to a group."""
        if not self.group_of.size:
            return np.zeros(labels.size, bool)
        return (labels != FIXED) & (self.group_of[labels] == group)


def unit_groups(
    model: keras.Model,
    prune_non_trainable: bool = False,
    prune_normalized: bool = False,
) -> list[UnitGroup]:
    """Finds the unit groups of a model.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        prune_non_trainable: Whether units may also be removed where that
            changes weights of layers with `trainable=False`: of those that
            make the units, or that use them.
        prune_normalized: Whether units may also be removed over which a
            LayerNormalization or GroupNormalization normalizes; see
            `ka.shrink`.

    Returns:
        Its groups, in order from the input to the output. `print(group)`
        says what one consists of and, if it is not prunable, why.

    Raises:
        ValueError: If the model's graph cannot be read.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="logits"),
    ... ])
    >>> print(ka.unit_groups(model)[0])
    Group 'hidden': 8 units
      producers: hidden
      carriers:  (none)
      consumers: logits
      observed:  hidden
    """
    allowed = Allowed(prune_non_trainable, prune_normalized)
    return list(analyse(model, allowed).groups)


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Permissions of a removal, which it does not have by default.

    Args:
        non_trainable: To change weights of layers with `trainable=False`.
        normalized: To let a normalization over units that takes them around
            their mean read a removed unit as the mean of those that stay.
    """

    non_trainable: bool = False
    normalized: bool = False


NOTHING = Allowed()
_ALLOWED = contextvars.ContextVar("allowed", default=NOTHING)


@contextlib.contextmanager
def allowing(allowed: Allowed) -> Iterator[None]:
    """Sets what removals may do within a context.

    Criteria and selections analyse a model by themselves.

    Args:
        allowed: What they may do, beside what is allowed already.
    """
    token = _ALLOWED.set(_with_context(allowed))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def _with_context(allowed: Allowed) -> Allowed:
    """Returns what is allowed, with what the context allows."""
    known = _ALLOWED.get()
    return Allowed(
        allowed.non_trainable or known.non_trainable,
        allowed.normalized or known.normalized,
    )


def _has_no_rule(layer: keras.Layer) -> bool:
    return rule_of(layer) is None


def analyse(model: keras.Model, allowed: Allowed = NOTHING) -> Analysis:
    """Finds the groups of a model, with the trace they come from.

    Args:
        model: See `unit_groups`.
        allowed: What removals may do, beside what `allowing` says.
    """
    allowed = _with_context(allowed)
    graph = read(model, _has_no_rule)
    result = trace(graph, rule_of, BORDER, allowed.normalized)
    group_of, index_of, sizes, blocks_of = _number(result)

    def groups_of(labels: np.ndarray) -> list[int]:
        return np.unique(group_of[labels[labels != FIXED]]).tolist()

    held = settle(result, group_of, index_of)
    for labels, who, why in result.held:
        for group in groups_of(labels):
            held.setdefault(group, {}).setdefault(why, []).append(who)
    carriers: dict[int, list[Any]] = {}
    for owner, labels in result.carriers:
        for group in groups_of(labels):
            carriers.setdefault(group, []).append(owner)
    readers: dict[int, list[Consumer]] = {}
    for consumer in result.consumers:
        for group in groups_of(consumer.units.labels):
            readers.setdefault(group, []).append(consumer)

    draft = Analysis(result, (), group_of, index_of)
    groups = []
    names: set[str] = set()
    for number, size in enumerate(sizes):
        producers = [result.blocks[b] for b in blocks_of[number]]
        read_by = readers.get(number, [])
        reasons = [
            _together(who, why) for why, who in held.get(number, {}).items()
        ]
        if not read_by and not reasons:
            reasons.append("no layer uses them")
        involved = [each.layer for each in producers]
        involved += [each.layer for each in read_by]
        fixed = _non_trainable([*involved, *carriers.get(number, [])])
        if fixed and not allowed.non_trainable:
            reasons.append(
                _together(fixed, "is non-trainable (`trainable=False`)")
            )
        groups.append(
            UnitGroup(
                name=_new_name(producers[0].path, names),
                size=size,
                producers=_distinct(each.owner for each in producers),
                carriers=_distinct(carriers.get(number, [])),
                consumers=_distinct(each.owner for each in read_by),
                removable=not reasons,
                reason="; ".join(reasons),
                observations=_observations(draft, number, size, read_by),
            )
        )
    return dataclasses.replace(draft, groups=tuple(groups))


def _distinct(layers: Iterable[Any]) -> list[Any]:
    return list({id(layer): layer for layer in layers}.values())


def _non_trainable(layers: Iterable[Any]) -> list[str]:
    """Names layers with weights that a removal would change."""
    return [
        f"'{layer.name}'"
        for layer in layers
        if isinstance(layer, keras.Layer)
        and layer.weights
        and not layer.trainable
    ]


def _together(who: list[str], why: str) -> str:
    first, *more = dict.fromkeys(who)
    others = f", and {len(more)} more like it," if more else ""
    return f"{first}{others} {why}"


def _new_name(path: str, names: set[str]) -> str:
    """Returns a name that is not taken: one layer may begin several groups."""
    name, count = path, 1
    while name in names:
        count += 1
        name = f"{path}/{count}"
    names.add(name)
    return name


def _number(
    trace: Trace,
) -> tuple[np.ndarray, np.ndarray, list[int], list[list[int]]]:
    """Numbers groups and units.

    A group are units of layers that have units in common, as far as the same
    layers read them: of a stream that grows by concatenation, those that came
    first and those that came later are two.
    """
    unit_of = trace.same_units()
    if not unit_of.size:
        return np.zeros(0, int), np.zeros(0, int), [], []
    block_of = np.repeat(
        np.arange(len(trace.blocks)),
        [block.stop - block.start for block in trace.blocks],
    )
    kind = _kinds(trace, unit_of)[unit_of]
    # Labels of one layer and one kind belong together, and so do one unit's.
    _, part = np.unique(np.stack([block_of, kind]), axis=1, return_inverse=True)
    part = part.reshape(-1)
    count = part.max() + 1
    component = components(part, count + unit_of, count + unit_of.size)[part]
    # Number groups by their first label: from the input to the output.
    _, first, inverse = np.unique(
        component, return_index=True, return_inverse=True
    )
    group_of = np.argsort(np.argsort(first))[inverse]
    index_of = np.zeros(unit_of.size, int)
    sizes, blocks_of = [], []
    # The labels of each group, ascending.
    ends = np.cumsum(np.bincount(group_of))[:-1]
    for labels in np.split(np.argsort(group_of, kind="stable"), ends):
        _, seen, place = np.unique(
            unit_of[labels], return_index=True, return_inverse=True
        )
        index_of[labels] = np.argsort(np.argsort(seen))[place]
        sizes.append(seen.size)
        blocks_of.append(np.unique(block_of[labels]).tolist())
    return group_of, index_of, sizes, blocks_of


def _kinds(trace: Trace, unit_of: np.ndarray) -> np.ndarray:
    """Returns a number for each unit that tells its consumers apart.

    A sum of random numbers, one for each reader and source.
    """
    rng = np.random.default_rng(0)
    total = np.zeros(unit_of.size, "uint64")

    def add(labels: np.ndarray) -> None:
        number = rng.integers(2**64, dtype="uint64")
        np.add.at(total, unit_of[labels], number)

    for labels, _, _ in trace.held:
        held = np.unique(unit_of[labels])
        total[held] += rng.integers(2**64, dtype="uint64")
    for consumer in trace.consumers:
        labels, sources = consumer.units.labels, consumer.units.sources
        for source in np.unique(sources[labels != FIXED]):
            add(labels[(labels != FIXED) & (sources == source)])
    return np.unique(total, return_inverse=True)[1].reshape(-1)


def _observations(
    draft: Analysis, group: int, size: int, readers: list[Consumer]
) -> tuple[Observation, ...]:
    """Returns the observations of a group."""
    from scipy.cluster.hierarchy import DisjointSet  # Loaded at the first use.

    parts: list[tuple[int, Consumer, np.ndarray]] = []
    for consumer in readers:
        if consumer.kernel is None:  # It takes what it takes.
            continue
        units = consumer.units
        mine = draft.member(units.labels, group)
        for source in np.unique(units.sources[mine]):
            places = np.flatnonzero(mine & (units.sources == source))
            index = draft.index_of[units.labels[places]]
            order = places[np.argsort(index, kind="stable")]
            parts.append((int(source), consumer, order.reshape(size, -1).T))
    # One weight that reads at several calls needs one replacement for all.
    first_by: dict[Any, int] = {}
    together = DisjointSet(source for source, _, _ in parts)
    for source, consumer, places in parts:
        for place in places[:, 0]:
            key = (id(consumer.kernel), consumer.axis, int(place))
            together.merge(first_by.setdefault(key, source), source)
    observations = []
    names: set[str] = set()
    for sources in sorted(tuple(sorted(s)) for s in together.subsets()):
        here = [part for part in parts if part[0] in sources]
        observations.append(
            Observation(
                name=_new_name(draft.trace.sources[sources[0]].path, names),
                sources=sources,
                consumers=tuple((c, places) for _, c, places in here),
                measurable=all(
                    draft.trace.sources[each].tensor is not None
                    for each in sources
                ),
            )
        )
    return tuple(observations)

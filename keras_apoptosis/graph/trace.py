"""Records what the rules say of a model's units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_apoptosis.graph.reading import Graph, Step
from keras_apoptosis.graph.units import FIXED, Axes, Source, Units


@dataclasses.dataclass(frozen=True, eq=False)
class Consumer:
    """Layer that reads units, in one call.

    Args:
        path: Path of the layer.
        owner: The layer of the model that it is, or is part of.
        layer: The layer itself.
        units: The units it reads, in the order of its weight's axis.
        kernel: The weight it reads them by; `None` where it has none.
        axis: The weight's axis along which it reads.
        outputs: The weight's axes that become axes of its response.
        bias: What takes a constant part of the response: a weight and the
            index of the part of it to add to; `None` where there is nothing.
        combines: Whether kept units can replace removed ones.
        shifts: Whether a constant can replace removed units.
        mean: Whether it takes removed units as the mean of the kept ones
            (and nothing else), instead of as zero.
        step: The call in the graph; `None` for a layer inside another.
        uneven: Whether it answers a constant with a response that differs
            from place to place, as a convolution that pads with zeros does.
    """

    path: str
    owner: Any
    layer: Any
    units: Units
    kernel: Any = None
    axis: int = 0
    outputs: tuple[int, ...] = ()
    bias: tuple[Any, tuple] | None = None
    combines: bool = False
    shifts: bool = False
    mean: bool = False
    step: Step | None = None
    uneven: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Units that one layer produces, with labels `start` to `stop - 1`.

    Args:
        path: Path of the layer; with a suffix where it makes several kinds.
        owner: The layer of the model that it is, or is part of.
        layer: The layer itself.
        start: The first label.
        stop: The label after the last.
        step: The call in the graph; `None` for a layer inside another.
    """

    path: str
    owner: Any
    layer: Any
    start: int
    stop: int
    step: Step | None


@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """Setting of a layer that follows units.

    `value` makes it from the positions, along `labels`, that stay.
    """

    labels: np.ndarray
    value: Callable[[np.ndarray], Any]

    @property
    def counts(self) -> bool:
        """Returns whether it is how many there are, whichever they are."""
        return self.value is len


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """Weight that is scaled by a power of the share of an axis that stays."""

    variable: Any
    labels: np.ndarray
    power: float


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Multiplications in a step: a product of sizes.

    Args:
        path: Path of the step.
        sizes: Those that are fixed, `None` where one is not known.
        axes: Labels along those that follow units.
    """

    path: str
    sizes: tuple[float | None, ...]
    axes: tuple[np.ndarray, ...]

    @property
    def factor(self) -> float:
        """The product of the fixed sizes; `nan` where one is not known."""
        return math.prod(math.nan if n is None else n for n in self.sizes)


class Trace:
    """Collects what is known of the units of a graph.

    Labels are integers, one for each unit of each producer. Two labels that
    an operation ties (`Add`, say) are one unit: `ties` collects the pairs.

    Attributes:
        graph: The graph.
        prune_normalized: Whether normalizations may read a removed unit as
            the mean of those that stay.
        units: The units of each tensor by axis, by the tensor's key.
        sources: All sources; `Units.sources` are indices into them.
        blocks: The producers.
        consumers: The consumers.
        carriers: The layers that units pass through, with the labels.
        rule_of: Returns the rule of an operation, or `None`.
        axes: For each weight, the labels along the axes that units own.
        sizes: For each layer, the settings that follow its units: entries of
            its config, by path.
        scales: Weights whose scale follows the number of units.
        work: Multiplications, call by call.
        touched: What the present call has units in: axes of weights, and
            settings.
        parameters: Weights that stand in the graph as tensors, by key.
        held: Labels that are not prunable, with the layer that holds them,
            and why.
    """

    def __init__(
        self,
        graph: Graph,
        rule_of: Callable[[Any], Any],
        prune_normalized: bool = False,
    ):
        self.graph = graph
        self.rule_of = rule_of
        self.prune_normalized = prune_normalized
        self.units: dict[int, Axes] = {}
        self.sources: list[Source] = []
        self.blocks: list[Block] = []
        self.consumers: list[Consumer] = []
        self.carriers: list[tuple[Any, np.ndarray]] = []
        self.variables: dict[int, Any] = {}
        self.axes: dict[int, dict[int, np.ndarray]] = {}
        self.sizes: dict[int, dict[tuple, Size]] = {}
        self.scales: dict[int, Scale] = {}
        self.work: list[Work] = []
        self.touched: set[tuple] = set()
        self.held: list[tuple[np.ndarray, str, str]] = []
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.parameters: dict[int, Any] = {}

    @property
    def label_count(self) -> int:
        return self.blocks[-1].stop if self.blocks else 0

    def tie(self, first: np.ndarray, second: np.ndarray, who: str) -> None:
        """Ties the units at the same places of two arrays."""
        for one, other in ((first, second), (second, first)):
            # What cannot be pruned holds back whatever is tied to it.
            held = one[(one != FIXED) & (other == FIXED)]
            self.hold(
                held, who, "combines them with values that cannot be pruned"
            )
        both = (first != FIXED) & (second != FIXED) & (first != second)
        if both.any():
            self.ties.append((first[both], second[both]))

    def hold(self, labels: np.ndarray, who: str, why: str) -> None:
        """Marks units as not prunable."""
        labels = labels[labels != FIXED]
        if labels.size:
            self.held.append((labels, who, why))

    def own(self, variable: Any, axis: int, labels: np.ndarray) -> None:
        """Records that units own the slices of a weight along an axis."""
        axis %= len(variable.shape)
        self.variables[id(variable)] = variable
        self.touched.add((id(variable), axis))
        axes = self.axes.setdefault(id(variable), {})
        if axis in axes:  # A layer called twice: what it reads is tied.
            self.tie(axes[axis], labels, f"shared weight '{variable.path}'")
        else:
            axes[axis] = labels

    def follow(self, owner: Any, path: tuple, size: Size) -> None:
        """Records that a setting of a layer follows units."""
        self.touched.add((id(owner), path))
        sizes = self.sizes.setdefault(id(owner), {})
        earlier = sizes.setdefault(path, size)
        if earlier is not size:  # A layer called twice.
            who = f"setting {path} of '{owner.name}', which is called twice,"
            if earlier.labels.size == size.labels.size:
                self.tie(earlier.labels, size.labels, who)
            else:
                self.hold(earlier.labels, who, "has two sizes")
                self.hold(size.labels, who, "has two sizes")

    def labels_of(self, thing: int, place: Any) -> np.ndarray:
        """Returns the labels that an entry of `touched` stands for."""
        if isinstance(place, tuple):
            return self.sizes[thing][place].labels
        return self.axes[thing][place]

    def owned(self, variable: Any, axis: int) -> np.ndarray | None:
        """Returns the labels along an axis of a weight, if units own it."""
        axes = self.axes.get(id(variable), {})
        return axes.get(axis % len(variable.shape))

    def same_units(self) -> np.ndarray:
        """Returns a number for each label, equal for tied labels."""
        count = self.label_count
        none = np.zeros(0, int)
        first = np.concatenate([none, *(one for one, _ in self.ties)])
        second = np.concatenate([none, *(other for _, other in self.ties)])
        return components(first, second, count)


def components(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Numbers the connected components of a graph.

    Args:
        first: One end of each edge.
        second: Its other end.
        count: The number of nodes.

    Returns:
        Shape `(count,)`: for each node the number of its component.
    """
    from scipy.sparse import coo_array, csgraph  # Loaded at the first use.

    edges = np.ones(first.size), (first, second)
    links = coo_array(edges, shape=(count, count))
    return csgraph.connected_components(links, directed=False)[1]

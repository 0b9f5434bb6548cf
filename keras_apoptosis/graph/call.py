"""Offers a rule one call of a layer, to read its units and to record them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_apoptosis.backend.arguments import ARGUMENTS
from keras_apoptosis.backend.kernels import lora_of
from keras_apoptosis.backend.models import layers_inside
from keras_apoptosis.graph.reading import Step
from keras_apoptosis.graph.trace import (
    Block,
    Consumer,
    Scale,
    Size,
    Trace,
    Work,
)
from keras_apoptosis.graph.units import Axes, Source, Transfer, Units

NONE: Axes = {}  # A tensor without units.


class Call:
    """Call of an operation, as its rule sees it.

    Attributes:
        trace: Where everything is recorded.
        layer: The operation.
        path: Its path.
        inputs: The units of each input, by axis.
        input_shapes: The shape of each input.
        output_shapes: The shape of each output.
        step: The call in the graph, or `None` for a layer inside another.
        owner: The operation of the graph that it is, or is part of.
        config: Where in the owner's config its own stands; `None` where the
            owner makes it, by settings of its own.
        times: Sizes of the axes along which the layer is repeated.
    """

    def __init__(
        self,
        trace: Trace,
        layer: Any,
        path: str,
        inputs: Sequence[Axes],
        input_shapes: Sequence[tuple],
        output_shapes: Sequence[tuple],
        step: Step | None = None,
        owner: Any = None,
        config: tuple | None = (),
        times: tuple = (),
        top: str | None = None,
    ):
        self.trace = trace
        self.layer = layer
        self.path = path
        self.inputs = list(inputs)
        self.input_shapes = list(input_shapes)
        self.output_shapes = list(output_shapes)
        self.step = step
        self.owner = layer if owner is None else owner
        self.config = config
        self.times = times
        self.top = path if top is None else top  # Path of the owner.

    @classmethod
    def of(cls, trace: Trace, step: Step) -> Call:
        """Returns the call of a step of the graph."""
        tensors = trace.graph.tensors
        return cls(
            trace,
            step.operation,
            step.path,
            [trace.units.get(key, NONE) for key in step.read],
            [tuple(tensors[key].shape) for key in step.read],
            [tuple(tensors[key].shape) for key in step.outputs],
            step,
            owner=step.node.inside[-1]
            if step.expansion is not None
            and not isinstance(step.operation, keras.Layer)
            and step.node.inside
            else None,
        )

    def parameter(self, place: int) -> Any:
        """Returns the weight that one of `inputs` is, or `None`."""
        if self.step is None:
            return None
        return self.trace.parameters.get(self.step.read[place])

    def places_of(self, name: str) -> list[int]:
        """Returns which of `inputs` were given as one argument of the call.

        Args:
            name: The argument's name in the layer's `call`.
        """
        step = self.recorded
        given = step.given.get(name, ())
        return [n for n, place in enumerate(step.data) if place in given]

    @property
    def recorded(self) -> Step:
        """Returns the call in the graph, whose arguments Keras recorded."""
        if self.step is None:
            raise ValueError(
                "Only a call in the graph itself has recorded arguments. "
                f"Received: '{self.path}', which is part of another layer"
            )
        return self.step

    def is_used(self, output: int) -> bool:
        """Returns whether anything reads an output, or the model returns it."""
        if self.step is None or output >= len(self.step.outputs):
            return False
        return self.step.outputs[output] in self.trace.graph.used

    def mask_shapes(self, name: str) -> list[tuple]:
        """Returns the shapes of the masks given as one argument."""
        if self.step is None:
            return []
        keys = [self.step.inputs[n] for n in self.step.given.get(name, ())]
        return [tuple(self.trace.graph.tensors[key].shape) for key in keys]

    def argument(self, name: str) -> list[Axes]:
        """Returns the units of the tensors given as one argument.

        Args:
            name: The argument's name in the layer's `call`.
        """
        return [self.inputs[place] for place in self.places_of(name)]

    def inside(
        self,
        layer: Any,
        inputs: Sequence[Axes],
        input_shapes: Sequence[tuple],
        output_shapes: Sequence[tuple] | None = None,
        config: tuple | None = None,
        times: tuple = (),
    ) -> Call:
        """Returns the call of a layer inside this one.

        Args:
            layer: The inner layer.
            inputs: The units of each of its inputs.
            input_shapes: The shape of each input.
            output_shapes: The shape of each output; by default what the layer
                itself says.
            config: Where its config stands in that of this layer; `None` if
                nowhere.
            times: Sizes of the axes along which it is repeated.
        """
        if output_shapes is None:
            output_shapes = [layer.compute_output_shape(*input_shapes)]
        return Call(
            self.trace,
            layer,
            f"{self.path}/{layer.name}",
            inputs,
            input_shapes,
            [tuple(shape) for shape in output_shapes],
            owner=self.owner,
            config=None
            if config is None or self.config is None
            else (*self.config, *config),
            times=(*self.times, *times),
            top=self.top,
        )

    def rule_of(self, layer: Any) -> Any:
        """Returns the rule of a layer inside this one, or `None`."""
        return self.trace.rule_of(layer)

    def produce(
        self,
        size: int,
        weights: Mapping[str, int],
        config: Iterable[Any] = (),
        name: str | None = None,
    ) -> np.ndarray:
        """Returns labels for the units that this layer makes.

        Args:
            size: How many.
            weights: Attribute names of weights, with the axis of the units.
                An attribute that is missing or `None` is passed over.
            config: Config entries that hold `size`.
            name: A suffix for the path, where one layer makes several kinds.
        """
        for variable, axis in self._weights(weights):
            owned = self.trace.owned(variable, axis)
            if owned is not None:  # An earlier call of the same layer.
                self.own(owned, weights)
                for key in config:
                    self.resize(key, owned)
                return owned
        start = self.trace.label_count
        path = self.path if name is None else f"{self.path}/{name}"
        self.trace.blocks.append(
            Block(path, self.owner, self.layer, start, start + size, self.step)
        )
        labels = np.arange(start, start + size)
        self.own(labels, weights)
        for key in config:
            self.resize(key, labels)
        return labels

    def consume(
        self,
        units: Units,
        kernel: str | Any,
        axis: int,
        outputs: Iterable[int],
        *,
        bias: tuple[Any, tuple] | str | None = "bias",
        combines: bool = True,
        shifts: bool = True,
        uneven: bool = False,
    ) -> None:
        """Records that the layer reads units by a weight.

        Args:
            units: The units, in the order of the weight's axis.
            kernel: The weight, or its attribute name.
            axis: Its axis along which it reads.
            outputs: Its axes that become axes of the response.
            bias: Attribute name of the weight that can take a constant part
                of the response, or that weight and the index of the part of
                it to add to, or `None`.
            combines: Whether kept units can replace removed ones.
            shifts: Whether a constant can.
            uneven: Whether the response to a constant differs from place to
                place.
        """
        if isinstance(kernel, str):
            kernel = getattr(self.layer, kernel)
        if isinstance(bias, str):
            variable = getattr(self.layer, bias, None)
            bias = None if variable is None else (variable, ())
        rank = len(kernel.shape)
        uneven = uneven or units.padded
        self.own_slices(kernel, axis, units.labels)
        inner = isinstance(self.layer, keras.Layer)
        self.trace.consumers.append(
            Consumer(
                self.path,
                self.owner,
                self.layer if inner else self.owner,
                units,
                kernel,
                axis % rank,
                tuple(each % rank for each in outputs),
                bias,
                combines,
                shifts and not (uneven and self.step is None),
                step=self.step,
                uneven=uneven,
            )
        )

    def read(self, units: Units, mean: bool = False) -> None:
        """Records that a layer reads units by no weight.

        What it makes of the kept units alone must be what it would make of
        all, with zeros (or with the mean of the kept) for the removed.

        Args:
            units: The units.
            mean: Whether it takes removed units as the mean of the kept.
        """
        self.trace.consumers.append(
            Consumer(self.path, self.owner, self.layer, units, mean=mean)
        )

    def carry(
        self, units: Units, weights: Mapping[str, int] | None = None
    ) -> None:
        """Records that units pass through, owning slices of weights."""
        self.trace.carriers.append((self.owner, units.labels))
        self.own(units.labels, weights or {})

    def own(self, labels: np.ndarray, weights: Mapping[str, int]) -> None:
        """Records that units own slices of weights."""
        for variable, axis in self._weights(weights):
            self.own_slices(variable, axis, labels)

    def own_slices(self, variable: Any, axis: int, labels: np.ndarray) -> None:
        """Records that units own the slices of one weight along an axis.

        They own those of the matrices that LoRA adds to it, too.
        """
        self.trace.own(variable, axis, labels)
        lora = lora_of(self.layer)
        if lora is not None and lora.weight is variable:
            self.trace.own(*lora.part(axis), labels)

    def resize(
        self,
        key: Any,
        labels: np.ndarray,
        value: Callable[[np.ndarray], Any] = len,
    ) -> None:
        """Records that a setting of the layer follows `labels`.

        Args:
            key: The entry of its config, or a tuple of keys that leads there.
            labels: Labels along an axis.
            value: Makes the entry from the positions that stay; by default
                it is their number.
        """
        if self.config is None:
            return
        path = key if isinstance(key, tuple) else (key,)
        inner = isinstance(self.layer, keras.Layer)
        target = self.owner if inner else self.layer
        size = Size(labels, value)
        self.trace.follow(target, (*self.config, *path), size)

    def constant(self, place: int) -> Any:
        """Returns a positional argument of the call that is no tensor."""
        args, _ = self.recorded.arguments
        value = args[place] if place < len(args) else None
        return None if isinstance(value, keras.KerasTensor) else value

    def place(
        self,
        path: tuple,
        labels: np.ndarray,
        value: Callable[[np.ndarray], Any],
    ) -> None:
        """Records that an argument of the call follows `labels`.

        Args:
            path: Where it stands in the arguments by position and those by
                name, a pair; `Along(axis)` at its end means positions along
                an axis of an array.
            labels: Labels along an axis.
            value: Makes the argument from the positions that stay.
        """
        size = Size(labels, value)
        self.trace.follow(self.layer, (ARGUMENTS, *path), size)

    def hold_adapted(self, first: int) -> None:
        """Keeps the units of a layer if one inside it has LoRA enabled.

        The layer's config does not say so, so it cannot be made again.

        Args:
            first: The first label of the units that it makes.
        """
        inside = layers_inside(self.layer)[1:]
        if any(lora_of(each) is not None for each in inside):
            why = "has LoRA enabled inside, which its config does not say"
            self.hold(why)
            self.hold_labels(why, np.arange(first, self.trace.label_count))

    def rescale(self, variable: Any, labels: np.ndarray, power: float) -> None:
        """Records that a weight is multiplied by `(kept / all) ** power`."""
        if variable is not None:  # Once, however often the layer is called.
            scale = Scale(variable, labels, power)
            self.trace.scales[id(variable)] = scale

    def works(self, *sizes: float | np.ndarray | None, of: Any = None) -> None:
        """Records multiplications of a sample: the product of some sizes.

        What a sample has of the output's first axis counts as well: a window
        of an image, say, may stand where samples do.

        Args:
            *sizes: Numbers; labels along an axis whose size follows units; or
                `None` where a size is not known.
            of: A weight, all of whose sizes count as well.
        """
        if of is not None:
            owned = self.trace.axes.get(id(of), {})
            sizes += tuple(owned.get(a, s) for a, s in enumerate(of.shape))
        sizes += (*self.times, self._samples)
        fixed = tuple(s for s in sizes if not isinstance(s, np.ndarray))
        follow = tuple(s for s in sizes if isinstance(s, np.ndarray))
        self.trace.work.append(Work(self.top, fixed, follow))

    def places(self, shape: tuple, without: int, axes: Axes = NONE) -> list:
        """Returns the sizes of all axes but the batch and one, for `works`."""
        return [
            axes[axis].labels if axis in axes else size
            for axis, size in enumerate(shape)
            if axis not in (0, without)
        ]

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Ties the units at the same places of two arrays."""
        self.trace.tie(first, second, self.who)

    def hold(self, why: str, units: Iterable[Units] | None = None) -> None:
        """Marks units as not prunable, by default those of all inputs."""
        if units is None:
            units = [u for axes in self.inputs for u in axes.values()]
        for each in units:
            self.trace.hold(each.labels, self.who, why)

    def hold_labels(self, why: str, labels: np.ndarray) -> None:
        """Marks units as not prunable, by their labels."""
        self.trace.hold(labels, self.who, why)

    def emit(
        self,
        axis: int,
        labels: np.ndarray,
        transfer: Transfer,
        inputs: Iterable[Units] = (),
        output: int | None = 0,
        within: tuple[int, Callable[[Any], Any]] | None = None,
    ) -> Units:
        """Makes a new source of units and returns them.

        Args:
            axis: Axis of the units in the output.
            labels: The units, one a position.
            transfer: How the values arise.
            inputs: The units they arise from, position by position.
            output: Which output they are; `None` for values inside the layer.
            within: For those: which input they follow from, and how.
        """
        tensor, compute = None, None
        if self.step is not None and within is not None:
            tensor, compute = self.step.read[within[0]], within[1]
        elif self.step is not None and output is not None:
            tensor = self.step.outputs[output]
        path = f"{self.path}:{output}" if output else self.path
        if within is not None or output is None:
            path = f"{self.path} (inside)"
        index = len(self.trace.sources)
        units = Units(axis, labels, np.full(labels.size, index))
        self.trace.sources.append(
            Source(path, tensor, units, transfer, tuple(inputs), compute)
        )
        return units

    @property
    def _samples(self) -> float:
        """Returns how many entries of the first axis belong to a sample."""
        batch = self.trace.graph.batch
        shape = self.output_shapes[0] if self.output_shapes else ()
        if batch is None or not shape or shape[0] is None:
            return 1
        return shape[0] / batch

    def _weights(self, weights: Mapping[str, int]) -> Iterator[tuple[Any, int]]:
        for name, axis in weights.items():
            variable = getattr(self.layer, name, None)
            if variable is not None:
                yield variable, axis

    @property
    def who(self) -> str:
        """Returns how reasons name the layer."""
        return f"{type(self.layer).__name__} '{self.path}'"

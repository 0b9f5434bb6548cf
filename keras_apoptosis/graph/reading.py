"""Reads the graph of a Keras model: the one file that knows its privates.

A model becomes a flat list of steps. Nested models are opened, so that a unit
can be followed through them; each call of a shared model or layer is a step of
its own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_apoptosis.backend.gradients import no_gradients
from keras_apoptosis.backend.models import as_function, ordered_nodes
from keras_apoptosis.graph.activations import without_activation


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of one operation.

    Args:
        operation: The layer or `keras.Operation` that is called.
        path: Names of the models it is nested in and its own, joined by `/`.
        inputs: Keys of the tensors it reads, in the order of its arguments.
        outputs: Keys of the tensors it writes.
        node: Keras' record of the call; `None` where a tensor only passes the
            border of a nested model.
    """

    operation: keras.Operation
    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any = None

    @property
    def arguments(self) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the call, as recorded."""
        if self.node is None:
            return (), {}
        return self.node.arguments.args, self.node.arguments.kwargs

    def argument(self, name: str) -> list[int]:
        """Which of `inputs` were given as one argument of the call."""
        args, kwargs = self.arguments
        signature = inspect.signature(self.operation.call)
        try:
            names = list(signature.bind_partial(*args).arguments)
        except TypeError:
            return []
        given = [*zip(names, args, strict=False), *sorted(kwargs.items())]
        found, count = [], 0
        for key, value in given:
            tensors = [
                each
                for each in keras.tree.flatten(value)
                if isinstance(each, keras.KerasTensor)
            ]
            if key == name:
                found.extend(range(count, count + len(tensors)))
            count += len(tensors)
        return found

    def run(
        self,
        values: dict[int, Any],
        edit: Callable[[Any], Any] | None = None,
    ) -> list[Any]:
        """Calls the operation on `values` (inference) and returns outputs.

        Args:
            values: Tensors, by key.
            edit: What to make of the first output before the operation's own
                activation.
        """
        if self.node is None:
            return [values[key] for key in self.inputs]
        args, kwargs = self.filled([values[key] for key in self.inputs])
        if edit is None:
            return keras.tree.flatten(self.operation(*args, **kwargs))
        activation = getattr(self.operation, "activation", None)
        with without_activation(self.operation):
            outputs = keras.tree.flatten(self.operation(*args, **kwargs))
        outputs[0] = edit(outputs[0])
        if activation is not None:
            outputs[0] = activation(outputs[0])
        return outputs

    def filled(self, values: Sequence[Any]) -> tuple[tuple, dict]:
        """The arguments of the call, with `values` for its tensors."""
        arguments = self.node.arguments
        return arguments.fill_in(
            {
                id(tensor): value
                for tensor, value in zip(
                    arguments.keras_tensors, values, strict=True
                )
            }
        )


class Place(NamedTuple):
    """A place in a graph where values can be changed.

    Args:
        key: Key of a tensor.
        before: Whether before the activation of the layer that returns it.
    """

    key: int
    before: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A model as a list of steps over numbered tensors.

    Args:
        model: The model that was read.
        inputs: Keys of the model's input tensors.
        outputs: Keys of the model's output tensors.
        steps: The calls, each after those whose outputs it reads.
        tensors: The `KerasTensor` of each key. A nested model that is called
            twice has two keys for each of its tensors.
        whole: Whether it is all of the model: of a subclassed model only the
            parts that are Sequential or Functional are known.
    """

    model: keras.Model
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    tensors: tuple[keras.KerasTensor, ...]
    whole: bool = True

    def run(self, inputs: Any, wanted: Iterable[int]) -> dict[int, Any]:
        """Computes some tensors of the graph, without gradients.

        Args:
            inputs: One batch of the model's inputs, in any structure that the
                model's `call` takes.
            wanted: Keys of the tensors to return. Steps that none of them
                depends on are not run.

        Returns:
            The wanted tensors, by key.

        Raises:
            ValueError: If the model is a subclassed one.
        """
        # Layers that count their calls must not count this one.
        with keras.StatelessScope(), no_gradients():
            return self.compute(inputs, wanted)

    def compute(
        self,
        inputs: Any,
        wanted: Iterable[int],
        edits: Mapping[Place, Callable[[Any], Any]] | None = None,
    ) -> dict[int, Any]:
        """The same in the scope of the caller, and with tensors changed.

        Args:
            inputs: See `run`.
            wanted: See `run`.
            edits: What to make of values at some places of the graph.

        Returns:
            The wanted tensors, by key.

        Raises:
            ValueError: If the model is a subclassed one.
        """
        if not self.whole:
            raise ValueError(
                "How a subclassed model calls its parts is not recorded, so "
                "what they compute on data cannot be followed; a criterion "
                f"that needs no data can be used. Received: {self.model.name}"
            )
        wanted = set(wanted)
        needed = self.steps_to(wanted)
        flat = as_function(self.model)._standardize_inputs(inputs)
        values = dict(zip(self.inputs, flat, strict=True))
        last_use = {
            key: index
            for index, step in enumerate(needed)
            for key in step.inputs
        }
        edits = edits or {}
        for index, step in enumerate(needed):
            outputs = step.run(values, edits.get(Place(step.outputs[0], True)))
            for key, value in zip(step.outputs, outputs, strict=True):
                edit = edits.get(Place(key))
                values[key] = value if edit is None else edit(value)
            for key in set(step.inputs):
                # Feature maps are large; keep those still to be read.
                if last_use[key] == index and key not in wanted:
                    del values[key]
        return {key: values[key] for key in wanted}

    def steps_to(self, wanted: Iterable[int]) -> list[Step]:
        """The steps that the wanted tensors depend on, in order."""
        wanted = set(wanted)
        needed = []
        for step in reversed(self.steps):
            if wanted.intersection(step.outputs):
                needed.append(step)
                wanted.update(step.inputs)
        return needed[::-1]


def read(model: keras.Model) -> Graph:
    """Reads a built Sequential or Functional model, nested ones included.

    Of a subclassed model its parts that are Sequential or Functional are
    read, each by itself: what enters and leaves them stays as it is.

    Args:
        model: The model.

    Returns:
        Its `Graph`.

    Raises:
        ValueError: If `model` is no Keras model, is not built, or is a
            subclassed model without such parts.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Expected a `keras.Model`. Received: model={model} "
            f"(of type {type(model)})"
        )
    function = as_function(model)
    parts = [] if function is not None else _parts(model)
    if function is None and not parts:
        hint = (
            "Build it first, for instance by `keras.Input` as its first layer"
            if isinstance(model, keras.Sequential)
            else "Only Sequential and Functional models record their graph, "
            "and this one has no part that is either"
        )
        raise ValueError(
            f"Cannot read the graph of model '{model.name}'. {hint}. "
            f"Received: model={model} (of type {type(model)})"
        )
    tensors: list[keras.KerasTensor] = []
    steps: list[Step] = []

    def new_keys(new_tensors) -> tuple[int, ...]:
        first = len(tensors)
        tensors.extend(new_tensors)
        return tuple(range(first, len(tensors)))

    def walk(function, keys: dict[int, int], prefix: str) -> tuple[int, ...]:
        for node in ordered_nodes(function):
            operation, path = node.operation, prefix + node.operation.name
            inputs = tuple(keys[id(t)] for t in node.arguments.keras_tensors)
            inner = as_function(operation)
            if inner is not None:
                entered = dict(
                    zip(
                        (id(t) for t in inner.inputs),
                        new_keys(inner.inputs),
                        strict=True,
                    )
                )
                for tensor, outside in zip(inner.inputs, inputs, strict=True):
                    layer = tensor._keras_history.operation
                    border = Step(
                        layer,
                        f"{path}/{layer.name}",
                        (outside,),
                        (entered[id(tensor)],),
                    )
                    steps.append(border)
                inputs = walk(inner, entered, f"{path}/")
                node_of_step = None
            else:
                node_of_step = node
            outputs = new_keys(node.outputs)
            written = (id(tensor) for tensor in node.outputs)
            keys.update(zip(written, outputs, strict=True))
            steps.append(Step(operation, path, inputs, outputs, node_of_step))
        return tuple(keys[id(t)] for t in function.outputs)

    inputs: list[int] = []
    outputs: list[int] = []
    for part, prefix in parts or [(function, "")]:
        entered = new_keys(part.inputs)
        keys = dict(zip((id(t) for t in part.inputs), entered, strict=True))
        inputs.extend(entered)
        outputs.extend(walk(part, keys, prefix))
    return Graph(
        model,
        tuple(inputs),
        tuple(outputs),
        tuple(steps),
        tuple(tensors),
        whole=not parts,
    )


def _parts(model: keras.Model) -> list[tuple[Any, str]]:
    """The parts of a subclassed model whose graph is recorded."""
    if isinstance(model, keras.Sequential):
        return []
    return [
        (function, f"{layer.name}/")
        for layer in model.layers
        if (function := as_function(layer)) is not None
    ]

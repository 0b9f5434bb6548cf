"""Reads the graph of a Keras model.

A model becomes a flat list of steps. Nested models are opened, so that a unit
can be followed through them; each call of a shared model or layer is a step of
its own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple

import keras

from keras_apoptosis.backend.calls import (
    called_on,
    in_inference,
    mask_of,
    masked,
)
from keras_apoptosis.backend.following import Record
from keras_apoptosis.backend.models import (
    as_function,
    flat_inputs,
    follows_its_graph,
    maker_of,
    ordered_nodes,
    possible_inputs,
)
from keras_apoptosis.backend.placement import inference_scope
from keras_apoptosis.graph.activations import without_activation
from keras_apoptosis.graph.expansion import (
    Entrance,
    Expansion,
    NotFollowed,
    blame,
    expand,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Call of one operation.

    Args:
        operation: The layer or `keras.Operation` that is called.
        path: Names of the models it is nested in and its own, joined by `/`.
        inputs: Keys of the tensors it reads, in the order in which Keras
            recorded them.
        outputs: Keys of the tensors it writes.
        node: Keras' record of the call; `None` where a tensor only passes the
            border of a nested model. The second input of a border, if there
            is one, is the mask of the first.
        expansion: The calls of a layer that is followed, of which this is
            one; `None` for a call that Keras recorded.
        index: Which of its records this is; -1 where tensors enter.
        reason: Why a layer without a rule could not be followed.
    """

    operation: keras.Operation
    path: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any = None
    expansion: Expansion | None = None
    index: int = -1
    reason: str = ""

    @property
    def arguments(self) -> tuple[tuple, dict]:
        """Returns the arguments of the call, as recorded."""
        if self.node is None:
            return (), {}
        return self.node.arguments.args, self.node.arguments.kwargs

    @functools.cached_property
    def given(self) -> dict[str, tuple[int, ...]]:
        """Returns which of `inputs` each argument of the call holds.

        By name, in the order of the signature of the operation's `call`.
        """
        if self.node is None:
            return {"inputs": (0,), "mask": (*range(1, len(self.inputs)),)}
        args, kwargs = self.arguments
        signature = inspect.signature(self.operation.call)
        try:
            names = list(signature.bind_partial(*args).arguments)
        except TypeError:
            names = [str(number) for number in range(len(args))]
        names += [str(number) for number in range(len(names), len(args))]
        found: dict[str, tuple[int, ...]] = {}
        count = 0
        values = [*zip(names, args, strict=True), *sorted(kwargs.items())]
        for name, value in values:
            tensors = [
                each
                for each in keras.tree.flatten(value)
                if isinstance(each, keras.KerasTensor)
            ]
            found[name] = tuple(range(count, count + len(tensors)))
            count += len(tensors)
        order = [n for n in signature.parameters if n in found]
        order += [n for n in found if n not in order]
        return {name: found[name] for name in order}

    @functools.cached_property
    def data(self) -> tuple[int, ...]:
        """Returns which of `inputs` hold values: all but the masks."""
        return tuple(
            place
            for name, places in self.given.items()
            if not is_mask(name)
            for place in places
        )

    @functools.cached_property
    def read(self) -> tuple[int, ...]:
        """Returns the keys of the tensors whose values the call reads."""
        return tuple(self.inputs[place] for place in self.data)

    def run(
        self,
        values: Mapping[int, Any],
        edit: Callable[[Any], Any] | None = None,
    ) -> list[Any]:
        """Calls the operation in inference mode.

        Args:
            values: Tensors, by key.
            edit: What to make of the first output before the operation's own
                activation.

        Returns:
            The outputs.
        """
        if self.node is None:
            value, *masks = (values[key] for key in self.inputs)
            return [masked(value, *masks) if masks else value]
        args, kwargs = self.filled([values[key] for key in self.inputs])
        # Some layers record `training=True`. Those that have no such argument
        # hand it on to the layers inside them.
        if isinstance(self.operation, keras.Layer):
            args, kwargs = in_inference(self.operation, args, kwargs)
        if edit is None:
            return keras.tree.flatten(self.operation(*args, **kwargs))
        activation = getattr(self.operation, "activation", None)
        with without_activation(self.operation):
            outputs = keras.tree.flatten(self.operation(*args, **kwargs))
        changed = edit(outputs[0])
        if activation is not None:
            changed = activation(changed)
        outputs[0] = masked(changed, mask_of(outputs[0]))
        return outputs

    def filled(self, values: Sequence[Any]) -> tuple[tuple, dict]:
        """Returns the arguments of the call, with `values` for its tensors."""
        arguments = self.node.arguments
        return arguments.fill_in(
            {
                id(tensor): value
                for tensor, value in zip(
                    arguments.keras_tensors, values, strict=True
                )
            }
        )


def is_mask(argument: str) -> bool:
    """Returns whether an argument of a layer's `call` holds a mask."""
    return argument == "mask" or argument.endswith("_mask")


class Replay:
    """One run through a graph, on tensors of any batch size and length.

    What a followed layer calls holds the sizes that it was followed with, so
    it is followed again for those that come.
    """

    def __init__(self) -> None:
        self._followed: dict[int, Expansion] = {}

    def run(
        self,
        step: Step,
        values: Mapping[int, Any],
        edit: Callable[[Any], Any] | None = None,
    ) -> list[Any]:
        """Runs a step; see `Step.run`. Steps must come in order."""
        if step.expansion is None:
            return step.run(values, edit)
        key = id(step.expansion)
        if step.index < 0:
            outputs = step.run(values)
            shapes = [tuple(each.shape) for each in outputs]
            self._followed[key] = step.expansion.at(shapes)
            return outputs
        record = self._followed[key].records[step.index]
        step = dataclasses.replace(
            step, operation=record.operation, node=record
        )
        return step.run(values, edit)


class Place(NamedTuple):
    """Place in a graph where values can be changed.

    Args:
        key: Key of a tensor.
        before: Whether before the activation of the layer that returns it.
    """

    key: int
    before: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Model as a list of steps over numbered tensors.

    Args:
        model: The model that was read.
        inputs: Keys of the model's input tensors.
        outputs: Keys of the model's output tensors.
        steps: The calls, each after those whose outputs it reads.
        tensors: The `KerasTensor` of each key. A nested model that is called
            twice has two keys for each of its tensors.
        whole: Whether it is all of the model: of a subclassed model only the
            parts that are Sequential or Functional are known.
        batch: How many samples there are, where shapes were computed for a
            batch of a certain size.
    """

    model: keras.Model
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]
    tensors: tuple[keras.KerasTensor, ...]
    whole: bool = True
    batch: int | None = None

    @property
    def layers(self) -> list[keras.Layer]:
        """The layers of the model, those that are followed as wholes."""
        found = {
            id(operation): operation
            for step in self.steps
            if isinstance(
                operation := step.expansion.layer
                if step.expansion
                else step.operation,
                keras.Layer,
            )
        }
        return list(found.values())

    @functools.cached_property
    def expansions(self) -> list[Expansion]:
        """The followed layers, each call once."""
        return [
            step.expansion
            for step in self.steps
            if step.expansion is not None and step.index < 0
        ]

    @functools.cached_property
    def made_by(self) -> dict[int, Step]:
        """The step that writes each tensor, by key."""
        return {key: step for step in self.steps for key in step.outputs}

    @functools.cached_property
    def used(self) -> frozenset[int]:
        """Keys of the tensors that a step reads or the model returns."""
        read = (key for step in self.steps for key in step.inputs)
        return frozenset([*read, *self.outputs])

    def entered(self, inputs: Any) -> dict[int, Any]:
        """Returns the tensors of the inputs, by key.

        Args:
            inputs: One batch of the model's inputs, in any structure that the
                model's `call` takes.
        """
        flat = flat_inputs(self.model, inputs)
        return dict(zip(self.inputs, flat, strict=True))

    def run(self, inputs: Any, wanted: Iterable[int]) -> dict[int, Any]:
        """Computes some tensors of the graph, without gradients.

        Args:
            inputs: See `entered`.
            wanted: Keys of the tensors to return. Steps that none of them
                depends on are not run.

        Returns:
            The wanted tensors, by key.

        Raises:
            ValueError: If the model is a subclassed one.
        """
        return self.go_on(self.entered(inputs), wanted)

    def go_on(
        self, known: Mapping[int, Any], wanted: Iterable[int]
    ) -> dict[int, Any]:
        """Computes some tensors from others; see `run`.

        Args:
            known: Tensors, by key. Steps that lead to them are not run.
            wanted: Keys of the tensors to return.
        """
        # Layers that count their calls must not count this one.
        with inference_scope(self.model):
            return self._compute(known, wanted)

    def compute(
        self,
        inputs: Any,
        wanted: Iterable[int],
        edits: Mapping[Place, Callable[[Any], Any]] | None = None,
    ) -> dict[int, Any]:
        """Computes tensors in the scope of the caller, some of them changed.

        Args:
            inputs: See `run`.
            wanted: See `run`.
            edits: What to make of values at some places of the graph.

        Returns:
            The wanted tensors, by key.

        Raises:
            ValueError: If the model is a subclassed one.
        """
        return self._compute(self.entered(inputs), wanted, edits)

    def _compute(
        self,
        known: Mapping[int, Any],
        wanted: Iterable[int],
        edits: Mapping[Place, Callable[[Any], Any]] | None = None,
    ) -> dict[int, Any]:
        if not self.whole:
            raise ValueError(
                "How a subclassed model calls its parts is not recorded, so "
                "what they compute on data cannot be followed; a criterion "
                f"that needs no data can be used. Received: {self.model.name}"
            )
        wanted = set(wanted)
        needed = self.steps_to(wanted, known)
        values = dict(known)
        last_use = {
            key: index
            for index, step in enumerate(needed)
            for key in step.inputs
        }
        edits = edits or {}
        replay = Replay()
        for index, step in enumerate(needed):
            before = edits.get(Place(step.outputs[0], True))
            outputs = replay.run(step, values, before)
            for key, value in zip(step.outputs, outputs, strict=True):
                edit = edits.get(Place(key))
                if edit is not None:
                    value = masked(edit(value), mask_of(value))
                values[key] = value
            for key in set(step.inputs):
                # Feature maps are large; keep those still to be read.
                if last_use[key] == index and key not in wanted:
                    del values[key]
        return {key: values[key] for key in wanted}

    def steps_to(
        self, wanted: Iterable[int], known: Container[int] = ()
    ) -> list[Step]:
        """Returns the steps that some tensors depend on, in order.

        Args:
            wanted: Keys of the tensors.
            known: Keys of tensors that are there.
        """
        wanted = {key for key in wanted if key not in known}
        needed = []
        followed: set[int] = set()
        for step in reversed(self.steps):
            # What a followed layer makes of nothing depends on its inputs'
            # shapes all the same.
            enters = step.index < 0 and id(step.expansion) in followed
            if enters or wanted.intersection(step.outputs):
                needed.append(step)
                wanted.update(k for k in step.inputs if k not in known)
                if step.expansion is not None:
                    followed.add(id(step.expansion))
        return needed[::-1]


def read(
    model: keras.Model, opened: Callable[[keras.Layer], bool] | None = None
) -> Graph:
    """Reads a built Sequential or Functional model, nested ones included.

    Of a subclassed model its parts that are Sequential or Functional are
    read, each by itself: what enters and leaves them stays as it is.

    Args:
        model: The model.
        opened: Says of a layer whether to follow it, as one that has no rule;
            by default none is.

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
    tensors: list[keras.KerasTensor] = []
    steps: list[Step] = []

    def new_keys(new_tensors: Iterable[Any]) -> tuple[int, ...]:
        first = len(tensors)
        tensors.extend(new_tensors)
        return tuple(range(first, len(tensors)))

    def follow(
        expansion: Expansion,
        path: str,
        given: Sequence[Any],
        inputs: tuple[int, ...],
    ) -> list[tuple[int, ...]]:
        """Adds the steps of a followed layer; returns keys of its outputs.

        Paths of what is inside a followed model do not repeat its name.
        """
        prefix = f"{path}/" if path else ""
        entered = new_keys(expansion.inputs)
        entrance = Entrance(expansion.masked)
        made = list(expansion.inputs)
        record = Record(entrance, tuple(given), {}, made)
        where = path or model.name
        steps.append(Step(entrance, where, inputs, entered, record, expansion))
        keys = dict(zip(map(id, expansion.inputs), entered, strict=True))
        for index, (record, name) in enumerate(
            zip(expansion.records, expansion.paths, strict=True)
        ):
            outputs = new_keys(record.outputs)
            steps.append(
                Step(
                    record.operation,
                    f"{prefix}{name}",
                    tuple(keys[id(t)] for t in record.arguments.keras_tensors),
                    outputs,
                    record,
                    expansion,
                    index,
                    "" if record.error is None else blame(record.error),
                )
            )
            keys.update(zip(map(id, record.outputs), outputs, strict=True))
        return [
            tuple(
                keys[id(each)]
                for each in (output, mask)
                if each is not None and id(each) in keys
            )
            for output, mask in zip(
                expansion.outputs, expansion.masks, strict=True
            )
        ]

    if opened is not None and not (function and follows_its_graph(model)):
        for arguments in possible_inputs(model):
            try:
                expansion = expand(model, arguments, opened)
            except NotFollowed:
                continue
            given = expansion.inputs[
                : len(expansion.inputs) - len(expansion.masked)
            ]
            entered = new_keys(given)
            made = follow(expansion, "", given, entered)
            first = tuple(each[0] for each in made)
            return Graph(model, entered, first, tuple(steps), tuple(tensors))
    parts = _parts(model, function)
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

    def walk(
        function: Any, keys: dict[int, int], prefix: str
    ) -> tuple[int, ...]:
        for node in ordered_nodes(function):
            operation, path = node.operation, prefix + node.operation.name
            inputs = tuple(keys[id(t)] for t in node.arguments.keras_tensors)
            inner = as_function(operation)
            if inner is not None and follows_its_graph(operation):
                entered = dict(
                    zip(
                        (id(t) for t in inner.inputs),
                        new_keys(inner.inputs),
                        strict=True,
                    )
                )
                for tensor, *outside in zip(
                    inner.inputs, *called_on(node), strict=True
                ):
                    layer = maker_of(tensor)
                    border = Step(
                        layer,
                        f"{path}/{layer.name}",
                        tuple(
                            keys[id(each)]
                            for each in outside
                            if each is not None
                        ),
                        (entered[id(tensor)],),
                    )
                    steps.append(border)
                inputs = walk(inner, entered, f"{path}/")
                node_of_step = None
            else:
                node_of_step = node
            reason = ""
            if (
                node_of_step is not None
                and opened is not None
                and isinstance(operation, keras.Layer)
                and opened(operation)
            ):
                try:
                    expansion = expand(operation, node.arguments, opened)
                    _check_declared(node.outputs, expansion)
                except NotFollowed as error:
                    reason = str(error)
                else:
                    given = node.arguments.keras_tensors
                    made = follow(expansion, path, given, inputs)
                    outputs = new_keys(node.outputs)
                    for tensor, output, inner_keys in zip(
                        node.outputs, outputs, made, strict=True
                    ):
                        keys[id(tensor)] = output
                        steps.append(
                            Step(operation, path, inner_keys, (output,))
                        )
                    continue
            outputs = new_keys(node.outputs)
            written = (id(tensor) for tensor in node.outputs)
            keys.update(zip(written, outputs, strict=True))
            if node_of_step is None:
                steps.extend(
                    Step(operation, path, (inner_key,), (output,))
                    for inner_key, output in zip(inputs, outputs, strict=True)
                )
                continue
            steps.append(
                Step(
                    operation,
                    path,
                    inputs,
                    outputs,
                    node_of_step,
                    reason=reason,
                )
            )
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


def _check_declared(
    outputs: Sequence[keras.KerasTensor], expansion: Expansion
) -> None:
    """Holds what a layer declares to return against what it returns."""
    for declared, found in zip(outputs, expansion.outputs, strict=True):
        if len(declared.shape) != len(found.shape) or any(
            one is not None and other is not None and one != other
            for one, other in zip(declared.shape, found.shape, strict=True)
        ):
            raise NotFollowed(
                f"declares an output of shape {tuple(declared.shape)}, and "
                f"returns one of shape {tuple(found.shape)}"
            )


def _parts(model: keras.Model, function: Any) -> list[tuple[Any, str]]:
    """Returns the parts of a subclassed model whose graph is recorded."""
    if function is not None:
        return [] if follows_its_graph(model) else [(function, "")]
    if isinstance(model, keras.Sequential):
        return []
    return [
        (part, f"{layer.name}/")
        for layer in model.layers
        if (part := as_function(layer)) is not None
    ]

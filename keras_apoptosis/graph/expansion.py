"""Follows a layer without a rule by calling it.

A layer is called on symbolic tensors of a concrete shape, in inference mode.
Its own code runs; the layers and `keras.ops` functions that it calls are
recorded, down to those that have a rule. What comes out is trusted only after
it was run beside the layer on random input.
"""

from __future__ import annotations

import dataclasses
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend.calls import in_inference, in_mode, mask_of, masked
from keras_apoptosis.backend.following import (
    ReadVariables,
    Record,
    Records,
    at_once,
    dtype_inside,
    recorded,
)
from keras_apoptosis.backend.layers import set_attributes
from keras_apoptosis.backend.models import layers_inside
from keras_apoptosis.backend.placement import inference_scope

# Stand in for sizes that are known at run time only: batch, and lengths. The
# second is for short positions, the third for layers that shrink images.
BATCH, LENGTHS = 3, (9, 4, 65)

# Whose lines of code are no reason that would help anyone.
INSTALLED = ("keras", "jax", "tensorflow", "torch", "numpy", "optree")


class Entrance(keras.Operation):
    """Where tensors enter a layer that is followed.

    Args:
        masked: Which of them carry a mask, which enters after all tensors.
    """

    def __init__(self, masked: Sequence[int] = ()):
        super().__init__()
        self.masked = tuple(masked)

    def call(self, *inputs: Any) -> list[Any]:
        return [*inputs, *(mask_of(inputs[place]) for place in self.masked)]


class Exit(keras.Operation):
    """Where outputs leave a followed layer that made some without inputs."""

    def call(self, *outputs: Any) -> list[Any]:
        return [ops.convert_to_tensor(each) for each in outputs]


class Parameter(keras.Operation):
    """A weight that a followed layer uses itself, not through a layer.

    Args:
        variable: The weight.
        shape: The shape in which it is used.
        axes: For axes of that shape, the weight's own axis that lies there.
        index: Which entries of the weight are used, in that shape; `None` for
            the weight as it is.
        dtype: The dtype in which it is used.
    """

    def __init__(
        self,
        variable: keras.Variable,
        shape: tuple[int, ...],
        axes: Mapping[int, int],
        index: np.ndarray | None,
        dtype: str,
    ):
        super().__init__(name=variable.name)
        self.variable = variable
        self.shape = shape
        self.axes = dict(axes)
        self.index = index
        self.dtype = dtype

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The weight, if it is trained: as of a layer."""
        return [self.variable] if self.variable.trainable else []

    def call(self) -> Any:
        value = ops.convert_to_tensor(self.variable)
        if self.index is not None:
            value = ops.take(ops.reshape(value, (-1,)), self.index)
        return ops.cast(ops.reshape(value, self.shape), self.dtype)


class NotFollowed(Exception):
    """A layer whose calls cannot be followed; says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Expansion:
    """The calls that a layer makes.

    Args:
        layer: The layer.
        arguments: Positional and keyword arguments of its call.
        opened: Says of a layer whether its code was run.
        inputs: The symbolic tensors that it was called on, then their masks.
        masked: Which of its inputs carry a mask, in the order of the masks.
        outputs: The symbolic tensors that it returned.
        masks: The mask of each output, or `None`.
        records: Its calls, in order, weights that it uses itself first.
        paths: Of each record, the names of the layers that it lies in and its
            own, joined by `/`.
        held: Weights, and which of their axes (`None`: all), that it uses in
            a way that is not followed.
    """

    layer: keras.Layer
    arguments: tuple[tuple, dict[str, Any]]
    opened: Callable[[keras.Layer], bool]
    inputs: tuple[keras.KerasTensor, ...]
    masked: tuple[int, ...]
    outputs: tuple[keras.KerasTensor, ...]
    masks: tuple[keras.KerasTensor | None, ...]
    records: tuple[Record, ...]
    paths: tuple[str, ...]
    held: tuple[tuple[keras.Variable, int | None], ...]

    @property
    def computed(self) -> bool:
        """Returns whether it holds constants that were computed of weights."""
        return any(axis is None for _, axis in self.held)

    def at(self, shapes: Sequence[tuple[int, ...]]) -> Expansion:
        """Returns the same calls for inputs of other shapes.

        Raises:
            NotFollowed: If the layer makes other calls then.
        """
        shapes = [*shapes][: len(self.inputs) - len(self.masked)]
        own = [tuple(each.shape) for each in self.inputs[: len(shapes)]]
        if own == shapes:
            return self
        other = follow(self.layer, self.arguments, shapes, self.opened)
        if self.paths != other.paths:
            raise NotFollowed(
                "does other things for inputs of shapes "
                f"{', '.join(map(str, shapes))}"
            )
        return other

    def in_training(self) -> Expansion:
        """Returns the calls that the layer makes in training mode.

        Raises:
            NotFollowed: If its code fails on symbolic tensors then.
        """
        count = len(self.inputs) - len(self.masked)
        shapes = [tuple(each.shape) for each in self.inputs[:count]]
        return follow(
            self.layer, self.arguments, shapes, self.opened, training=True
        )

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Computes the outputs by the recorded calls."""
        values = {
            id(tensor): value
            for tensor, value in zip(self.inputs, inputs, strict=True)
        }
        for record in self.records:
            args, kwargs = record.arguments.fill_in(values)
            if isinstance(record.operation, keras.Layer):
                args, kwargs = in_inference(record.operation, args, kwargs)
            made = keras.tree.flatten(record.operation(*args, **kwargs))
            for tensor, value in zip(record.outputs, made, strict=True):
                values[id(tensor)] = value
        return [values[id(tensor)] for tensor in self.outputs]


class _Memory:
    """Keeps what was found of a layer, for as long as the layer lives.

    Attributes:
        found: Expansions, or why there is none, by what they depend on.
    """

    NAME = "_keras_apoptosis_expansions"

    def __init__(self) -> None:
        self.sizes: Any = None
        self.found: dict[tuple, Expansion | NotFollowed] = {}

    @classmethod
    def of(cls, layer: keras.Layer) -> _Memory:
        """Returns the memory of a layer at its present sizes."""
        memory = layer.__dict__.get(cls.NAME)
        sizes = (_rules, *(tuple(each.shape) for each in layer.variables))
        if memory is None or memory.sizes != sizes:
            memory = cls()
            memory.sizes = sizes
            set_attributes(layer, {cls.NAME: memory})
        return memory


_rules = 0  # How often the rules have changed.


def forget() -> None:
    """Forgets what was found: the rules have changed."""
    global _rules
    _rules += 1


def expand(
    layer: keras.Layer,
    arguments: Any,
    opened: Callable[[keras.Layer], bool],
) -> Expansion:
    """Follows a layer, and checks that its calls do what the layer does.

    Args:
        layer: A built layer.
        arguments: The arguments of its call, as Keras records them, with
            symbolic tensors whose sizes may be unknown.
        opened: Says of a layer whether to follow it, too.

    Returns:
        Its calls.

    Raises:
        NotFollowed: If it cannot be followed, or its calls do something else.
    """
    known = _Memory.of(layer).found
    arguments = (tuple(arguments.args), dict(arguments.kwargs))
    key = _key(arguments, opened)
    found = None if key is None else known.get(key)
    if found is None:
        try:
            found = _checked(layer, arguments, opened)
        except NotFollowed as error:
            found = error
        # What was computed of weights is not kept: they will change.
        if key is not None and not getattr(found, "computed", False):
            known[key] = found
    if isinstance(found, NotFollowed):
        raise found
    return found


def follow(
    layer: keras.Layer,
    arguments: tuple[tuple, dict[str, Any]],
    shapes: Sequence[tuple[int, ...]],
    opened: Callable[[keras.Layer], bool],
    training: bool = False,
) -> Expansion:
    """Calls a layer on symbolic tensors of given shapes.

    Args:
        layer: The layer.
        arguments: Positional and keyword arguments of its call.
        shapes: A shape for each symbolic tensor among them.
        opened: Says of a layer whether to follow it, too.
        training: Whether to call it in training mode.

    Returns:
        Its calls.

    Raises:
        NotFollowed: If its code fails on symbolic tensors.
    """
    inputs, masks, carrying = [], [], []
    tensors = _tensors(arguments)
    for number, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        new = keras.KerasTensor(shape, tensor.dtype)
        mask = mask_of(tensor)
        if mask is not None:
            known = dict(zip(tensor.shape, shape, strict=True))
            sizes = [known.get(size, size) for size in mask.shape]
            masks.append(keras.KerasTensor(sizes, mask.dtype))
            carrying.append(number)
            masked(new, masks[-1])
        inputs.append(new)

    def trace(
        values: Callable[[tuple, str], Any] | None,
    ) -> tuple[list[keras.KerasTensor], Records, ReadVariables]:
        """Outputs, records, and the weights that were read on the way."""
        args, kwargs = filled(arguments, inputs)
        scope = ReadVariables(values or (lambda shape, dtype: None))
        try:
            with at_once(), scope, recorded(opened) as records:
                args, kwargs = in_mode(training, layer, args, kwargs)
                outputs = layer(*args, **kwargs)
        except Exception as error:  # Whatever its code objects to.
            raise NotFollowed(blame(error)) from error
        flat = [e for e in keras.tree.flatten(outputs) if e is not None]
        if not all(
            isinstance(each, keras.KerasTensor)
            and id(each) not in records.weights
            for each in flat
        ):
            made = [
                keras.KerasTensor(
                    tuple(each.shape),
                    keras.backend.standardize_dtype(each.dtype),
                )
                for each in flat
            ]
            records.append(Record(Exit(), tuple(flat), {}, made, (layer,)))
            flat = made
        return flat, records, scope

    outputs, records, scope = trace(_numbered(1))
    substitutes: dict[tuple[int, int], Parameter] = {}
    held: list[tuple[keras.Variable, int | None]] = []
    computed: dict[int, set[int]] = {}
    if scope.read:
        # Constants that were made of weights show the weights' entries.
        others = trace(_numbered(2))
        if len(others[1]) != len(records):
            raise NotFollowed("makes calls that depend on its weights")
        decoded: set[int] = set()
        for place, value, other in _constants(records, others[1]):
            found = _decoded(value, scope)
            if found is not None:
                substitutes[place] = found
                decoded.add(id(found.variable))
                held.extend(
                    (found.variable, axis)
                    for axis, size in enumerate(found.variable.shape)
                    if size > 1 and axis not in found.axes.values()
                )
            elif not np.array_equal(value, other, equal_nan=True):
                held.extend((each, None) for each in scope.read.values())
                number, argument = place
                computed.setdefault(number, set()).add(argument)
        if any(axis is None for _, axis in held):
            outputs, records, _ = trace(None)
            for number, places in computed.items():
                records[number].computed = frozenset(places)
    kept = [mask_of(each) for each in outputs]
    needed = _needed(records, [*outputs, *(k for k in kept if k is not None)])
    made = [*_with_parameters(records, needed, substitutes)]
    return Expansion(
        layer,
        arguments,
        opened,
        (*inputs, *masks),
        tuple(carrying),
        tuple(outputs),
        tuple(kept),
        tuple(made),
        tuple(_paths(made)),
        tuple(held),
    )


def _checked(
    layer: keras.Layer,
    arguments: tuple[tuple, dict[str, Any]],
    opened: Callable[[keras.Layer], bool],
) -> Expansion:
    tensors = _tensors(arguments)
    lengths = LENGTHS if any(None in t.shape[1:] for t in tensors) else (1,)
    failures = []
    for length in lengths:
        shapes = [concrete(tensor.shape, length) for tensor in tensors]
        try:
            found = follow(layer, arguments, shapes, opened)
            _compare(found)
            return found
        except NotFollowed as error:
            failures.append(error)
    raise failures[0]


def _compare(expansion: Expansion) -> None:
    """Runs the calls beside the layer itself.

    Raises:
        NotFollowed: If they differ.
    """
    rng = np.random.default_rng(0)
    inputs = [random_value(rng, tensor) for tensor in expansion.inputs]
    count = len(inputs) - len(expansion.masked)
    args, kwargs = filled(expansion.arguments, inputs[:count])

    def with_masks() -> None:
        """Attaches masks, which may be gone after a call."""
        for place, mask in zip(expansion.masked, inputs[count:], strict=True):
            masked(inputs[place], mask)

    try:
        with inference_scope(expansion.layer):
            args, kwargs = in_inference(expansion.layer, args, kwargs)
            with_masks()
            whole = expansion.layer(*args, **kwargs)
            with_masks()
            found = expansion.run(inputs)
    except Exception as error:  # Whatever its code objects to.
        raise NotFollowed(blame(error)) from error
    expected = [e for e in keras.tree.flatten(whole) if e is not None]
    if difference(expected, found):
        raise NotFollowed(
            "gives other outputs than the calls that it makes on symbolic "
            "tensors"
        )


def difference(expected: Sequence[Any], found: Sequence[Any]) -> str:
    """Says how tensors differ beyond rounding; `""` if they do not."""
    for one, other in zip(expected, found, strict=True):
        a, b = (
            np.asarray(ops.convert_to_numpy(each)).astype("float64")
            for each in (one, other)
        )
        if a.shape != b.shape or one.dtype != other.dtype:
            return f"shapes {a.shape} and {b.shape} or their dtypes"
        scale = np.max(np.abs(a), initial=1e-6, where=np.isfinite(a))
        tolerance = 5e-2 if "16" in str(one.dtype) else 1e-4
        if not np.allclose(a, b, 0, tolerance * scale, equal_nan=True):
            return f"up to {np.nanmax(np.abs(a - b)):.2g}"
    return ""


def random_value(rng: np.random.Generator, tensor: keras.KerasTensor) -> Any:
    """Returns a tensor of random entries that most layers take."""
    if "float" in tensor.dtype:
        value = rng.normal(size=tensor.shape)
    elif tensor.dtype == "bool":
        value = rng.random(tensor.shape) < 0.7
        value[..., :1] = 1
    else:
        value = rng.integers(0, 2, tensor.shape)
        value[..., :1] = 1
    return ops.convert_to_tensor(value, tensor.dtype)


def _numbered(seed: int) -> Callable[[tuple, str], Any]:
    """Gives each float weight entries that differ from one another."""
    rng = np.random.default_rng(seed)

    def value(shape: tuple, dtype: str) -> Any:
        if "float" not in dtype:
            return None
        size = math.prod(shape)
        numbers = 1 + (rng.permutation(size) + rng.random()) / max(size, 1)
        return numbers.reshape(shape).astype("float32")

    return value


def _constants(
    records: Sequence[Record], others: Sequence[Record]
) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """Arrays of floats among the arguments, in two recordings."""
    for number, (one, other) in enumerate(zip(records, others, strict=True)):
        pairs = zip(
            keras.tree.flatten((one.args, one.kwargs)),
            keras.tree.flatten((other.args, other.kwargs)),
            strict=True,
        )
        for place, (value, second) in enumerate(pairs):
            if ops.is_tensor(value) and not isinstance(
                value, keras.KerasTensor
            ):
                yield (
                    (number, place),
                    np.asarray(ops.convert_to_numpy(value)),
                    np.asarray(ops.convert_to_numpy(second)),
                )


def _decoded(value: np.ndarray, scope: ReadVariables) -> Parameter | None:
    """Returns the weight whose entries an array holds, or `None`."""
    if value.size < 2:
        return None
    for key, variable in scope.read.items():
        numbers = np.asarray(
            ops.convert_to_numpy(scope.state_mapping[key])
        ).reshape(-1)
        numbers = numbers.astype(value.dtype)
        order = np.argsort(numbers)
        places = np.searchsorted(numbers[order], value.reshape(-1))
        places = order[np.minimum(places, numbers.size - 1)]
        if not np.array_equal(numbers[places], value.reshape(-1)):
            continue
        if np.unique(numbers).size < numbers.size:
            return None  # A dtype too coarse to tell the entries apart.
        index = places.reshape(value.shape)
        axes = _axes_of(index, tuple(variable.shape))
        if axes is None:
            return None
        return Parameter(variable, value.shape, axes, index, str(value.dtype))
    return None


def _axes_of(
    index: np.ndarray, shape: tuple[int, ...]
) -> dict[int, int] | None:
    """Returns where the axes of a weight lie, in an array of places in it.

    Returns:
        For axes of the array the axis of the weight that lies there, whole
        and in order; `None` if two axes of the weight became one.
    """
    found: dict[int, int] = {}
    for axis, places in enumerate(np.unravel_index(index, shape)):
        varying = [
            each
            for each in range(places.ndim)
            if places.shape[each] > 1 and np.diff(places, axis=each).any()
        ]
        if len(varying) > 1 or set(varying) & found.keys():
            return None
        for each in varying:
            row = np.moveaxis(places, each, 0).reshape(places.shape[each], -1)
            if np.array_equal(row[:, 0], np.arange(shape[axis])):
                found[each] = axis
            else:  # A part of it: nothing may follow that axis.
                found[each] = -1 - axis
    return {each: axis for each, axis in found.items() if axis >= 0}


def _needed(
    records: Sequence[Record], outputs: Sequence[keras.KerasTensor]
) -> set[int]:
    """Returns the records that the outputs depend on."""
    wanted = {id(tensor) for tensor in outputs}
    needed = set()
    for number in range(len(records) - 1, -1, -1):
        record = records[number]
        if wanted.intersection(id(tensor) for tensor in record.outputs):
            needed.add(number)
            wanted.update(id(t) for t in record.arguments.keras_tensors)
    return needed


def _with_parameters(
    records: Records,
    needed: set[int],
    substitutes: Mapping[tuple[int, int], Parameter],
) -> Iterator[Record]:
    """Records in which weights are the outputs of records of their own."""
    known: dict[tuple, keras.KerasTensor] = {}
    for number in sorted(needed):
        record = records[number]
        flat = keras.tree.flatten((record.args, record.kwargs))
        changed = False
        for place, value in enumerate(flat):
            parameter = substitutes.get((number, place))
            if parameter is None and isinstance(value, keras.Variable):
                parameter = _whole(value, record.inside)
            if parameter is None and id(value) in records.weights:
                variable, inside, _ = records.weights[id(value)]
                parameter = _whole(variable, inside)
            if parameter is None:
                continue
            index = parameter.index
            key = (
                id(parameter.variable),
                parameter.dtype,
                None if index is None else (index.shape, index.tobytes()),
            )
            if key not in known:
                made = keras.KerasTensor(parameter.shape, parameter.dtype)
                known[key] = made
                yield Record(parameter, (), {}, [made], record.inside)
            flat[place] = known[key]
            changed = True
        if changed:
            args, kwargs = keras.tree.pack_sequence_as(
                (record.args, record.kwargs), flat
            )
            record = dataclasses.replace(record, args=args, kwargs=kwargs)
        yield record


def _whole(
    variable: keras.Variable, inside: Sequence[keras.Layer]
) -> Parameter:
    """Returns a weight in the dtype in which the layer around uses it."""
    dtype = dtype_inside(inside[-1], variable) if inside else variable.dtype
    shape = tuple(variable.shape)
    axes = {axis: axis for axis, size in enumerate(shape) if size > 1}
    return Parameter(variable, shape, axes, None, dtype)


def _paths(records: Sequence[Record]) -> Iterator[str]:
    """Names that stay the same whenever a layer is followed."""
    seen: dict[str, int] = {}
    around = {record.inside[0] for record in records if record.inside}
    held = {id(each) for layer in around for each in layers_inside(layer)}
    for record in records:
        operation = record.operation
        named = isinstance(operation, Parameter)
        if isinstance(operation, keras.Layer):
            # One that the code makes in each call has a new name each time.
            named = id(operation) in held or bool(operation.variables)
        name = operation.name if named else _snake(type(operation).__name__)
        path = "/".join([*(each.name for each in record.inside[1:]), name])
        if not named:
            seen[path] = seen.get(path, 0) + 1
            if seen[path] > 1:
                path = f"{path}_{seen[path]}"
        yield path


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower()


def filled(arguments: Any, values: Sequence[Any]) -> Any:
    """Returns arguments with values for their symbolic tensors."""
    remaining = iter(values)
    flat = [
        next(remaining) if isinstance(each, keras.KerasTensor) else each
        for each in keras.tree.flatten(arguments)
    ]
    return keras.tree.pack_sequence_as(arguments, flat)


def _tensors(arguments: Any) -> list[keras.KerasTensor]:
    return [
        each
        for each in keras.tree.flatten(arguments)
        if isinstance(each, keras.KerasTensor)
    ]


def concrete(shape: tuple, length: int) -> tuple[int, ...]:
    """Returns a shape with sizes for those that are not known."""
    sizes = [length if size is None else size for size in shape]
    if sizes and shape[0] is None:
        sizes[0] = BATCH
    return tuple(sizes)


def _key(arguments: Any, opened: Callable) -> tuple | None:
    """Returns what an expansion depends on; `None` if that is not known."""
    parts: list[Any] = []
    for each in keras.tree.flatten(arguments):
        if isinstance(each, keras.KerasTensor):
            parts.append((tuple(each.shape), each.dtype))
        elif each is None or isinstance(each, (bool, int, float, str)):
            parts.append(each)
        else:
            return None
    return opened, *parts, len(arguments[0]), tuple(sorted(arguments[1]))


def blame(error: BaseException) -> str:
    """Returns the line that failed, of code that is not some library's."""
    if isinstance(error, NotFollowed):
        return str(error)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(
            f"/site-packages/{name}/" in frame.filename for name in INSTALLED
        )
        and "keras_apoptosis" not in Path(frame.filename).parts
    ]
    text = str(error).strip().split("\n")[0][:120]
    what = f"{type(error).__name__}: {text}"
    if not frames:
        return f"cannot be followed ({what})"
    last = frames[-1]
    return (
        f"cannot be followed beyond `{last.line}` "
        f"({Path(last.filename).name}:{last.lineno}; {what})"
    )

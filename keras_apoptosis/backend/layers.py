"""Reads and changes the private state of layers."""

from __future__ import annotations

import contextlib
import inspect
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.saving.serialization_lib import SafeModeScope

PARTS = (
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)


@contextlib.contextmanager
def unlocked(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets a layer that is already built take new variables.

    Keras locks a layer's tracker once the layer is built, so that no variable
    is created by accident in `call`. The lock is as it was afterwards.

    Args:
        layer: The layer.
    """
    tracker = layer._tracker
    was_locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if was_locked:
            tracker.lock()


def set_shape(tensor: keras.KerasTensor, shape: tuple) -> None:
    """Corrects the recorded shape of a tensor of a model's graph."""
    tensor._shape = tuple(shape)


def set_attributes(thing: Any, attributes: Mapping[str, Any]) -> None:
    """Sets plain attributes, unseen by Keras' and the backend's trackers."""
    for name, value in attributes.items():
        thing.__dict__[name] = value


def build_shapes(layer: keras.Layer) -> dict[str, Any] | None:
    """Returns the arguments of a layer's `build`, or `None`."""
    return layer._build_shapes_dict


def built_with(shapes: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the attribute that records the arguments of a layer's `build`."""
    return {"_build_shapes_dict": shapes}


def config_of(layer: keras.Layer) -> dict[str, Any]:
    """Returns the config of a layer, or of a function's record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return layer.get_config()


def pristine(
    layer: keras.Layer,
    changes: Mapping[tuple, Any],
    shapes: Any,
    call: Callable[[keras.Layer], None] | None = None,
) -> tuple[keras.Layer, list[tuple]]:
    """Builds a new layer of the same class, without values.

    Args:
        layer: The layer to take after.
        changes: Entries of its config to change, by path.
        shapes: Arguments for `build`, or `None` where it was never called
            with any.
        call: What to do with the new layer once it is built; layers that
            build what they hold only when they are called need it.

    Returns:
        The new layer and the shapes of its variables, in order.
    """
    config = changed_config({**layer.get_config(), **_live(layer)}, changes)
    if config.get("stateful"):  # Its states cannot be made without values.
        config["stateful"] = False
    with (
        made_without_values(),
        custom_parts(layer),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        twin = _made_of(type(layer), config)
        if shapes is not None and not twin.built:
            twin.build(**shapes)
        if call is not None:
            call(twin)
        found = [tuple(variable.shape) for variable in twin.variables]
    return twin, found


def copy_of(
    operation: keras.Operation, name: str, changes: Mapping[str, Any]
) -> keras.Operation:
    """Makes a layer or function again of its config, not built yet.

    Args:
        operation: What to take after.
        name: The name of the copy.
        changes: Other entries of its config to change.
    """
    if not isinstance(operation, keras.Layer):
        made = type(operation).from_config(
            {**operation.get_config(), **changes}
        )
        made.name = name
        return made
    try:
        config = config_of(operation)
    except NotImplementedError:
        kind = type(operation)
        if {*inspect.signature(kind.__init__).parameters} - {"self", "kwargs"}:
            raise
        # Keras makes no config of a dtype that is given as an object.
        return kind(
            name=name,
            dtype=operation.dtype_policy.name,
            trainable=operation.trainable,
        )
    config |= {**_live(operation), **changes, "name": name}
    with custom_parts(operation):
        return _made_of(type(operation), _without_build_shapes(config))


def _made_of(kind: Any, config: dict[str, Any]) -> keras.Layer:
    """Makes a layer of its config, some of which are live objects."""
    if kind is keras.layers.Lambda and callable(config["function"]):
        return kind(**config)  # `from_config` wants a function as text.
    return kind.from_config(config)


def parts_of(layer: keras.Layer) -> dict[str, Any]:
    """Returns a layer's initializers, regularizers and constraints, by name."""
    return {
        name: value
        for name, value in layer.__dict__.items()
        if isinstance(value, PARTS)
    }


def held_parts(weight: keras.Variable, part: Any, new: Any) -> dict[str, Any]:
    """Returns attributes by which a weight holds a part, with another part.

    Keras regularizes and constrains weights by these, not by the layer's.
    """
    names = ("_regularizer", "_constraint")
    return {name: new for name in names if getattr(weight, name, None) is part}


def _live(layer: keras.Layer) -> dict[str, Any]:
    """Returns parts and functions that need not be read from a config.

    Reading them may fail, as for lambdas, or take long, as for arrays.
    """
    names = inspect.signature(type(layer).__init__).parameters
    return {
        name: value
        for name, value in layer.__dict__.items()
        if name in names and isinstance(value, (types.FunctionType, *PARTS))
    }


@contextlib.contextmanager
def made_without_values() -> Iterator[None]:
    """Lets layers be made whose variables have shapes, but no values."""
    waiting = global_state.get_global_attribute("uninitialized_variables", [])
    before = list(waiting)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Else Keras would give the variables values at its next chance.
        global_state.set_global_attribute("uninitialized_variables", before)


@contextlib.contextmanager
def custom_parts(layer: keras.Layer) -> Iterator[None]:
    """Lets the config of a layer be read that names unregistered objects.

    Those are initializers, regularizers, constraints and functions, also
    lambdas, that the layer, or layers in it, have already. They need not be
    registered where nothing is saved.

    Args:
        layer: The layer.
    """
    found: dict[str, Any] = {}
    for each in layer._flatten_layers():
        found[type(each).__name__] = type(each)
        for value in each.__dict__.values():
            for part in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(part, types.FunctionType):
                    found[part.__name__] = part
                elif isinstance(part, PARTS):
                    found[type(part).__name__] = type(part)
    own = {
        name: part
        for name, part in found.items()
        # Not Keras' own: it has a layer and a function of one name.
        if not part.__module__.startswith("keras.")
    }
    with keras.saving.custom_object_scope(own), SafeModeScope(False):
        yield


def changed_config(
    config: Mapping[str, Any], changes: Mapping[tuple, Any]
) -> dict[str, Any]:
    """Changes entries of a config, and drops recorded build shapes.

    Args:
        config: The config; it is left as it is.
        changes: New entries, by path: keys of dictionaries and indices of
            lists.
    """
    new: dict[str, Any] = _without_build_shapes(config)
    for (first, *rest), value in changes.items():
        new[first] = _changed(new[first], rest, value)
    return new


def function_attributes(
    function: keras.Operation, changes: Mapping[tuple, Any]
) -> dict[str, Any]:
    """Returns changed attributes of a function of a graph (not a layer).

    Keras records the arguments it was made with, apart from its attributes.

    Args:
        function: The operation.
        changes: New values, by path: the attribute's name and indices.
    """
    new: dict[str, Any] = {}
    for (name, *rest), value in changes.items():
        old = new.get(name, getattr(function, name))
        new[name] = _changed(old, rest, value)
    recorded = function._auto_config
    if recorded is not None:
        new["_auto_config"] = type(recorded)(**{**recorded.config, **new})
    return new


def plain_attributes(layer: keras.Layer) -> dict[str, Any]:
    """Returns a layer's attributes that are numbers, shapes, specs and such."""
    return {
        name: value
        for name, value in layer.__dict__.items()
        if _is_plain(value)
    }


def own_settings(layer: keras.Layer) -> dict[str, Any]:
    """Returns the attributes of a layer that its config is made of.

    Those are what Keras recorded of its class' arguments, and its plain
    attributes of the names of config entries.

    Args:
        layer: The layer.
    """
    try:
        config = config_of(layer)
    except Exception:  # It has none, or its class fails.
        config = {}
    plain = plain_attributes(layer)
    found = {name: plain[name] for name in config if name in plain}
    return {**found, "_auto_config": layer._auto_config}


def differences(
    live: keras.Layer, old: keras.Layer, new: keras.Layer
) -> dict[str, Any]:
    """Returns what a layer takes over from a twin of other settings.

    Args:
        live: The layer.
        old: A twin as the layer is.
        new: A twin as it becomes.

    Returns:
        Plain attributes in which the twins differ, and the recorded arguments
        of its class where Keras makes its config of them. Names, which Keras
        numbers anew for each twin, stay.
    """
    before = plain_attributes(old)
    found = {
        name: patched(live.__dict__[name], before[name], value)
        for name, value in plain_attributes(new).items()
        if name in before
        and name in live.__dict__
        and name not in ("name", "_path", "_parent_path")
        and not is_same(before[name], value)
    }
    recorded = [each._auto_config for each in (live, old, new)]
    if None not in recorded:
        own, one, other = (each.config for each in recorded)
        if one != other:
            changed = {
                name: patched(value, one.get(name), other.get(name))
                for name, value in own.items()
            }
            found["_auto_config"] = type(recorded[0])(**changed)
    return found


def is_same(one: Any, other: Any) -> bool:
    """Returns whether two attributes of layers are equal, types included."""
    if isinstance(one, keras.InputSpec) and isinstance(other, keras.InputSpec):
        return vars(one) == vars(other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and one == other


def with_sizes(
    value: Any, before: Sequence[tuple], after: Sequence[tuple]
) -> Any:
    """Returns recorded shapes, with the sizes that changed.

    Args:
        value: A shape, or a structure of shapes, with `None` for sizes that
            are not known.
        before: Shapes that were, one for each shape in the structure.
        after: Shapes that are.
    """
    pairs = iter(zip(before, after, strict=False))

    def new(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: new(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            if not all(each is None or isinstance(each, int) for each in value):
                return type(value)(new(each) for each in value)
            one, other = next(pairs, (value, value))
            return patched(value, one, other)
        return value

    return new(value)


def patched(value: Any, before: Any, after: Any) -> Any:
    """Changes in a value what differs between two others, as they differ."""
    if isinstance(after, Mapping) and isinstance(value, Mapping):
        if isinstance(before, Mapping) and value.keys() == after.keys():
            if before.keys() != after.keys():
                return after
            return {
                k: patched(v, before[k], after[k]) for k, v in value.items()
            }
    elif isinstance(after, (list, tuple)) and isinstance(value, (list, tuple)):
        if isinstance(before, (list, tuple)) and (
            len(value) == len(before) == len(after)
        ):
            return type(value)(
                patched(*each)
                for each in zip(value, before, after, strict=True)
            )
    elif isinstance(after, keras.InputSpec) and isinstance(
        value, keras.InputSpec
    ):
        new = keras.InputSpec()
        for name, each in vars(value).items():
            new.__dict__[name] = patched(
                each, vars(before).get(name), vars(after).get(name)
            )
        return new
    if isinstance(after, np.ndarray) or isinstance(before, np.ndarray):
        return value if np.array_equal(before, after) else after
    return value if before == after else after


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
    if type(value).__name__ == "TensorShape":  # Of TensorFlow, on TensorFlow.
        return True
    return value is None or isinstance(
        value,
        (bool, int, float, str, np.ndarray, np.generic, keras.InputSpec),
    )


def _without_build_shapes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_build_shapes(each)
            for key, each in value.items()
            if key != "build_config"
        }
    if isinstance(value, (list, tuple)):
        return type(value)([_without_build_shapes(each) for each in value])
    return value


def changed(value: Any, path: Sequence[Any], new: Any) -> Any:
    """Returns a structure in which one entry is another."""
    return _changed(value, path, new)


def _changed(value: Any, path: Sequence[Any], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, Mapping):
        return {**value, first: _changed(value[first], rest, new)}
    parts = list(value)
    parts[first] = _changed(parts[first], rest, new)
    return type(value)(parts)

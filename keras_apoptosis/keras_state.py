"""Changes Keras' private state: the one file that writes to it.

Everything here was measured on Keras 3.15; `tests/test_keras_state.py` fails
if a later Keras keeps its state otherwise.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state


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


def resize_variable(variable: keras.Variable, value: np.ndarray) -> None:
    """Gives a variable a value of another shape; it stays the same object.

    Trackers, the optimizer's list and the variable's path stay valid.
    """
    _restore(variable, _new_value(variable, value), tuple(value.shape))


def peek(variable: keras.Variable) -> np.ndarray:
    """The value of a variable, to read only: not copied where possible."""
    value = variable.value
    if keras.backend.backend() == "torch" and variable.dtype != "bfloat16":
        return value.detach().cpu().numpy()
    return keras.ops.convert_to_numpy(value)


def remember(variable: keras.Variable) -> Callable[[], None]:
    """Returns what gives a variable its present value and shape back."""
    value, shape = variable._value, tuple(variable.shape)
    return lambda: _restore(variable, value, shape)


def set_shape(tensor: keras.KerasTensor, shape: tuple) -> None:
    """Corrects the recorded shape of a tensor of a model's graph."""
    tensor._shape = tuple(shape)


def set_attributes(thing: Any, attributes: Mapping[str, Any]) -> None:
    """Sets plain attributes, unseen by Keras' and the backend's trackers."""
    for name, value in attributes.items():
        thing.__dict__[name] = value


def build_shapes(layer: keras.Layer) -> dict[str, Any] | None:
    """The arguments that a layer's `build` was called with, or `None`."""
    return layer._build_shapes_dict


def built_with(shapes: dict[str, Any] | None) -> dict[str, Any]:
    """The attribute that records the arguments of a layer's `build`."""
    return {"_build_shapes_dict": shapes}


def pristine(
    layer: keras.Layer, changes: Mapping[tuple, Any], shapes: Any
) -> tuple[keras.Layer, list[tuple]]:
    """A new layer of the same class, built but without values.

    Args:
        layer: The layer to take after.
        changes: Entries of its config to change, by path.
        shapes: Arguments for `build`, or `None` where it was never called
            with any.

    Returns:
        The new layer and the shapes of its variables, in order.
    """
    config = changed_config(layer.get_config(), changes)
    if config.get("stateful"):  # Its states cannot be made without values.
        config["stateful"] = False
    waiting = global_state.get_global_attribute("uninitialized_variables", [])
    before = list(waiting)
    with keras.StatelessScope(initialize_variables=False):
        twin = type(layer).from_config(config)
        if shapes is not None:
            twin.build(**shapes)
        found = [tuple(variable.shape) for variable in twin.variables]
    # Else Keras would give the twin's variables values at its next chance.
    global_state.set_global_attribute("uninitialized_variables", before)
    return twin, found


def changed_config(
    config: Mapping[str, Any], changes: Mapping[tuple, Any]
) -> dict[str, Any]:
    """A config with other entries, and without recorded build shapes.

    Args:
        config: The config; it is left as it is.
        changes: New entries, by path: keys of dictionaries and indices of
            lists.
    """
    config = _without_build_shapes(config)
    for (first, *rest), value in changes.items():
        config[first] = _changed(config[first], rest, value)
    return config


def function_attributes(
    function: keras.Operation, changes: Mapping[tuple, Any]
) -> dict[str, Any]:
    """Attributes of a function of a graph (no layer) with other settings.

    Keras records the arguments it was made with, apart from its attributes.

    Args:
        function: The operation.
        changes: New values, by path: the attribute's name and indices.
    """
    new = {}
    for (name, *rest), value in changes.items():
        old = new.get(name, getattr(function, name))
        new[name] = _changed(old, rest, value)
    recorded = function._auto_config
    if recorded is not None:
        new["_auto_config"] = type(recorded)(**{**recorded.config, **new})
    return new


def plain_attributes(layer: keras.Layer) -> dict[str, Any]:
    """Attributes of a layer that are plain data: numbers, shapes, specs."""
    return {
        name: value
        for name, value in layer.__dict__.items()
        if _is_plain(value)
    }


def slots_of(
    optimizer: keras.Optimizer, variables: Sequence[keras.Variable]
) -> list[tuple[keras.Variable, list[tuple[int, int] | None]]]:
    """Which variables of an optimizer belong to which of the model.

    It lets a fresh optimizer of the same class build itself on stand-ins
    whose shapes remember where each number comes from, so that it holds for
    any optimizer, however it derives the shapes of its slots.

    Args:
        optimizer: A built optimizer.
        variables: The model's trainable variables, as it was built with.

    Returns:
        For each of its variables that follows the model: the variable and,
        for each of its axes, `(index into variables, axis)`, or `None` for an
        axis of its own.

    Raises:
        ValueError: If the optimizer builds other variables than it has.
    """
    twin = type(optimizer).from_config(optimizer.get_config())
    for each in _with_inner(twin):
        for name, value in (
            ("add_variable", functools.partial(_add_stand_in, each)),
            (
                "add_variable_from_reference",
                functools.partial(_add_stand_in_from_reference, each),
            ),
            ("assign", lambda variable, value: None),
        ):
            each.__dict__[name] = value
    twin.build([_Reference(v, i) for i, v in enumerate(variables)])
    with _only_saved(optimizer):
        own = optimizer.variables
    built = twin.variables
    if len(own) != len(built):
        raise ValueError(
            f"Cannot tell which variables of optimizer '{optimizer.name}' "
            f"belong to which weights: it has {len(own)}, a new one builds "
            f"{len(built)}. Received: optimizer={optimizer}"
        )
    found = []
    for variable, slot in zip(own, built, strict=True):
        if isinstance(slot, _StandIn):
            axes = [getattr(size, "origin", None) for size in slot.shape]
            if any(axis is not None for axis in axes):
                found.append((variable, axes))
    return found


def weights_of(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """The model's variables that an optimizer was built with, in order."""
    return list(optimizer._trainable_variables)


def steps_of(optimizer: keras.Optimizer) -> keras.Variable:
    """How often an optimizer was applied.

    Where it accumulates gradients, its `iterations` count updates instead.
    """
    return optimizer._iterations


def innermost(optimizer: keras.Optimizer) -> keras.Optimizer:
    """The optimizer that updates weights: the one that another wraps."""
    *_, last = _with_inner(optimizer)
    return last


def add_unsaved_variable(
    optimizer: keras.Optimizer, value: Any, dtype: Any = None
) -> keras.Variable:
    """Gives an optimizer a variable that its steps see and no file does.

    A step on JAX knows the variables of the optimizer's list only; other
    backends know every variable. Saving and loading see the list without it.

    Args:
        optimizer: A built optimizer; of one that wraps another, the outer.
        value: The first value.
        dtype: The type; that of floats by default.
    """
    variable = keras.Variable(
        np.asarray(value), dtype=dtype, trainable=False, name="unsaved"
    )
    if keras.backend.backend() == "jax":
        inner = innermost(optimizer)
        inner._variables.append(variable)
        unsaved = [*inner.__dict__.get("_unsaved", ()), variable]
        set_attributes(inner, {"_unsaved": unsaved})
        for each in _with_inner(optimizer):
            for name in _STORING:
                method = functools.partial(_without_unsaved, each, name)
                set_attributes(each, {name: method})
    return variable


def drop_unsaved_variables(optimizer: keras.Optimizer) -> None:
    """Takes the variables of `add_unsaved_variable` from an optimizer."""
    for each in _with_inner(optimizer):
        if "_unsaved" in each.__dict__:
            each._variables[:] = _saved(each)
        for name in ("_unsaved", *_STORING):
            each.__dict__.pop(name, None)


def reindex(optimizer: keras.Optimizer) -> None:
    """Lets an optimizer find its variables again after they changed.

    TensorFlow knows them by the backend's variable, which is a new one.
    """
    for each in _with_inner(optimizer):
        if each.built:
            each._trainable_variables_indices = {
                each._var_key(variable): index
                for index, variable in enumerate(each._trainable_variables)
            }


def track_again(layer: keras.Layer) -> None:
    """Lets PyTorch see the new parameters of a layer, or of a model."""
    if hasattr(layer, "_track_variables") and hasattr(layer, "_torch_params"):
        layer._track_variables()


def fetch(model: keras.Model) -> None:
    """Brings values that JAX trains outside the model back into it."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def hand_over(model: keras.Model) -> None:
    """Lets JAX go on training with the values that the model has now.

    Keras keeps the state after the last step beside the model, and puts it
    back where an epoch ends with data of unknown length.
    """
    if not getattr(model, "_jax_state", None):
        return
    owners = {
        "trainable_variables": (model, "trainable_variables"),
        "non_trainable_variables": (model, "non_trainable_variables"),
        "optimizer_variables": (model.optimizer, "variables"),
        "metrics_variables": (model, "metrics_variables"),
    }
    model._jax_state = {
        name: [variable.value for variable in getattr(*owners[name])]
        for name in model._jax_state
    }


def forget_compiled(model: keras.Model) -> None:
    """Drops compiled steps, which would go on with the old variables."""
    model.test_function = None
    model.predict_function = None
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)


def distribution_of(model: keras.Model) -> Any:
    """What distributes the model over devices, or `None`."""
    if keras.distribution.distribution() is not None:
        return keras.distribution.distribution()
    strategy = getattr(model, "_distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        return strategy
    for variable in model.variables:
        strategy = getattr(variable._value, "distribute_strategy", None)
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            return strategy
    return None


class _Size(int):
    """A size that remembers whose it is: `(variable, axis)`."""

    origin: tuple[int, int]


class _Reference:
    """Stands in for a model's variable while an optimizer builds itself."""

    def __init__(self, variable: keras.Variable, index: int):
        self._variable = variable
        self._unique_id = id(self)  # By which TensorFlow's optimizers know it.
        sizes = []
        for axis, size in enumerate(variable.shape):
            sizes.append(_Size(size))
            sizes[-1].origin = (index, axis)
        self.shape = tuple(sizes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._variable, name)


class _StandIn:
    """Stands in for an optimizer's variable; only its shape is known."""

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)


def _add_stand_in(optimizer, shape, *args, **kwargs) -> _StandIn:
    slot = _StandIn(shape)
    optimizer._track_variable(slot)
    return slot


def _add_stand_in_from_reference(
    optimizer, reference_variable, *args, **kwargs
) -> _StandIn:
    return _add_stand_in(optimizer, reference_variable.shape)


_STORING = ("save_own_variables", "load_own_variables")


def _saved(optimizer: keras.Optimizer) -> list[keras.Variable]:
    unsaved = {id(each) for each in optimizer.__dict__.get("_unsaved", ())}
    return [each for each in optimizer._variables if id(each) not in unsaved]


@contextlib.contextmanager
def _only_saved(optimizer: keras.Optimizer) -> Iterator[None]:
    """Hides the variables of `add_unsaved_variable`."""
    inner = innermost(optimizer)
    if "_unsaved" not in inner.__dict__:
        yield
        return
    every = list(inner._variables)
    inner._variables[:] = _saved(inner)
    try:
        yield
    finally:
        inner._variables[:] = every


def _without_unsaved(optimizer: keras.Optimizer, name: str, store: Any) -> Any:
    with _only_saved(optimizer):
        return getattr(type(optimizer), name)(optimizer, store)


def _with_inner(optimizer: keras.Optimizer) -> Iterator[keras.Optimizer]:
    """An optimizer and those that it wraps."""
    yield optimizer
    for value in list(vars(optimizer).values()):
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(each, keras.Optimizer):
                yield from _with_inner(each)


def _new_value(variable: keras.Variable, value: np.ndarray) -> Any:
    """`value` in the form in which the backend keeps a variable's value."""
    holder = variable._value
    variable._initialize(_tensor(variable, value))
    made, variable._value = variable._value, holder
    return made


def _tensor(variable: keras.Variable, value: np.ndarray) -> Any:
    if keras.backend.backend() == "torch" and value.dtype == variable._dtype:
        import torch

        # Keras would copy it once more.
        return torch.from_numpy(np.ascontiguousarray(value))
    return keras.ops.convert_to_tensor(value, dtype=variable._dtype)


def _restore(variable: keras.Variable, value: Any, shape: tuple) -> None:
    variable._value = value
    variable._shape = shape


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(each) for each in value)
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


def _changed(value: Any, path: Sequence[Any], new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, Mapping):
        return {**value, first: _changed(value[first], rest, new)}
    parts = list(value)
    parts[first] = _changed(parts[first], rest, new)
    return type(value)(parts)

"""Plain models to prunable ones, and back."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers, ops

from keras_apoptosis.backend import as_function, kernel_mask_of, models_of
from keras_apoptosis.graph.reading import read
from keras_apoptosis.layers import (
    FeatureSelection,
    PrunableActivation,
    PrunableConv1D,
    PrunableConv2D,
    PrunableConv3D,
    PrunableDense,
)
from keras_apoptosis.surgery.compilation import compile_alike
from keras_apoptosis.utils.checks import check_size

PLAIN = {
    PrunableActivation: layers.Activation,
    PrunableConv1D: layers.Conv1D,
    PrunableConv2D: layers.Conv2D,
    PrunableConv3D: layers.Conv3D,
    PrunableDense: layers.Dense,
}
# An activation is converted only where it follows a BatchNormalization.
PRUNABLE = {
    plain: prunable
    for prunable, plain in PLAIN.items()
    if prunable is not PrunableActivation
}
ADDED_CONFIG = ("activity_tolerance", "axis", "masked", "track_statistics")
RELU_DEFAULTS = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}


def make_prunable(
    model: keras.Model,
    track_statistics: bool = False,
    activity_tolerance: float = 0.0,
) -> keras.Model:
    """Makes a copy of a model with Prunable layers in place of plain ones.

    `Dense`, `Conv1D`, `Conv2D` and `Conv3D` become their Prunable kind. An
    `Activation`, or a `ReLU` with default arguments, becomes a
    `PrunableActivation` where it follows a `BatchNormalization` directly, in
    all of its calls. Names, weights and outputs stay the same.

    Everything else is copied as it is: subclasses of these layers, quantized
    layers, layers inside of wrappers (`TimeDistributed`, `Bidirectional`) and
    of custom layers, other kinds of `ReLU`, `LeakyReLU` and the like. Layers
    that are Prunable already stay so, with their mask and statistics; those
    that keep no statistics start to when `track_statistics` is `True`.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
            It is left as it is. The copy of a subclass of the two is a
            Sequential or Functional model.
        track_statistics: Boolean, whether the Prunable layers keep statistics
            of their activations. Defaults to `False`.
        activity_tolerance: Float, at least 0. A sample counts as active where
            the absolute activation is above it. Defaults to `0.0`.

    Returns:
        A new model. If `model` is compiled, so is the new one, in the same
        way; its optimizer is a copy, with the same state.

    Raises:
        ValueError: If `model` is no Keras model, is not built, or is a
            subclassed model, whose layers cannot be exchanged; or if
            `activity_tolerance` is out of range.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden")]
    ... )
    >>> prunable = ka.make_prunable(model, track_statistics=True)
    >>> type(prunable.get_layer("hidden")).__name__
    'PrunableDense'
    """
    unit_axes = _axes_after_normalization(model)
    check_size("activity_tolerance", activity_tolerance)
    tracking = {
        "track_statistics": track_statistics,
        "activity_tolerance": activity_tolerance,
    }

    def convert(layer: Any) -> Any:
        kind, config = type(layer), layer.get_config()
        if kind in PLAIN and not layer.track_statistics:
            config.update(tracking)
        elif kind in PRUNABLE and layer.quantization_mode is None:
            kind = PRUNABLE[kind]
            config.update(tracking)
        elif layer in unit_axes and _is_plain_activation(layer):
            kind = PrunableActivation
            for name in RELU_DEFAULTS:
                config.pop(name, None)
            config.setdefault("activation", "relu")
            config.update(tracking, axis=unit_axes[layer])
        return kind.from_config(config)

    return _converted(model, convert)


def strip_pruning(model: keras.Model) -> keras.Model:
    """Makes a copy of a model with plain layers in place of Prunable ones.

    The masks are folded into the kernels, so the outputs are the same; masks
    and statistics themselves are gone. What is saved of the copy loads where
    keras_apoptosis is not installed. LoRA matrices of a masked layer are
    folded into its kernel as well. A `FeatureSelection` becomes
    `keras.ops.take`, and a Sequential model that has one a Functional model.
    Subclasses of these layers stay.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
            It is left as it is.

    Returns:
        A new model. If `model` is compiled, so is the new one, in the same
        way; its optimizer is a copy, with the same state.

    Raises:
        ValueError: If `model` is no Keras model, is not built, or is a
            subclassed model, whose layers cannot be exchanged.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), ka.layers.PrunableDense(3, name="hidden")]
    ... )
    >>> type(ka.strip_pruning(model).get_layer("hidden")).__name__
    'Dense'
    """
    read(model)  # Raises where the layers cannot be exchanged.

    def convert(layer: Any) -> Any:
        kind, config = type(layer), layer.get_config()
        if kind in PLAIN:
            if config.get("masked"):
                config.pop("lora_rank", None)
                config.pop("lora_alpha", None)
            for name in ADDED_CONFIG:
                config.pop(name, None)
            kind = PLAIN[kind]
        elif kind is FeatureSelection:
            return functools.partial(_select, layer.indices, layer.axis)
        return kind.from_config(config)

    return _converted(model, convert)


def _select(indices: list[int] | None, axis: int, inputs: Any) -> Any:
    return inputs if indices is None else ops.take(inputs, indices, axis)


def _is_plain_activation(layer: Any) -> bool:
    if type(layer) is layers.ReLU:
        config = layer.get_config()
        return all(config[k] == value for k, value in RELU_DEFAULTS.items())
    return type(layer) is layers.Activation


def _axes_after_normalization(model: keras.Model) -> dict[Any, int]:
    """Finds layers that always follow a BatchNormalization, with its axis."""
    axis_of_tensor: dict[int, int] = {}
    axes: dict[Any, set[int | None]] = {}
    for step in read(model).steps:
        if step.node is None:  # The border of a nested model.
            for before, behind in zip(step.read, step.outputs, strict=True):
                if before in axis_of_tensor:
                    axis_of_tensor[behind] = axis_of_tensor[before]
        elif isinstance(step.operation, layers.BatchNormalization):
            axis_of_tensor[step.outputs[0]] = step.operation.axis
        elif step.read:
            axis = axis_of_tensor.get(step.read[0])
            axes.setdefault(step.operation, set()).add(axis)
    return {
        layer: axis
        for layer, (axis, *others) in axes.items()
        if axis is not None and not others
    }


def _converted(
    model: keras.Model, convert: Callable[[Any], Any]
) -> keras.Model:
    # `clone_model` would compile the clone by its serialized arguments, which
    # custom losses do not survive, and without the optimizer's state.
    with _seen_as_uncompiled(model):
        clone = _cloned(model, convert, {})
    copy_state(model, clone)
    compile_alike(model, clone)
    return clone


def _cloned(
    model: keras.Model,
    convert: Callable[[Any], Any],
    made: dict[int, Any],
) -> keras.Model:
    """Clones a model and those in it; `made` has the copies by layer."""

    def copy(layer: Any) -> Any:
        if id(layer) not in made:
            nested = as_function(layer) is not None
            made[id(layer)] = (
                _cloned(layer, convert, made) if nested else convert(layer)
            )
        return made[id(layer)]

    copies = [copy(layer) for layer in model.layers]
    if all(isinstance(each, layers.Layer) for each in copies):
        return keras.models.clone_model(model, clone_function=copy)
    # A Sequential model cannot hold a function.
    clone = keras.models.clone_model(as_function(model), clone_function=copy)
    clone.name = model.name
    return clone


@contextlib.contextmanager
def _seen_as_uncompiled(model: keras.Model) -> Iterator[None]:
    compiled = [each for each in models_of(model) if each.compiled]
    try:
        for each in compiled:
            each.compiled = False
        yield
    finally:
        for each in compiled:
            each.compiled = True


def copy_state(source: Any, target: Any) -> None:
    """Copies weights and all other state of a layer to its copy."""
    target.trainable = source.trainable
    if as_function(source) is not None:
        source, target = as_function(source), as_function(target)
        for old, new in zip(_inputs(source), _inputs(target), strict=True):
            # `clone_model` makes new names for inputs that were not given any.
            new.name = old.name
        copies = {layer.name: layer for layer in target.layers}
        for layer in source.layers:
            # What has become a function has no state.
            if layer.name in copies and not isinstance(
                layer, layers.InputLayer
            ):
                copy_state(layer, copies[layer.name])
        return
    for old, new in _pairs(source, target):
        # Through NumPy: on JAX two variables would share one buffer, which
        # training either model gives away.
        new.assign(ops.convert_to_numpy(old.value))
        new.trainable = old.trainable
    masked = kernel_mask_of(source) is not None
    if masked and kernel_mask_of(target) is None:
        target.kernel.assign(ops.convert_to_numpy(source.kernel))
    # Keras' protocol for layers that keep more than variables.
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)
    elif hasattr(target, "finalize_state"):
        target.finalize_state()


def _inputs(model: keras.Model) -> list[layers.InputLayer]:
    return [x for x in model.layers if isinstance(x, layers.InputLayer)]


def _pairs(
    source: layers.Layer, target: layers.Layer
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Pairs the variables of a layer with those of its copy."""
    olds = {variable.name: variable for variable in source.variables}
    news = {variable.name: variable for variable in target.variables}
    if type(source) in PLAIN or type(target) in PLAIN:
        # One may have a mask or statistics that the other has not.
        return [(olds[name], news[name]) for name in olds if name in news]
    if len(source.variables) != len(target.variables):
        raise ValueError(
            f"Cannot copy the weights of layer '{source.name}': made anew from "
            f"its config it has {len(target.variables)} variables instead of "
            f"{len(source.variables)}. Received: layer={source}"
        )
    if len(olds) == len(source.variables) and olds.keys() == news.keys():
        # Quantizing a layer may have changed the order.
        return [(olds[name], news[name]) for name in olds]
    # Layers made of others: their variables share names, or names are
    # numbered through.
    return list(zip(source.variables, target.variables, strict=True))

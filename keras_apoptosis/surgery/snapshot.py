"""Takes a copy of a model's state, and brings the model back to it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.backend import kernel_mask_of, kernel_of, layers_inside
from keras_apoptosis.backend.step_hooks import without_hooks
from keras_apoptosis.graph import analyse
from keras_apoptosis.layers.weight_mask import WeightMask
from keras_apoptosis.surgery.apply import (
    refresh,
    renew_training,
    set_other_shapes,
)
from keras_apoptosis.surgery.followed import tensors_of


def snapshot(model: keras.Model) -> Snapshot:
    """Takes a snapshot of a model, to which `restore()` brings it back.

    It may be taken, and restored, before or after `fit`, or from a callback
    between batches or epochs. An optimizer that is not built yet is built.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Returns:
        The `Snapshot`.

    Raises:
        ValueError: If the model's graph cannot be read, or the model is
            distributed over devices.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> before = ka.snapshot(model)
    >>> report = ka.shrink(model, ka.Removal({"hidden": [0, 1, 2]}))
    >>> before.restore()
    >>> model.layers[0].units
    8
    """
    return Snapshot(model)


class Snapshot:
    """Holds the state of a model: see `ka.snapshot`.

    That is the value of every weight, of the layers' random seeds and of
    every variable of the optimizer, to the last bit; the masks of Prunable
    layers; the sizes in the config of layers; and the shapes that Keras has
    recorded. It takes as much memory as the weights and the optimizer's
    variables, in the host's memory, and refers to the model itself.

    Metrics, the history of callbacks, `trainable` and the arguments of
    `compile` are not part of it.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.

    Attributes:
        nbytes: How many bytes it holds.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        backend.check_devices(model)
        graph = analyse(model).graph
        backend.sync_from_jax(model)
        self._optimizer = getattr(model, "optimizer", None)
        if self._optimizer is not None and not self._optimizer.built:
            self._optimizer.build(model.trainable_variables)
        # Copies: TensorFlow and PyTorch write into the values in place, and
        # JAX gives the memory of those that it trains away.
        self._values = [
            (variable, np.array(backend.peek(variable)))
            for variable in _variables(model)
        ]
        self._masks = [
            (layer, None if mask is None else np.array(backend.peek(mask)))
            for layer, mask in _maskable(model)
        ]
        tensors = [*graph.tensors]
        for expansion in graph.expansions:
            for layer in layers_inside(expansion.layer):
                tensors += tensors_of(layer)
        self._shapes = [(each, tuple(each.shape)) for each in tensors]
        operations = {
            id(step.operation): step.operation
            for step in graph.steps
            if step.expansion is None
            and isinstance(step.operation, keras.Layer)
        }
        operations |= {id(layer): layer for layer in graph.layers}
        self._attributes = [
            (part, _attributes_of(part))
            for operation in operations.values()
            for part in _parts(operation)
        ]
        # What functions are told of the places of units.
        self._told = [
            (part, dict(vars(part)))
            for step in graph.steps
            if step.expansion is None
            and step.node is not None
            and not isinstance(step.operation, keras.Layer)
            for part in (step.operation, step.node.arguments)
        ]
        self._attributes += self._told

    @property
    def nbytes(self) -> int:
        masks = [mask for _, mask in self._masks if mask is not None]
        return sum(each.nbytes for _, each in self._values) + sum(
            each.nbytes for each in masks
        )

    def restore(self) -> None:
        """Brings the model back to what it was.

        It stays the same object, and so do its layers, its weights and its
        optimizer. Units that were removed since are there again. Compiled
        steps are traced anew if shapes have changed, and kept if not. A
        snapshot can be restored several times.

        Raises:
            ValueError: If the model was compiled with another optimizer
                since, or has other weights (as after `quantize`). It is
                unchanged then.
        """
        model, optimizer = self._model, self._optimizer
        if getattr(model, "optimizer", None) is not optimizer:
            raise ValueError(
                "Expected the model with the optimizer that it had when the "
                "snapshot was taken: take a new one after `compile`. "
                f"Received: optimizer={getattr(model, 'optimizer', None)}"
            )
        own = [id(variable) for variable, _ in self._values]
        if own != [id(variable) for variable in _variables(model)]:
            raise ValueError(
                "Expected the model with the weights that it had when the "
                "snapshot was taken, whatever their values and shapes. "
                f"Received: model '{model.name}', which has other weights "
                "since"
            )
        backend.sync_from_jax(model)
        if self._fits():
            self._set_values()
        else:
            holders = self._holders()
            resized = {
                id(variable)
                for variable, value in self._values
                if tuple(variable.shape) != value.shape
            }
            replaced = [
                backend.held_value(variable)
                for variable, _ in self._values
                if id(variable) in resized
            ]
            with without_hooks(optimizer):
                self._set_values()
                for part, attributes in self._attributes:
                    now = _attributes_of(part)
                    old = {k: v for k, v in attributes.items() if k in now}
                    if repr(old) != repr({k: now[k] for k in old}):
                        resized.add(id(part))
                    backend.set_attributes(part, old)
                changed = set()
                for tensor, shape in self._shapes:
                    if tuple(tensor.shape) != shape:
                        changed.add(id(tensor))
                        backend.set_shape(tensor, shape)
                tensors = [tensor for tensor, _ in self._shapes]
                set_other_shapes(holders, tensors, changed, resized, [])
                refresh(holders)
            renew_training(holders)
            for each in replaced:
                backend.invalidate(each)
        backend.sync_to_jax(model)

    def _holders(self) -> backend.Holders:
        """Finds what must follow if shapes change, and checks that it can."""
        holders = backend.holders_of(self._model)
        if self._others(holders):
            gc.collect()  # One of an earlier `compile` is of no account.
            holders = backend.holders_of(self._model)
        for each in self._others(holders):
            raise ValueError(
                "Expected weights that no other optimizer trains, as the "
                "snapshot does not hold its state. Received: "
                f"{type(each).__name__} besides the optimizer of model "
                f"'{self._model.name}'"
            )
        return holders

    def _others(self, holders: backend.Holders) -> list[Any]:
        """Returns optimizers of the weights other than the model's."""
        every = (*holders.optimizers, *holders.torch_optimizers)
        return [each for each in every if each is not self._optimizer]

    def _fits(self) -> bool:
        """Returns whether all that compiled steps depend on is unchanged."""
        return (
            all(
                tuple(variable.shape) == value.shape
                for variable, value in self._values
            )
            and all(
                (mask is None) == (kernel_mask_of(layer) is None)
                for layer, mask in self._masks
            )
            and all(
                vars(part).get(name) is value
                for part, attributes in self._told
                for name, value in attributes.items()
            )
        )

    def _set_values(self) -> None:
        for layer, mask in self._masks:
            if mask is None and kernel_mask_of(layer) is not None:
                layer.set_mask(None)
        for variable, value in self._values:
            _set(variable, value)
        values = {id(variable): value for variable, value in self._values}
        for layer, mask in self._masks:
            if mask is not None and kernel_mask_of(layer) is None:
                layer.set_mask(mask)
                # It zeroes what is behind the mask, which may have been
                # another value.
                kernel = kernel_of(layer)
                _set(kernel, values[id(kernel)])
            elif mask is not None:
                _set(kernel_mask_of(layer), mask)


def _set(variable: keras.Variable, value: np.ndarray) -> None:
    if tuple(variable.shape) == value.shape:
        variable.assign(value)
    else:
        backend.resize_variable(variable, value.copy())


def _variables(model: keras.Model) -> list[keras.Variable]:
    """Returns all variables, except masks, which come and go."""
    masks = {id(mask) for _, mask in _maskable(model)}
    # Keras does not list the states of recurrent layers.
    states = [
        state
        for layer in layers_inside(model)
        if getattr(layer, "stateful", False)
        for state in keras.tree.flatten(getattr(layer, "states", None) or [])
    ]
    every = {id(each): each for each in [*model.variables, *states]}
    found = [each for key, each in every.items() if key not in masks]
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        with backend.only_saved(optimizer):
            found += optimizer.variables
    return found


def _maskable(
    model: keras.Model,
) -> list[tuple[WeightMask, keras.Variable | None]]:
    return [
        (layer, kernel_mask_of(layer))
        for layer in layers_inside(model)
        if isinstance(layer, WeightMask)
    ]


def _parts(operation: keras.Layer) -> Iterator[Any]:
    """Returns what a removal may change: a model, or a layer with its own."""
    if isinstance(operation, keras.Model) and backend.is_nested(operation):
        yield operation
    else:
        yield from layers_inside(operation)


def _attributes_of(part: Any) -> dict[str, Any]:
    """Returns the attributes that follow sizes, as they are."""
    if isinstance(part, keras.Model):
        return {
            **backend.built_with(backend.build_shapes(part)),
            **backend.own_settings(part),
        }
    if isinstance(part, keras.Layer):
        found = backend.plain_attributes(part) | backend.own_settings(part)
        found.pop("_trainable", None)  # Weights and layers have it, too.
        return found
    return dict(vars(part))

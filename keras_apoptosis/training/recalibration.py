"""Computes the moving statistics of normalization layers anew, from data."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_apoptosis import backend
from keras_apoptosis.distributed import collectives
from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.streaming import batches
from keras_apoptosis.utils.checks import check_count


@dataclasses.dataclass(frozen=True)
class Recalibration:
    """Reports what `recalibrate` did.

    Args:
        layers: Names of the layers whose statistics were computed anew.
        samples: Number of samples they were computed from.
        skipped: Names of the other normalization layers that have moving
            statistics, each with the reason.
    """

    layers: tuple[str, ...]
    samples: int
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        count = len(self.layers)
        noun = "layer" if count == 1 else "layers"
        lines = [
            f"Recalibrated {count} normalization {noun} on {self.samples} "
            "samples."
        ]
        lines += [
            f"Skipped {name}: {reason}."
            for name, reason in self.skipped.items()
        ]
        return "\n".join(lines)


def recalibrate(
    model: keras.Model,
    data: Any,
    *,
    samples: int | None = 4096,
    batch_size: int = 512,
) -> Recalibration:
    """Computes the moving mean and variance of normalization layers anew.

    `BatchNormalization` normalizes with the statistics of each batch in
    training, and with moving averages of them in inference. The averages lag
    behind: after units were removed, or after a few steps with a high
    learning rate, inference may be far worse than training. This function
    replaces the averages by the exact mean and variance over the data.

    The model runs as in inference (no dropout, no augmentation), except that
    each `BatchNormalization` normalizes with the statistics of the batch, so
    that one pass serves layers that follow each other. Nothing but the moving
    statistics changes: neither weights nor optimizer, seeds, metrics or
    statistics of activations. Masked positions do not count. Layers with
    `trainable=False` keep their statistics.

    It may be called between batches or epochs of `fit`, from a callback. On
    several workers all must call it, each with its own share of the data;
    all get the statistics over all shares.

    Args:
        model: A built model of any kind: Sequential, Functional or subclassed.
        data: Training data: arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a `DataLoader` or a generator of batches.
            Of tuples `(x, y, ...)` only `x` is used.
        samples: Integer > 0, the maximum number of samples to use on this
            worker; `None` for all.
        batch_size: Integer > 0. How many samples of an array to run at once.
            Other kinds of data keep their batches. Small batches make the
            result less exact where layers follow each other.

    Returns:
        A `Recalibration`, which can be printed: which layers, from how many
        samples. Without any layer to recalibrate the data is not read.

    Raises:
        ValueError: If an argument is invalid, or if the data has no samples or
            makes values that are not finite. The model is unchanged then.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((1,)),
    ...     keras.layers.BatchNormalization(),
    ... ])
    >>> x = np.array([[1.0], [2.0], [3.0], [6.0]], "float32")
    >>> print(ka.recalibrate(model, x))
    Recalibrated 1 normalization layer on 4 samples.
    >>> keras.ops.convert_to_numpy(model.layers[0].moving_mean)
    array([3.], dtype=float32)
    >>> keras.ops.convert_to_numpy(model.layers[0].moving_variance)
    array([3.5], dtype=float32)
    """
    check_count("batch_size", batch_size)
    if samples is not None:
        check_count("samples", samples)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            "Expected a built `keras.Model`; call it on data, or `build` it, "
            f"first. Received: model={model!r}"
        )
    found = [
        layer
        for layer in dict.fromkeys(backend.layers_inside(model))
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    gathered = {
        layer: Moments(layer.moving_mean.shape[0], gram=False)
        for layer in found
        if layer.built and layer.trainable
    }
    refused: dict[keras.Layer, str] = {}
    backend.sync_from_jax(model)
    count = 0
    stream = batches(data, batch_size=batch_size, samples=samples)
    for batch in stream if gathered else ():
        count += len(keras.tree.flatten(batch)[0])
        # In the scope nothing that the model assigns reaches its variables.
        with contextlib.ExitStack() as stack:
            stack.enter_context(backend.inference_scope(model))
            for layer, moments in gathered.items():
                stack.enter_context(_measured(layer, moments, refused))
            model(batch, training=False)
    for moments in gathered.values():
        moments.pool()
    count = int(collectives.all_reduce_sum(np.array(count), "recalibration"))

    done, skipped = [], {}
    for layer in found:
        if not layer.trainable:
            skipped[layer.path] = "it has `trainable=False`"
        elif layer in refused:
            skipped[layer.path] = refused[layer]
        elif layer not in gathered or not gathered[layer].count:
            skipped[layer.path] = "no values that are not masked reached it"
        else:
            _assign(layer, gathered[layer])
            done.append(layer.path)
    backend.sync_to_jax(model)
    return Recalibration(tuple(done), count, skipped)


@contextlib.contextmanager
def _measured(
    layer: keras.layers.BatchNormalization,
    moments: Moments,
    refused: dict[keras.Layer, str],
) -> Iterator[None]:
    """Runs a layer in training mode, and gathers the moments of its inputs.

    Args:
        layer: The layer.
        moments: What to update.
        refused: Where to note why the layer cannot be measured.
    """
    call = layer.call
    signature = inspect.signature(call)

    def measured_call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        values = next(iter(bound.arguments.values()))
        mask = bound.arguments.get("mask")
        if mask is not None and layer.axis not in (-1, len(values.shape) - 1):
            refused[layer] = "its inputs are masked along the axis it keeps"
        else:
            moments.update(_observations(layer, values, mask))
        bound.arguments["training"] = True
        return call(*bound.args, **bound.kwargs)

    # Batch renormalization would normalize with the old statistics.
    before = {
        name: layer.__dict__[name]
        for name in ("call", "renorm")
        if name in layer.__dict__
    }
    backend.set_attributes(layer, {"call": measured_call, "renorm": False})
    try:
        yield
    finally:
        layer.__dict__.pop("call")
        backend.set_attributes(layer, before)


def _observations(
    layer: keras.layers.BatchNormalization, values: Any, mask: Any
) -> Any:
    """Returns the inputs of a layer as rows, without those that are masked."""
    if mask is not None:  # Of all axes but the last, which is normalized.
        values = keras.ops.convert_to_numpy(values)
        mask = keras.ops.convert_to_numpy(mask).astype(bool)
        return values[mask]
    values = keras.ops.moveaxis(values, layer.axis, -1)
    return keras.ops.reshape(values, (-1, values.shape[-1]))


def _assign(layer: keras.layers.BatchNormalization, moments: Moments) -> None:
    values = {
        "moving_mean": moments.mean,
        "moving_variance": moments.variance,
    }
    if layer.renorm:
        deviation = np.sqrt(moments.variance + layer.epsilon)
        values["moving_stddev"] = values["renorm_stddev"] = deviation
        values["renorm_mean"] = moments.mean
    for name, value in values.items():
        getattr(layer, name).assign(value)

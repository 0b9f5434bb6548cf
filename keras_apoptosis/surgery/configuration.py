"""Rebuilds a model from its own config, at other sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_apoptosis.backend import (
    changed_config,
    custom_parts,
    direct_operations,
    layers_inside,
    lora_of,
    models_of,
    seen_layer_by_layer,
)
from keras_apoptosis.backend.arguments import arguments_set
from keras_apoptosis.graph import Graph, read
from keras_apoptosis.surgery.arguments import new_arguments
from keras_apoptosis.surgery.parts import cut_parts
from keras_apoptosis.surgery.plan import Plan


def resized_copy(model: keras.Model, graph: Graph, plan: Plan) -> keras.Model:
    """Builds a new model as a plan says, with the weights of the plan."""
    with seen_layer_by_layer(models_of(model)):
        with arguments_set(new_arguments(graph, plan)):
            config = model.get_config()
        kind = type(model)
        if "layers" not in config:
            raise ValueError(
                "Cannot rebuild a model whose class has a config of its own; "
                "`ka.shrink` can change it in place. Received: a model of type "
                f"{kind.__name__}"
            )
        sizes = {key: dict(new) for key, new in plan.config.items()}
        for layer, parts in cut_parts(graph, plan):
            if not isinstance(layer, keras.Layer):
                continue
            for name, part in parts.items():
                value = keras.saving.serialize_keras_object(part)
                sizes.setdefault(id(layer), {})[(name,)] = value
        config = _resized(model, config, sizes)
        with custom_parts(model):
            copy = kind.from_config(config)
    pairs = zip(_called(graph), _called(read(copy)), strict=True)
    for old, new in pairs:
        _copy_weights(old, new, plan)
    return copy


def _called(graph: Graph) -> list[keras.Layer]:
    """Returns the layers of a model call by call, followed ones as wholes.

    A model of a config shares fewer layers than the one that it was made of.
    """
    called = []
    for step in graph.steps:
        if step.expansion is not None:
            if step.index < 0:
                called.append(step.expansion.layer)
        elif step.node is not None:
            called.append(step.operation)
    return [each for each in called if isinstance(each, keras.Layer)]


def _copy_weights(old: keras.Layer, new: keras.Layer, plan: Plan) -> None:
    for before, after in zip(old.variables, new.variables, strict=True):
        value = plan.values.get(id(before))
        if value is None:
            value = ops.convert_to_numpy(before.value)
        after.assign(value)
    after_layers = layers_inside(new)
    for before, after in zip(layers_inside(old), after_layers, strict=True):
        after.trainable = before.trainable
        if lora_of(before) is not None:
            # Keras reads it of no config of some layers.
            after.lora_alpha = before.lora_alpha


def _resized(
    model: keras.Model,
    config: Mapping[str, Any],
    sizes: Mapping[int, Mapping[tuple, Any]],
) -> dict[str, Any]:
    """Returns the config of a model with the new sizes of its layers."""
    by_name = {each.name: each for each in direct_operations(model)}
    entries = []
    for entry in config["layers"]:
        layer = by_name.get(entry["config"].get("name"))
        if layer is not None:
            inner = entry["config"]
            if isinstance(layer, keras.Model) and "layers" in inner:
                inner = _resized(layer, inner, sizes)
            inner = changed_config(inner, sizes.get(id(layer), {}))
            # Recorded build shapes belong to the old sizes.
            kept = {k: v for k, v in entry.items() if k != "build_config"}
            entry = {**kept, "config": inner}
        entries.append(entry)
    return {**config, "layers": entries}

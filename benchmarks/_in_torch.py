"""Keras models as PyTorch modules with the same weights, and back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from torch import nn


class InTorch(nn.Module):
    """A functional Keras model of plain layers, written in PyTorch.

    It knows the layers that the networks of `_networks.py` have. A layer and
    its module have the same name.

    Args:
        model: The Keras model.
    """

    def __init__(self, model: keras.Model):
        super().__init__()
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[str, list[str], str, bool]] = []
        (self.source,), (self.sink,) = (
            [each.name for each in ends]
            for ends in (model.inputs, model.outputs)
        )
        for layer in model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            inputs = layer.input if _adds(layer) else [layer.input]
            if not _adds(layer):
                self.layers[layer.name] = _module(layer, model)
            self.steps.append(
                (
                    layer.name,
                    [each.name for each in inputs],
                    layer.output.name,
                    getattr(layer, "activation", None)
                    is keras.activations.relu,
                )
            )

    def forward(self, x: Any) -> Any:
        values = {self.source: x}
        for name, inputs, output, rectified in self.steps:
            if name in self.layers:
                y = self.layers[name](values[inputs[0]])
            else:
                y = values[inputs[0]] + values[inputs[1]]
            values[output] = torch.relu(y) if rectified else y
        return values[self.sink]


def to_torch(model: keras.Model, x: np.ndarray) -> InTorch:
    """Returns the model in PyTorch, and checks on data that it does the same.

    Args:
        model: A functional Keras model.
        x: Inputs, channels last.
    """
    net = InTorch(model).eval()
    with torch.no_grad():
        theirs = net(torch_inputs(x)).numpy()
    ours = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)
    return net


def to_keras(net: InTorch, model: keras.Model) -> keras.Model:
    """Returns the Keras model again, as narrow as its modules have become.

    Args:
        net: From `to_torch(model, x)`, pruned.
        model: The model that it was.
    """

    def narrowed(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        for key in ("filters", "units"):
            if key in config:
                weight = net.layers[layer.name].weight
                config[key] = int(weight.shape[0])
        return type(layer).from_config(config)

    small = keras.models.clone_model(model, clone_function=narrowed)
    for layer in small.layers:
        if layer.weights:
            layer.set_weights(_weights(layer, net.layers[layer.name], small))
    return small


def torch_inputs(x: np.ndarray) -> torch.Tensor:
    """Returns images channels first, and features as they are."""
    found = torch.tensor(x)
    return found.permute(0, 3, 1, 2) if found.ndim == 4 else found


def _adds(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Add)


def _module(layer: keras.Layer, model: keras.Model) -> nn.Module:
    """Returns a layer as module, without its activation."""
    weights = [torch.tensor(each) for each in layer.get_weights()]
    match layer:
        case keras.layers.Conv2D():
            kernel = weights[0].permute(3, 2, 0, 1).contiguous()
            module: nn.Module = nn.Conv2d(
                kernel.shape[1],
                kernel.shape[0],
                kernel.shape[2:],
                layer.strides,
                _padding(layer, model),
                bias=layer.use_bias,
            )
            values = [kernel, *weights[1:]]
        case keras.layers.Dense():
            kernel = _channels_first(weights[0], layer, model)
            module = nn.Linear(kernel.shape[1], kernel.shape[0])
            values = [kernel, weights[1]]
        case keras.layers.BatchNormalization():
            module = nn.BatchNorm2d(len(weights[0]), layer.epsilon)
            module.running_mean.copy_(weights[2])
            module.running_var.copy_(weights[3])
            values = weights[:2]
        case keras.layers.MaxPooling2D():
            return nn.MaxPool2d(layer.pool_size, layer.strides)
        case keras.layers.GlobalAveragePooling2D():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case keras.layers.Flatten():
            return nn.Flatten()
        case keras.layers.ReLU():
            return nn.ReLU()
        case keras.layers.ZeroPadding2D():
            return nn.Identity()  # The next convolution pads.
        case _:
            raise ValueError(f"Expected a plain layer. Received: {layer}")
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(value)
    return module


def _weights(
    layer: keras.Layer, module: nn.Module, model: keras.Model
) -> list[np.ndarray]:
    """Returns the weights of a module in the order and axes of its layer."""
    values = [each.detach() for each in module.parameters()]
    if isinstance(layer, keras.layers.Conv2D):
        values[0] = values[0].permute(2, 3, 1, 0)
    elif isinstance(layer, keras.layers.Dense):
        values[0] = _channels_last(values[0], layer, model)
    else:
        values += [module.running_mean, module.running_var]
    return [each.numpy() for each in values]


def _before(layer: keras.Layer, model: keras.Model) -> keras.Layer:
    return next(
        each for each in model.layers if each.output.name == layer.input.name
    )


def _padding(layer: keras.Layer, model: keras.Model) -> int:
    before = _before(layer, model)
    if isinstance(before, keras.layers.ZeroPadding2D):
        return before.padding[0][0]
    return layer.kernel_size[0] // 2 if layer.padding == "same" else 0


def _flattened(layer: keras.Layer, model: keras.Model) -> tuple[int, int, int]:
    """Returns rows, columns and channels that a Dense layer sees flat."""
    before = _before(layer, model)
    if isinstance(before, keras.layers.Flatten):
        return tuple(before.input.shape[1:])
    return 1, 1, layer.input.shape[-1]


def _channels_first(kernel: Any, layer: keras.Layer, model: keras.Model) -> Any:
    rows, columns, channels = _flattened(layer, model)
    kernel = kernel.reshape(rows, columns, channels, -1)
    return kernel.permute(3, 2, 0, 1).flatten(1)


def _channels_last(kernel: Any, layer: keras.Layer, model: keras.Model) -> Any:
    rows, columns, channels = _flattened(layer, model)
    kernel = kernel.reshape(-1, channels, rows, columns)
    return kernel.permute(2, 3, 1, 0).flatten(0, 2)

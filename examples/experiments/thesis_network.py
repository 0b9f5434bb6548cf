"""The small CNNs of Evci's thesis, and what all its experiments share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka
from experiments import training
from experiments.initial_weights import as_in_pytorch


@dataclasses.dataclass
class Config(training.Config):
    """Settings of all experiments of the thesis: gradient descent."""

    batch_size: int = 32


def data_of(config: Config) -> Any:
    """Returns the data, normalized as PyTorch's examples do."""
    data = training.data_of(config)
    parts = ("x_train", "x_val", "x_test")
    mean, deviation = (
        (0.5, 0.5) if config.dataset == "cifar10" else (0.1307, 0.3081)
    )
    normal = {n: (getattr(data, n) - mean) / deviation for n in parts}
    return dataclasses.replace(data, **normal)


def build(
    activation: str = "relu",
    shape: Sequence[int] = (28, 28, 1),
    normalize: bool = False,
) -> keras.Model:
    """Makes the small CNN of section 2.2 or of chapter 3, compiled.

    Appendix C.1 prints `fc1` with 32 units; the 20,522 parameters of section
    4.2 are those of 64.

    Args:
        activation: `relu` or `tanh`.
        shape: Of an image; those of CIFAR-10 give the network of C.2.
        normalize: Whether a batch normalization precedes each activation.
    """
    side = ((shape[0] - 4) // 2 - 4) // 2  # After both convolutions.

    def activated() -> list[layers.Layer]:
        found: list[layers.Layer] = [layers.Activation(activation)]
        return [layers.BatchNormalization(), *found] if normalize else found

    model = keras.Sequential(
        [
            keras.Input(tuple(shape)),
            ka.layers.PrunableConv2D(
                8, 5, name="conv1", **as_in_pytorch(25 * shape[-1])
            ),
            layers.MaxPooling2D(),
            *activated(),
            ka.layers.PrunableConv2D(16, 5, name="conv2", **as_in_pytorch(200)),
            layers.MaxPooling2D(),
            *activated(),
            layers.Flatten(),
            ka.layers.PrunableDense(
                64, name="fc1", **as_in_pytorch(16 * side**2)
            ),
            *activated(),
            ka.layers.PrunableDense(10, name="fc2", **as_in_pytorch(64)),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def sample_of(data: Any, seed: int, size: int = 1000) -> tuple:
    """Returns training images by which units and weights are judged."""
    rows = np.random.default_rng(seed).permutation(len(data.y_train))[:size]
    return data.x_train[rows], data.y_train[rows]


def kernel_of(model: keras.Model, name: str) -> np.ndarray:
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)

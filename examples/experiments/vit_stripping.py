"""Trains vision transformers with GELU, ReLU, and ReLU with stripping.

Table II of Whitaker and Whitley, "Synaptic stripping", section IV-B: seven
encoders with eight heads, 384 wide, and an MLP of 1,536 units; 64 patches and a
class token; Adam with a weight decay of 5e-5 (decoupled here, as Keras has it),
batches of 128, 200 epochs; the rate rises to 1e-3 within 5 epochs and falls by
a cosine to 1e-5. Only the first layers of the MLPs are stripped, by units that
are dead on the 10 % of the training images that are split off for validation.
It needs a GPU.

- AutoAugment: Keras has `RandAugment` and `AugMix`, but not its policies. That
  for CIFAR-10 comes from torchvision (`pip install torchvision`), on the CPU,
  whatever the backend; `augment=randaugment` does with Keras alone.
- Corrupted test images: CIFAR-10-C as published, 19 corruptions in 5
  severities, from tensorflow-datasets (`corrupted=published` downloads 2.7 GB);
  or nine of them from the test images by its formulas (`corrupted=formulas`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import corruptions
import keras
import numpy as np
from keras import layers

import keras_apoptosis as ka
from experiments import training
from experiments.mlp_stripping import DEVIATION, MEAN
from experiments.rows import Row, markdown

# Table II, CIFAR-10: accuracy, NLL, both on corrupted images, #D, %A.
PAPER = {
    "gelu": (89.27, 0.423, 79.86, 0.912, "", ""),
    "relu": (88.75, 0.425, 79.14, 0.946, 1511, 64.86),
    "relu_ss": (89.29, 0.419, 80.07, 0.898, 9, 87.12),
}


@dataclasses.dataclass
class Config(training.Config):
    """Settings.

    Attributes:
        method: `gelu`, `relu` or `relu_ss`, with stripping.
        warmup: Epochs in which the rate rises.
        layers: How many encoders.
        heads: Of each.
        width: Of the stream.
        expansion: Units of an MLP, as a multiple of that.
        share: Of its weights that a dead unit loses.
        augment: `autoaugment`, `randaugment` or `none`.
        corrupted: Corrupted test images to test on as well: `published`,
            `formulas` or `none`.
    """

    dataset: str = "cifar10"
    epochs: int = 200
    method: str = "relu_ss"
    warmup: int = 5
    layers: int = 7
    heads: int = 8
    width: int = 384
    expansion: int = 4
    share: float = 0.1
    augment: str = "autoaugment"
    corrupted: str = "none"


@keras.saving.register_keras_serializable("examples")
class Tokens(layers.Layer):
    """Puts a class token before the patches, and adds their positions."""

    def build(self, shape: tuple) -> None:
        _, count, width = shape
        self.token = self.add_weight(shape=(1, 1, width), name="token")
        self.position = self.add_weight(
            shape=(1, count + 1, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="position",
        )

    def call(self, patches: Any) -> Any:
        token = keras.ops.repeat(self.token, keras.ops.shape(patches)[0], 0)
        return keras.ops.concatenate([token, patches], 1) + self.position


def autoaugment() -> Callable:
    """Makes what applies the CIFAR-10 policy to images in [0, 1]."""
    import torch
    from torchvision.transforms import v2

    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)

    def augment(
        x: np.ndarray, y: Any, random: np.random.Generator
    ) -> tuple[np.ndarray, Any]:
        torch.manual_seed(int(random.integers(2**31)))
        images = torch.from_numpy(
            (255 * x).astype("uint8").transpose(0, 3, 1, 2)
        )
        images = torch.stack([policy(image) for image in images])
        x = images.numpy().transpose(0, 2, 3, 1).astype("float32") / 255
        return x, y

    return augment


def build(config: Config, classes: int, steps: int) -> keras.Model:
    """Makes a compiled vision transformer."""
    width, heads = config.width, config.heads
    activation = "gelu" if config.method == "gelu" else "relu"
    x = inputs = keras.Input((32, 32, 3))
    if config.augment == "randaugment":
        x = layers.RandAugment(value_range=(0, 1))(x)
    x = layers.Normalization(mean=MEAN, variance=DEVIATION**2)(x)
    x = layers.Conv2D(width, 4, strides=4, name="patches")(x)
    x = Tokens(name="tokens")(layers.Reshape((64, width))(x))
    for number in range(1, config.layers + 1):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.MultiHeadAttention(heads, width // heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = ka.layers.PrunableDense(
            config.expansion * width,
            activation=activation,
            name=f"mlp_{number}",
            track_statistics=config.method != "gelu",
        )(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization(epsilon=1e-5)(x[:, 0])
    model = keras.Model(inputs, layers.Dense(classes, name="logits")(x))
    warmup = steps * config.warmup // config.epochs
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup),
        alpha=0.01,  # Of the peak: 1e-5.
        warmup_target=1e-3,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.Adam(rate, weight_decay=5e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def run(config: Config) -> Row:
    """Trains once."""
    data = training.data_of(config)
    steps = config.epochs * -(-len(data.y_train) // config.batch_size)
    callbacks = []
    if config.method != "gelu":  # Its units are never dead.
        share = config.share if config.method == "relu_ss" else 0.0
        callbacks = [ka.callbacks.SynapticStripping(share)]
    model, log = training.fit(
        config,
        lambda: build(config, data.num_classes, steps),
        data.x_train,
        data.y_train,
        callbacks=callbacks,
        change=autoaugment() if config.augment == "autoaugment" else None,
        validation_data=(data.x_val, data.y_val),
    )
    history = log.history
    nll, accuracy = model.evaluate(
        data.x_test, data.y_test, batch_size=500, verbose=0
    )
    row = {
        "peak_val_accuracy": max(history["val_accuracy"]),
        "test_accuracy": accuracy,
        "test_nll": nll,
        "dead_units": history.get("dead_units"),
        "active_parameters": history.get("active_parameters", [None])[-1],
        **log.times(),
    }
    if config.corrupted != "none":
        images = published() if config.corrupted == "published" else made(data)
        found = [
            model.evaluate(x, y, batch_size=500, verbose=0) for x, y in images
        ]
        means = np.mean(found, axis=0)
        row["corrupted_nll"], row["corrupted_accuracy"] = means
    return row


def published() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each part of CIFAR-10-C."""
    import tensorflow_datasets as tfds

    for kind in tfds.builder_cls("cifar10_corrupted").BUILDER_CONFIGS:
        name = f"cifar10_corrupted/{kind.name}"
        images = tfds.as_numpy(tfds.load(name, split="test", batch_size=-1))
        yield images["image"].astype("float32") / 255, images["label"]


def made(data: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the first 2,000 test images in each of nine corruptions."""
    x, y = data.x_test[:2000], data.y_test[:2000]
    for images in corruptions.corrupted(x):
        yield images, y


def table(rows: list[Row]) -> str:
    """Returns Table II, with the paper's numbers beside ours."""

    def number(name: str, factor: float, form: str) -> tuple:
        def value(row: Row) -> float | None:
            found = row.get(name)
            return None if found is None else factor * found

        return value, form

    def paper(place: int, form: str) -> tuple:
        def value(row: Row) -> float | None:
            theirs = PAPER[row["config"]["method"]][place]
            return None if theirs == "" else theirs

        return value, form

    return markdown(
        rows,
        {
            "peak val %": number("peak_val_accuracy", 100, "±.2f"),
            "test %": number("test_accuracy", 100, "±.2f"),
            "paper": paper(0, ".2f"),
            "NLL": number("test_nll", 1, "±.3f"),
            "paper: NLL": paper(1, ".3f"),
            "corrupted %": number("corrupted_accuracy", 100, "±.2f"),
            "paper: %": paper(2, ".2f"),
            "corrupted NLL": number("corrupted_nll", 1, "±.3f"),
            "paper: corrupted NLL": paper(3, ".3f"),
            "#D": (
                lambda row: row["dead_units"] and row["dead_units"][-1],
                "±.0f",
            ),
            "paper: #D": paper(4, ",.0f"),
            "%A": number("active_parameters", 100, "±.2f"),
            "paper: %A": paper(5, ".2f"),
            "seconds": ("seconds", ",.0f"),
        },
        order=lambda mine: list(PAPER).index(mine[0]["config"]["method"]),
    )

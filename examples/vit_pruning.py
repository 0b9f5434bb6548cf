r"""Trains a small vision transformer three ways: plain, and pruned two ways.

    python examples/vit_pruning.py                     # MNIST, about an hour
    python examples/vit_pruning.py --dataset digits --seeds 1 --epochs 4

The blocks are custom layers, as people write them; `ka.inline` makes a flat
model of what they call, so that heads, widths and hidden units of all blocks
are units of the model. For each seed:

- plain: trained as it is;
- apoptosis: `NeuronApoptosis` merges units while it trains, down to half of the
  FLOPs (`--flops`);
- saliency: `SaliencyPruning` prunes to the same FLOPs.

Everything else are defaults; the test data are used once, at the end of each
training.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import Dataset, load
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

HEADER = (
    "method",
    "test accuracy, %",
    "parameters",
    "FLOPs",
    "seconds",
    "heads",
    "hidden units",
)


@keras.saving.register_keras_serializable("examples")
class Patches(layers.Layer):
    """Embeds patches of an image, and adds their positions."""

    def __init__(self, width: int, size: int, **kwargs):
        super().__init__(**kwargs)
        self.width, self.size = width, size

    def build(self, shape: tuple) -> None:
        self.project = layers.Conv2D(
            self.width, self.size, self.size, name="project"
        )
        self.project.build(shape)
        self.count = (shape[1] // self.size) * (shape[2] // self.size)
        self.places = self.add_weight(
            shape=(self.count, self.width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="places",
        )

    def call(self, images):
        x = self.project(images)
        return ops.reshape(x, (-1, self.count, self.width)) + self.places

    def get_config(self) -> dict:
        own = {"width": self.width, "size": self.size}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("examples")
class Block(layers.Layer):
    """A transformer block, with heads as wide as they divide its input."""

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape: tuple) -> None:
        width = shape[-1]
        self.norms = [layers.LayerNormalization(name=f"n{i}") for i in (1, 2)]
        self.attention = layers.MultiHeadAttention(
            self.heads, width // self.heads, name="attention"
        )
        self.up = layers.Dense(4 * width, "gelu", name="up")
        self.down = layers.Dense(width, name="down")
        for norm in self.norms:
            norm.build(shape)
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 4 * width))

    def call(self, inputs):
        x = self.norms[0](inputs)
        x = inputs + self.attention(x, x)
        return x + self.down(self.up(self.norms[1](x)))

    def get_config(self) -> dict:
        return {**super().get_config(), "heads": self.heads}


def build(data: Dataset, arguments) -> keras.Model:
    """Makes a compiled vision transformer, inlined."""
    side = data.input_shape[0]
    x = inputs = keras.Input(data.input_shape)
    x = Patches(arguments.width, side // 4, name="patches")(x)
    for number in range(arguments.layers):
        x = Block(arguments.heads, name=f"block_{number}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(data.num_classes, name="logits")(x)
    model = ka.inline(keras.Model(inputs, x))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def units(model: keras.Model, layer: str) -> str:
    """Returns how many units of a kind each block has."""
    sizes = {group.name: group.size for group in ka.unit_groups(model)}
    return "/".join(
        str(size)
        for name, size in sizes.items()
        if name.startswith("block") and name.endswith(layer)
    )


def train(data: Dataset, seed: int, callbacks: list, arguments) -> dict:
    """Trains once, and judges by the test data."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = build(data, arguments)
    rows = arguments.samples
    start = time.perf_counter()
    model.fit(
        data.x_train[:rows],
        data.y_train[:rows],
        epochs=arguments.epochs,
        batch_size=128,
        callbacks=callbacks,
        verbose=arguments.verbose,
    )
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(
        data.x_test, data.y_test, batch_size=500, verbose=0
    )
    return {
        "accuracy": 100 * accuracy,
        "parameters": model.count_params(),
        "flops": ka.flops(model),
        "seconds": seconds,
        "heads": units(model, "query/d"),
        "hidden": units(model, "up"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16384)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--verbose", type=int, default=0)
    arguments = parser.parse_args()
    data = load(arguments.dataset)
    x, y = (each[: arguments.samples] for each in (data.x_train, data.y_train))
    runs: dict[str, list[dict]] = {}
    for seed in range(arguments.seeds):
        target = ka.targets.Flops(at_most=arguments.flops)
        methods = {
            "plain": [],
            "apoptosis": [ka.callbacks.NeuronApoptosis(data=x, target=target)],
            "saliency": [
                ka.callbacks.SaliencyPruning(data=(x, y), target=target)
            ],
        }
        for name, callbacks in methods.items():
            run = train(data, seed, callbacks, arguments)
            runs.setdefault(name, []).append(run)
            print(seed, name, run, flush=True)
    print(table(HEADER, [row(name, found) for name, found in runs.items()]))


def row(name: str, runs: list[dict]) -> list:
    """Returns a row of the table: means, and half of the range."""
    found = np.array([run["accuracy"] for run in runs])
    cells: list = [name, f"{found.mean():.2f} ± {np.ptp(found) / 2:.2f}"]
    for key in ("parameters", "flops"):
        cells.append(f"{np.mean([run[key] for run in runs]):,.0f}")
    cells.append(f"{np.mean([run['seconds'] for run in runs]):.0f}")
    return [*cells, runs[0]["heads"], runs[0]["hidden"]]


if __name__ == "__main__":
    main()

"""How closely targets are met: six architectures, four methods.

    python benchmarks/targets.py [--shares 0.5 0.25] [--out targets.jsonl]

Small models are trained for a moment on digits, MNIST or CIFAR-10, and pruned
to shares of their parameters or FLOPs: in `fit` by each callback that takes a
target, or afterwards in one call. Printed is what they cost in the end, as a
part of what was allowed, and of that the part that one more unit of the
cheapest group takes: no choice of units need come closer than that. Finished
rows of `--out` are not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from _measure import clock, machine
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.accounting.costs import widths_of
from keras_apoptosis.graph import analyse
from keras_apoptosis.utils.tables import table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import datasets
from vit_pruning import Block, Patches

Data = tuple[np.ndarray, np.ndarray]


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def lenet() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )


def normalized(x: Any, layer: layers.Layer, relu: bool = True) -> Any:
    x = layers.BatchNormalization()(layer(x))
    return layers.ReLU()(x) if relu else x


def conv(units: int, size: int = 3, **options: Any) -> layers.Layer:
    return layers.Conv2D(units, size, padding="same", use_bias=False, **options)


def vgg() -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    for units in (32, 64, 96):
        for _ in range(2):
            x = normalized(x, conv(units))
        x = layers.MaxPooling2D(2)(x)
    x = normalized(layers.Flatten()(x), layers.Dense(128, use_bias=False))
    return keras.Model(inputs, layers.Dense(10)(x))


def residual() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = normalized(inputs, conv(32))
    for units, strides in ((32, 1), (32, 1), (64, 2), (64, 1)):
        y = normalized(x, conv(units, strides=strides))
        y = normalized(y, conv(units), relu=False)
        if strides > 1:
            x = normalized(x, conv(units, 1, strides=strides), relu=False)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def separable() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = normalized(inputs, conv(32))
    for units, strides in ((64, 1), (128, 2), (128, 1), (256, 2)):
        depthwise = layers.DepthwiseConv2D(
            3, strides, padding="same", use_bias=False
        )
        x = normalized(normalized(x, depthwise), conv(units, 1))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def transformer() -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = Patches(48, 2, name="patches")(inputs)
    for number in range(3):
        x = Block(4, name=f"block_{number}")(x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return ka.inline(keras.Model(inputs, layers.Dense(10)(x)))


# What is trained on which rows of which data, and for how many epochs.
MODELS: Mapping[str, tuple[Callable[[], keras.Model], str, int, int]] = {
    "MLP 256-128": (mlp, "mnist", 2048, 6),
    "LeNet": (lenet, "mnist", 1024, 6),
    "VGG-like, BatchNorm": (vgg, "cifar10", 1024, 4),
    "residual, BatchNorm": (residual, "digits", 1437, 8),
    "separable, BatchNorm": (separable, "digits", 1437, 8),
    "transformer": (transformer, "digits", 1437, 8),
}
CALLBACKS: Mapping[str, Callable[[Any, Data], Any]] = {
    "NeuronApoptosis": lambda target, data: ka.callbacks.NeuronApoptosis(
        data=data[0], target=target
    ),
    "SaliencyPruning": lambda target, data: ka.callbacks.SaliencyPruning(
        data=data, target=target
    ),
    "DemonPruning": lambda target, data: ka.callbacks.DemonPruning(
        data=data[0][:512], target=target
    ),
}
METHODS = (*CALLBACKS, "ka.prune")
TARGETS = {"parameters": ka.targets.Parameters, "FLOPs": ka.targets.Flops}


@functools.cache
def rows_of(name: str, count: int) -> Data:
    data = datasets.load(name, verbose=False)
    x, y = data.x_train[:count], data.y_train[:count]
    if name == "cifar10":  # Halved, for time.
        x = x.reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4))
    return x, y


def pruned(
    build: Callable[[], keras.Model],
    data: Data,
    epochs: int,
    method: str,
    target: Any,
) -> tuple[keras.Model, float, list[str]]:
    """Trains and prunes a model.

    Returns:
        It, what it cost before, and what was warned of.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # Compiling would take longer than the training.
    )
    whole = target.measure(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        callbacks = []
        if method in CALLBACKS:
            callbacks = [CALLBACKS[method](target, data)]
        model.fit(
            *data, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks
        )
        if method not in CALLBACKS:
            ka.prune(model, target, data[0])
    return model, whole, [str(each.message) for each in said]


def cheapest_unit(model: keras.Model, target: Any) -> float:
    """What one more unit costs, of the group where it costs least."""
    analysis = analyse(model)
    cost, widths = target.cost(analysis), widths_of(analysis)
    wider = [
        float(cost(widths + (np.arange(widths.size) == number)))
        for number, group in enumerate(analysis.groups)
        if group.removable
    ]
    return min(wider) - float(cost(widths))


def measured(name: str, method: str, kind: str, share: float) -> dict[str, Any]:
    build, source, rows, epochs = MODELS[name]
    target = TARGETS[kind](at_most=share)
    data = rows_of(source, rows)
    try:
        seconds, (model, whole, said) = clock(
            pruned, build, data, epochs, method, target
        )
    except ValueError as error:
        return {"error": str(error)}
    limit = target.limit(whole)
    return {
        "before": whole,
        "limit": limit,
        "after": target.measure(model),
        "unit": cheapest_unit(model, target),
        "seconds": round(seconds, 1),
        "backend": keras.backend.backend(),
        "said": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("targets.jsonl"))
    arguments = parser.parse_args()
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    if arguments.out.exists():
        for line in arguments.out.read_text().splitlines():
            row = json.loads(line)
            found[tuple(row.pop("of"))] = row
    for share in arguments.shares:
        for name in arguments.models:
            for method in arguments.methods:
                for kind in TARGETS:
                    case = name, method, kind, share
                    if case in found:
                        continue
                    found[case] = measured(*case)
                    line = json.dumps({"of": case, **found[case]})
                    with arguments.out.open("a") as file:
                        print(line, file=file)
                    print(line, flush=True)
    print(table(("model", "target", *METHODS), cells(found)))
    print(machine())


def cells(found: Mapping[tuple[Any, ...], dict[str, Any]]) -> list[list[str]]:
    """What was reached, as a part of the limit, and the cheapest unit's."""
    rows: dict[tuple[Any, ...], dict[str, str]] = {}
    for (name, method, kind, share), row in found.items():
        text = "out of reach"
        if "limit" in row:
            part, unit = (row[key] / row["limit"] for key in ("after", "unit"))
            text = f"{part:.2%} ({unit:.2%})"
        rows.setdefault((name, kind, share), {})[method] = text
    return [
        [name, f"{share:.0%} of {kind}", *(row.get(m, "") for m in METHODS)]
        for (name, kind, share), row in rows.items()
    ]


if __name__ == "__main__":
    main()

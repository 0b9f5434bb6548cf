"""Trains a small CNN with demon pruning; shows what stale statistics cost.

    python examples/demon_recalibration.py --dataset cifar10 --seeds 3

Two strided convolutions of 32 with batch normalization, Adam at 0.005, 12,000
images, 6 epochs, a target of 60 % of the weights. Each network is tested as
`fit` leaves it without recalibration, and again after `ka.recalibrate`: the
moving mean and variance are then those of the training images.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from datasets import load

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

# Keyword arguments of `DemonPruning`; `None` for plain training.
METHODS: dict[str, dict[str, float] | None] = {
    "plain": None,
    "noise 5e-5 (the paper's)": {"noise_variance": 5e-5},
    "noise 1e-6": {"noise_variance": 1e-6},
    "no noise": {"noise_variance": 0.0},
}


def build(shape: tuple[int, ...]) -> keras.Model:
    """A compiled network."""
    stack: list[keras.layers.Layer] = [keras.Input(shape)]
    for _ in range(2):
        stack += [
            keras.layers.Conv2D(32, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    stack += [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential(stack)
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    """Trains all, and prints a table of test accuracies in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--samples", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    data = load(arguments.dataset)
    x = data.x_train[: arguments.samples]
    y = data.y_train[: arguments.samples]
    rows = []
    for name, options in METHODS.items():
        found = []
        for seed in range(arguments.seeds):
            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            model = build(data.input_shape)
            parameters = model.count_params()
            callbacks = []
            if options is not None:
                callbacks = [
                    ka.callbacks.DemonPruning(
                        schedule=ka.schedules.Fixed(0.05, start=0.05),
                        target=ka.targets.Parameters(
                            at_most=1 - arguments.target
                        ),
                        data=x[:512],
                        recalibrate=False,  # Measured below.
                        verbose=False,
                        **options,
                    )
                ]
            model.fit(
                x,
                y,
                epochs=arguments.epochs,
                batch_size=64,
                verbose=0,
                callbacks=callbacks,
            )
            accuracies = [accuracy(model, data)]
            ka.recalibrate(model, x)
            accuracies.append(accuracy(model, data))
            gone = 1 - model.count_params() / parameters
            found.append([*accuracies, 100 * gone])
            print(name, seed, np.round(found[-1], 2), flush=True)
        rows.append((name, *map(spread, np.array(found).T)))
    header = ("training", "test %", "recalibrated, test %", "parameters gone %")
    print(table(header, rows))
    print(f"keras {keras.__version__} on {keras.backend.backend()}")


def accuracy(model: keras.Model, data) -> float:
    """Test accuracy in percent."""
    found = model.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0)
    return 100 * found[1]


def spread(values: np.ndarray) -> str:
    """The mean, and half of the range."""
    return f"{values.mean():.1f} ± {np.ptp(values) / 2:.1f}"


if __name__ == "__main__":
    main()

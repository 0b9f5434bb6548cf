"""Neuron apoptosis on one process or many; the script is the same.

    python examples/horovod_mnist.py
    horovodrun -np 2 python examples/horovod_mnist.py
    mpirun -np 2 python examples/horovod_mnist.py

Started again with the same `--checkpoint`, it goes on where it was.
`make horovod` installs Horovod; `docs/cluster.md` tells of more machines.
"""

from __future__ import annotations

import argparse
import time

import keras
from datasets import load
from keras import layers

import keras_apoptosis as ka


def build(shape: tuple[int, ...], classes: int) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dense(1024, activation="relu"),
            layers.Dense(classes),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--batch-size", type=int, default=128, help="of all workers together"
    )
    parser.add_argument("--checkpoint", default="output/horovod_mnist.keras")
    arguments = parser.parse_args()

    ka.distributed.init()
    primary = ka.distributed.is_primary()
    keras.utils.set_random_seed(0)
    data = load(arguments.dataset, verbose=primary)

    sample = ka.distributed.shard(data.x_train[:4096])
    apoptosis = ka.callbacks.NeuronApoptosis(
        data=sample, verbose=primary, total_epochs=arguments.epochs
    )
    checkpoint = ka.callbacks.Checkpoint(arguments.checkpoint, [apoptosis])
    model = checkpoint.restore() or build(data.input_shape, data.num_classes)
    ka.distributed.DistributedOptimizer(model.optimizer)

    start = time.perf_counter()
    model.fit(
        ka.distributed.shuffled_batches(
            data.x_train,
            data.y_train,
            batch_size=arguments.batch_size,
            first_epoch=checkpoint.epoch,
        ),
        steps_per_epoch=len(data.x_train) // arguments.batch_size,
        shuffle=False,  # It is.
        epochs=arguments.epochs,
        initial_epoch=checkpoint.epoch,
        validation_data=ka.distributed.shard((data.x_val, data.y_val)),
        verbose=2 if primary else 0,
        callbacks=[
            ka.distributed.BroadcastInitialState(),
            apoptosis,
            ka.distributed.MetricAverage(),
            checkpoint,
        ],
    )
    seconds = time.perf_counter() - start
    if primary:
        _, accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)
        print(
            f"{ka.distributed.size()} workers: test accuracy {accuracy:.2%}, "
            f"{model.count_params():,} parameters, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()

r"""Neuron apoptosis on one process or many, on any engine; one script.

    python examples/distributed_mnist.py
    horovodrun -np 2 python examples/distributed_mnist.py
    KERAS_BACKEND=torch torchrun --standalone --nproc-per-node 2 \
        examples/distributed_mnist.py
    KERAS_BACKEND=jax srun -n 2 python examples/distributed_mnist.py
    python examples/distributed_mnist.py --devices 2

Started again with the same `--checkpoint`, it goes on where it was.
`docs/cluster.md` tells of the engines, and of more machines.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from contextlib import AbstractContextManager

import keras
from datasets import Dataset, load
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


def over_devices(count: int) -> AbstractContextManager[None]:
    """Returns what makes one process train on several devices.

    They are GPUs or, for a trial without any, parts of the CPU: on JAX those
    that `XLA_FLAGS=--xla_force_host_platform_device_count=2` makes.
    """
    if count == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices()[:count]
        return keras.distribution.DataParallel(devices=devices).scope()
    import tensorflow as tf

    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU":
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)
    names = [f"{kind}:{number}" for number in range(count)]
    return tf.distribute.MirroredStrategy(names).scope()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument(
        "--batch-size", type=int, default=128, help="of all workers together"
    )
    parser.add_argument(
        "--checkpoint", default="output/distributed_mnist.keras"
    )
    parser.add_argument("--devices", type=int, default=1, help="of one process")
    arguments = parser.parse_args()

    ka.distributed.init()
    primary = ka.distributed.is_primary()
    keras.utils.set_random_seed(0)
    data = load(arguments.dataset, verbose=primary)

    with over_devices(arguments.devices):
        train(arguments, data)


def train(arguments: argparse.Namespace, data: Dataset) -> None:
    primary = ka.distributed.is_primary()
    sample = ka.distributed.shard(data.x_train[:4096])
    apoptosis = ka.callbacks.NeuronApoptosis(
        data=sample, verbose=primary, total_epochs=arguments.epochs
    )
    checkpoint = ka.callbacks.Checkpoint(arguments.checkpoint, [apoptosis])
    model = checkpoint.restore() or build(data.input_shape, data.num_classes)
    ka.distributed.DistributedOptimizer(model.optimizer)

    # Whole batches: JAX can split no others over devices.
    rows = len(data.x_val) // arguments.batch_size * arguments.batch_size
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
        validation_data=ka.distributed.shard(
            (data.x_val[:rows], data.y_val[:rows])
        ),
        validation_batch_size=arguments.batch_size // ka.distributed.size(),
        verbose=2 if primary else 0,
        callbacks=[
            ka.distributed.BroadcastInitialState(),
            apoptosis,
            ka.distributed.MetricAverage(),
            checkpoint,
        ],
    )
    seconds = time.perf_counter() - start
    if not primary:
        return
    with ka.distributed.alone():
        small = keras.saving.load_model(arguments.checkpoint)
        _, accuracy = small.evaluate(data.x_test, data.y_test, verbose=0)
    print(
        f"{ka.distributed.size()} workers: test accuracy {accuracy:.2%}, "
        f"{small.count_params():,} parameters, {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()

"""`resuming.py FOLDER break|resume`: killed in epoch 3, and from there on."""

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import keras_apoptosis as ka

folder, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
ka.distributed.init(timeout=60)
rank, size = ka.distributed.rank(), ka.distributed.size()
rng = np.random.default_rng(0)
x = rng.normal(size=(240, 8)).astype("float32")
y = np.tanh(x[:, :2])


class Killing(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 3 and batch == 1 and rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(path=None, *more):
    keras.utils.set_random_seed(5)
    apoptosis = ka.callbacks.NeuronApoptosis(
        tolerance=0.1,
        data=ka.distributed.shard(x),
        schedule=ka.schedules.EveryEpoch(2),
        min_gain=0.0,
        verbose=False,
    )
    scaling = ka.distributed.LearningRateScaling(warmup_epochs=4)
    # As of a rank whose disk never held the checkpoint.
    path = path if rank == 0 else folder / "elsewhere.keras"
    checkpoint = ka.callbacks.Checkpoint(path, [apoptosis, scaling])
    model = checkpoint.restore()
    if model is None:
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.1),
                keras.layers.Dense(2),
            ]
        )
        model.compile(keras.optimizers.Adam(0.005), "mse")
    ka.distributed.DistributedOptimizer(model.optimizer)
    first = checkpoint.epoch
    model.fit(
        ka.distributed.shuffled_batches(x, y, batch_size=24, first_epoch=first),
        steps_per_epoch=10,
        shuffle=False,
        epochs=6,
        initial_epoch=first,
        verbose=0,
        callbacks=[
            ka.distributed.BroadcastInitialState(),
            apoptosis,
            scaling,
            *more,
            checkpoint,
        ],
    )
    np.savez(
        folder / f"{'resumed' if first else 'whole'}-{rank}.npz",
        *[each.numpy() for each in model.variables],
        *[each.numpy() for each in model.optimizer.variables],
        first=first,
        parameters=model.count_params(),
        events=len(apoptosis.history),
    )


if resume:
    train(folder / "run.keras")
    train(folder / "whole.keras")
else:
    train(folder / "run.keras", Killing())

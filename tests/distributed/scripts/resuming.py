"""`resuming.py FOLDER HOW`: a training that is killed in epoch 3, and goes on.

With `break` it is killed; with `rest` it goes on from there; with `resume` it
does, and then an uninterrupted one follows; `restart` is `break` where
`torchrun` starts the job, and `resume` where it starts it again.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import keras_apoptosis as ka

folder, how = Path(sys.argv[1]), sys.argv[2]
if how == "restart":
    again = os.environ["TORCHELASTIC_RESTART_COUNT"] == "1"
    how = "resume" if again else "break"
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
        *map(keras.ops.convert_to_numpy, model.variables),
        *map(keras.ops.convert_to_numpy, model.optimizer.variables),
        first=first,
        parameters=model.count_params(),
        events=len(apoptosis.history),
    )


if how == "break":
    train(folder / "run.keras", Killing())
else:
    if how == "resume" and rank == 0:
        shutil.copy(folder / "run.keras", folder / "broken.keras")
    train(folder / "run.keras")
    if how == "resume":
        train(folder / "whole.keras")

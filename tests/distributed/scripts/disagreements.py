"""Things on which ranks differ. Each rank prints `rank NAME: the error`."""

import atexit
import os

import keras
import numpy as np

import keras_apoptosis as ka
from keras_apoptosis.training.masking import mask_weights


def still_connected():
    from torch import distributed

    if distributed.is_initialized():
        os._exit(3)  # A thread of Gloo might abort the process instead.


if keras.backend.backend() == "torch":
    atexit.register(still_connected)  # Comes last: it is registered first.
ka.distributed.init(timeout=60)
rank, size = ka.distributed.rank(), ka.distributed.size()
last = rank == size - 1
x = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")


def make(units=8, distributed=True, prunable=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(units, activation="relu", name="one"),
            keras.layers.Dense(1),
        ]
    )
    if prunable:
        model = ka.make_prunable(model)
    optimizer = keras.optimizers.SGD(0.1)
    if distributed:
        ka.distributed.DistributedOptimizer(optimizer)
    model.compile(optimizer, "mse")
    return model


def fit(model, rows=48, epochs=1, callbacks=(), broadcast=True):
    first = [ka.distributed.BroadcastInitialState()] if broadcast else []
    return model.fit(
        x[:rows],
        x[:rows, :1],
        batch_size=8,
        epochs=epochs,
        verbose=0,
        callbacks=[*first, *callbacks],
    )


class AtEpochEnd(keras.callbacks.Callback):
    def __init__(self, work):
        super().__init__()
        self.work = work

    def on_epoch_end(self, epoch, logs=None):
        self.work(self.model, logs)


def sizes():
    fit(make(), rows=24 if last else 48)


def shapes():
    fit(make(units=9 if last else 8))


def removal():
    model = make()
    removal = ka.Removal({"one": [2 if last else 1]})
    try:
        fit(model, callbacks=[AtEpochEnd(lambda m, _: ka.shrink(m, removal))])
    finally:
        assert model.layers[0].units == 8  # Before anything has changed.


def masks():
    model = make(prunable=True)
    mask = np.ones((4, 8), bool)
    mask[0, 1 if last else 0] = False
    work = AtEpochEnd(lambda m, _: mask_weights(m, {m.layers[0]: mask}))
    try:
        fit(model, callbacks=[work])
    finally:
        assert model.layers[0].kernel_mask is None


def weights():
    def change(model, logs):
        if last:
            bias = model.layers[0].bias
            old = keras.ops.convert_to_numpy(bias)
            bias.assign(np.nextafter(old, 1.0, dtype="float32"))

    fit(make(), epochs=3, callbacks=[AtEpochEnd(change)])


def metrics():
    def add(model, logs):
        if last:
            logs["mine"] = 1.0

    average = ka.distributed.MetricAverage()
    fit(make(), callbacks=[AtEpochEnd(add), average])


def no_callback():
    fit(make(), broadcast=False)


def no_optimizer():
    fit(make(distributed=False))


def twice():
    ka.distributed.DistributedOptimizer(make().optimizer)


def uneven():
    ka.distributed.shuffled_batches(x, batch_size=16 * size + 1)


for work in (
    sizes,
    shapes,
    removal,
    masks,
    weights,
    metrics,
    no_callback,
    no_optimizer,
    twice,
    uneven,
):
    try:
        work()
    except (RuntimeError, ValueError) as error:
        found = str(error).replace("\n", " ")
        print(f"{rank} {work.__name__}: {found}", flush=True)

# What is not done together needs to be said.
if last:
    with ka.distributed.alone():
        ka.shrink(make(), ka.Removal({"one": [2]}))

# Logs are averaged, and rates go up to N times the base.
scaling = ka.distributed.LearningRateScaling(warmup_epochs=2)
rates, losses = [], []


class Rates(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        rates.append(float(self.model.optimizer.learning_rate))


logs = {}
work = AtEpochEnd(lambda model, logs: logs.update(mine=float(rank)))
model = make()
history = fit(
    model,
    epochs=3,
    callbacks=[work, ka.distributed.MetricAverage(), scaling, Rates()],
).history
print(f"{rank} mean: {history['mine']}", flush=True)
print(f"{rank} rates: {np.round(rates, 4).tolist()}", flush=True)

# Parts of the data: as many, none twice.
parts = ka.distributed.shard({"a": np.arange(10), "b": np.arange(10)})
print(f"{rank} array: {parts['a'].tolist()}", flush=True)
if keras.backend.backend() == "tensorflow":  # It is hidden from the others.
    import tensorflow as tf

    dataset = ka.distributed.shard(tf.data.Dataset.range(10))
    print(f"{rank} dataset: {list(map(int, dataset))}", flush=True)

"""A job in which the last rank fails: `failing.py HOW TIMEOUT`."""

import os
import signal
import sys
import time

import keras
import numpy as np

import keras_apoptosis as ka

how, timeout = sys.argv[1], float(sys.argv[2])
ka.distributed.init(timeout=timeout)
last = ka.distributed.rank() == ka.distributed.size() - 1


class Failing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch != 2 or not last:
            return
        print("FAILING", flush=True)
        if how == "raise":
            raise MemoryError("planted")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(600)
        if how == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)


x = np.zeros((800, 4), "float32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(
    ka.distributed.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse"
)
model.fit(
    x,
    x[:, :1],
    batch_size=8,
    verbose=0,
    callbacks=[ka.distributed.BroadcastInitialState(), Failing()],
)
print("FINISHED", flush=True)

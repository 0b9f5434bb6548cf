"""Trains a tiny model with pruning: run where only a wheel is installed."""

import importlib.util
import os

import keras
import numpy as np

import keras_apoptosis as ka

BACKENDS = {"tensorflow", "jax", "torch"}

here = {name for name in BACKENDS if importlib.util.find_spec(name)}
assert here == {os.environ["KERAS_BACKEND"]}, f"installed: {here}"

x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential(
    [
        keras.Input((8,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile("adam", "binary_crossentropy")
before = model.count_params()
pruning = ka.callbacks.SaliencyPruning(
    schedule=ka.schedules.AtEpochs({1: 0.5}), data=(x, y)
)
model.fit(x, y, epochs=3, verbose=0, callbacks=[pruning])
after = model.count_params()
assert after < before, f"{before} parameters, then {after}"
print(f"{keras.backend.backend()}: {before} parameters, then {after}")

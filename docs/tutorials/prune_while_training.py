# %% [markdown]
# # Prune while training
#
# At the end of this tutorial you have a digit classifier that lost most of its
# neurons in the `fit` that trained it, a table of what that cost, and a file
# that any Keras loads.

# %%
import tempfile
import time

import keras
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_apoptosis as ka

# %% [markdown]
# ## The data
#
# Scikit-learn's digits are 1,797 images of 8 x 8 pixels. We set two parts
# aside: with the *validation* images we choose, with the *test* images we
# judge, once, at the end.

# %%
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
x, x_test, y, y_test = train_test_split(
    images, labels, test_size=360, stratify=labels, random_state=0
)
x, x_val, y, y_val = train_test_split(
    x, y, test_size=360, stratify=y, random_state=0
)
x.shape, x_val.shape, x_test.shape

# %% [markdown]
# ## The model
#
# An ordinary Keras model with two hidden layers, much wider than they need to
# be. Nothing in it is special to pruning.


# %%
def build(pixels, width):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((pixels,)),
            layers.Dense(width, activation="relu", name="hidden_1"),
            layers.Dense(width, activation="relu", name="hidden_2"),
            layers.Dense(10, name="logits"),
        ]
    )
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


# %% [markdown]
# `ka.report` lists the *unit groups* of a model, what one unit of each costs,
# and which methods can remove it. The ten logits stay: the model returns them.

# %%
print(ka.report(build(64, width=256)))

# %% [markdown]
# ## Without pruning
#
# First the baseline. Every model of this page is trained by the same function,
# so that they differ in the callback alone.


# %%
def train(model, callbacks=(), epochs=30):
    start = time.perf_counter()
    history = model.fit(
        x,
        y,
        epochs=epochs,
        validation_data=(x_val, y_val),
        callbacks=list(callbacks),
        verbose=0,
    )
    return history, time.perf_counter() - start


plain = build(64, width=256)
history, plain_seconds = train(plain)
print(f"validation accuracy {history.history['val_accuracy'][-1]:.1%}")

# %% [markdown]
# ## With one callback
#
# `NeuronApoptosis` removes units that the others can replace. On a sample of
# the *training* data it looks for the units that explain the rest, and adds
# what the others did to the weights of the next layer. It does so a few times;
# after each, training goes on with the smaller model.

# %%
apoptosis = ka.callbacks.NeuronApoptosis("normal", data=x)
pruned = build(64, width=256)
history, seconds = train(pruned, [apoptosis])

# %% [markdown]
# Every event is on record, with the widths before and after. Look at the
# skipped ones as well: a removal costs tracing the training step anew, so one
# that would save little is left out.

# %%
for event in apoptosis.history:
    print(event)

# %% [markdown]
# The logs of `fit` have the widths and the number of parameters of each epoch.
# Look at the accuracy in the epochs in which the widths drop: if it dips and
# does not come back, that was too much.
#
# <!-- Figure: Four line plots over 30 epochs. Units: the two hidden layers, of
# 256 each, lose most of their units at an event in epoch 8 and some more at one
# in epoch 15. Parameters: they fall with them, from 85,000 to about 10,000 and
# then 5,000. Accuracy: on validation images it dips a little in epoch 8, comes
# back and ends near 98 %. Loss: it falls all the time, in validation to about
# 0.1. -->

# %%
ka.plot_history(history)

# %% [markdown]
# ## How much to prune
#
# The level is yours to choose, and the validation data are there to choose it.
# The rule here: the smallest model that is at most one point worse than the
# plain one.


# %%
def accuracy(model, x, y):
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


runs = {"plain": (plain, plain_seconds), "normal": (pruned, seconds)}
for level in ("conservative", "very_aggressive"):
    model = build(64, width=256)
    callback = ka.callbacks.NeuronApoptosis(level, data=x)
    runs[level] = model, train(model, [callback])[1]

table = pd.DataFrame(
    {
        "method": name,
        "validation accuracy, %": accuracy(model, x_val, y_val),
        "parameters": model.count_params(),
        "FLOPs": ka.flops(model),
        "seconds of fit": seconds,
    }
    for name, (model, seconds) in runs.items()
).set_index("method")
table.round(1)

# %% [markdown]
# A network as small as this takes longer to trace than to train, so pruning
# saves no time here.

# %%
limit = table["validation accuracy, %"]["plain"] - 1
within = table[table["validation accuracy, %"] >= limit]
chosen = within["parameters"].idxmin()
chosen

# %% [markdown]
# Only now the test images come in, for the plain model and the chosen one. Each
# of them is 0.28 points: a difference of an image or two says nothing.

# %%
pd.DataFrame(
    {
        "method": name,
        "test accuracy, %": accuracy(runs[name][0], x_test, y_test),
        "parameters": runs[name][0].count_params(),
    }
    for name in dict.fromkeys(["plain", chosen])
).set_index("method").round(1)

# %% [markdown]
# ## Keep it
#
# The result is a plain Keras model: no masks, no layers of this package. Its
# file loads wherever Keras is installed.

# %%
path = tempfile.mkdtemp() + "/small.keras"
small = runs[chosen][0]
small.save(path)
loaded = keras.saving.load_model(path)
outputs = [model.predict(x_test, verbose=0) for model in (small, loaded)]
print("largest difference:", np.abs(outputs[0] - outputs[1]).max())

# %% [markdown]
# ## The same on MNIST
#
# Larger images, wider layers, more of them, and so more to save. TFDS downloads
# MNIST once (11 MB). The level is the default, which was not chosen on these
# data; to keep it short we train on 15,000 images.

# %%
(x, y), (x_val, y_val), (x_test, y_test) = (
    (images.reshape(-1, 784).astype("float32") / 255, labels)
    for images, labels in tfds.as_numpy(
        tfds.load(
            "mnist",
            split=["train[:15000]", "train[-5000:]", "test"],
            as_supervised=True,
            batch_size=-1,
        )
    )
)
apoptosis = ka.callbacks.NeuronApoptosis(data=x[:4096])
plain, pruned = build(784, width=512), build(784, width=512)
_, plain_seconds = train(plain, epochs=6)
history, seconds = train(pruned, [apoptosis], epochs=6)

# %% [markdown]
# <!-- Figure: Four line plots over 6 epochs. Units: the two hidden layers, of
# 512 each, shrink in epochs 2 and 3, the second one far more. Parameters: from
# 670,000 to about 220,000. Accuracy: on validation images it rises to 96 % and
# stays there. Loss: in training it goes on falling, in validation it rises a
# little after epoch 3. -->

# %%
ka.plot_history(history)

# %%
pd.DataFrame(
    {
        "method": name,
        "test accuracy, %": accuracy(model, x_test, y_test),
        "parameters": model.count_params(),
        "FLOPs": ka.flops(model),
        "seconds of fit": seconds,
    }
    for name, model, seconds in (
        ("plain", plain, plain_seconds),
        ("normal", pruned, seconds),
    )
).set_index("method").round(2)

# %% [markdown]
# One seed: differences of some tenths of a point are within what another seed
# changes. In so short a training the events cost about as much time as they
# save. In a full one, with 1,024 units a layer, `fit` is 2.4 times faster and
# ends with 11 times fewer parameters, at 0.37 points less accuracy: see
# [the results](../results/neuron_apoptosis.md).
#
# ## Where to read on
#
# - To say what the model may cost instead of a level:
#   [a CNN to half of its FLOPs](cnn_to_half_its_flops.py).
# - What a removal does: [concepts](../concepts.md).

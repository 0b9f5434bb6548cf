# %% [markdown]
# # A CNN to half of its FLOPs
#
# At the end of this tutorial you have a CIFAR-10 network that takes half of the
# arithmetic of the one you began with, by two ways: pruned while it trains, and
# pruned afterwards by one call.
#
# To take a minute it trains on 5,000 images for five epochs: do not expect the
# accuracies of papers.

# %%
import tempfile
import time

import keras
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from keras import layers

import keras_apoptosis as ka

# %% [markdown]
# ## The data
#
# TFDS downloads CIFAR-10 once (160 MB). We choose with validation images that
# are no part of the training, and judge with test images at the end.

# %%
(x, y), (x_val, y_val), (x_test, y_test) = (
    (images.astype("float32") / 255, labels)
    for images, labels in tfds.as_numpy(
        tfds.load(
            "cifar10",
            split=["train[:5000]", "train[-2000:]", "test[:5000]"],
            as_supervised=True,
            batch_size=-1,
        )
    )
)
x.shape, x_val.shape, x_test.shape

# %% [markdown]
# ## The model
#
# Four convolutions with batch normalization, and a residual connection.


# %%
def block(x, filters, name):
    x = layers.Conv2D(
        filters, 3, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = block(inputs, 16, "first")
    x = layers.MaxPooling2D()(x)
    x = shortcut = block(x, 32, "second")
    x = layers.Add()([block(x, 32, "third"), shortcut])
    x = layers.MaxPooling2D()(x)
    x = block(x, 64, "fourth")
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x))
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


# %% [markdown]
# Look at the row of `second_conv`. The addition ties its channels to those of
# `third_conv`, so that they can only leave in pairs, which are one group. A
# channel of it saves far more FLOPs than one of `fourth_conv`: what to remove
# is a matter of prices.

# %%
plain = build()
print(ka.report(plain))


# %% [markdown]
# ## Afterwards, in one call
#
# We train for four epochs and keep a copy.


# %%
def train(model, callbacks=(), first=0, last=5):
    return model.fit(
        x,
        y,
        batch_size=128,
        initial_epoch=first,
        epochs=last,
        validation_data=(x_val, y_val),
        callbacks=list(callbacks),
        verbose=0,
    )


train(plain, last=4)
path = tempfile.mkdtemp() + "/plain.keras"
plain.save(path)

# %% [markdown]
# The target is half of the FLOPs. Training images tell which channels the
# others can replace. In the report, look at `met`, and at the notes: they say
# what could not be done exactly, here at the borders of padded convolutions.

# %%
target = ka.targets.Flops(at_most=0.5)
afterwards = keras.saving.load_model(path)
print(ka.prune(afterwards, target, data=x[:2000]))

# %% [markdown]
# Now compare, with care. The moving averages of batch normalizations lag behind
# in a training as short as this, and a good network may test badly. `ka.prune`
# and the callbacks compute them anew from their data. The plain model has to
# get the same, by `ka.recalibrate`, or the comparison is unfair.


# %%
def accuracy(model, images, labels):
    ka.recalibrate(model, x[:2000])
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


print(f"after four epochs: {accuracy(plain, x_val, y_val):.1f} %")
print(f"pruned:            {accuracy(afterwards, x_val, y_val):.1f} %")

# %% [markdown]
# Both get their fifth epoch.

# %%
_ = train(plain, first=4)
_ = train(afterwards, first=4)

# %% [markdown]
# ## While it trains
#
# The same target, given to a callback: it goes there in steps, and training
# goes on after each. The validation curve jumps up where the moving averages
# have just been computed anew: after events, and at the end.

# %%
apoptosis = ka.callbacks.NeuronApoptosis(target=target, data=x[:2000])
during = build()
history = train(during, [apoptosis])

# %% [markdown]
# <!-- Figure: Four line plots over the epochs. Units: the three groups of
# channels shrink in two steps. Parameters: they fall in the same steps.
# Accuracy: it rises in training; on validation images it jumps where moving
# averages are computed anew. Loss: it falls in training, and in validation with
# jumps. -->

# %%
ka.plot_history(history)

# %% [markdown]
# <!-- Figure: Bars of the channels of the three groups, before and after. Each
# has lost some of them. -->

# %%
ka.plot_groups(apoptosis.history)

# %% [markdown]
# ## What it costs, and what it saves
#
# Half of the FLOPs is not half of the time: narrow convolutions use a processor
# less well. We measure all three in turns, and take medians.


# %%
def milliseconds(models, repeats=5):
    for model in models:
        model.predict_on_batch(x[:256])
    times = []
    for _ in range(repeats):
        for model in models:
            start = time.perf_counter()
            model.predict_on_batch(x[:256])
            times.append(1000 * (time.perf_counter() - start))
    return np.median(np.reshape(times, (repeats, -1)), axis=0)


models = {"plain": plain, "afterwards": afterwards, "while training": during}
times = milliseconds(models.values())
table = pd.DataFrame(
    {
        "pruned": name,
        "validation accuracy, %": accuracy(model, x_val, y_val),
        "FLOPs": ka.flops(model),
        "parameters": model.count_params(),
        "ms for 256 images": time,
    }
    for (name, model), time in zip(models.items(), times, strict=True)
).set_index("pruned")
table.round(1)

# %% [markdown]
# The better of the two on validation images goes to the test, beside the plain
# model. On 5,000 images an accuracy has a standard error of 0.7 points.

# %%
chosen = table["validation accuracy, %"].drop("plain").idxmax()
pd.DataFrame(
    {
        "pruned": name,
        "test accuracy, %": accuracy(models[name], x_test, y_test),
    }
    for name in ("plain", chosen)
).set_index("pruned").round(1)

# %% [markdown]
# Half of a network as small as this costs points; a `ka.Limit` says how many
# they may be. This is one seed of a very short training, so do not read from it
# which of the two ways is better. What lasts: a model that is pruned early also
# *trains* on half of the FLOPs from then on.
#
# ## Where to read on
#
# - Other targets (`Parameters`, `Bytes`, `Latency`) and limits on what pruning
#   may cost: [targets and limits](../concepts.md#targets).
# - How this compares with other pruners:
#   [results](../results/targets.md#beside-other-pruners).

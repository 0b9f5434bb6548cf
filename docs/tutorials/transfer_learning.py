# %% [markdown]
# # Transfer learning with a frozen base
#
# At the end of this tutorial you have a classifier of the digits 5 to 9, made
# from a network that has learned 0 to 4: its base was frozen, and lost the
# channels that the new digits do not need.

# %%
import tempfile

import keras
import pandas as pd
import tensorflow_datasets as tfds
from keras import layers

import keras_apoptosis as ka

# %% [markdown]
# ## Two tasks
#
# Of the old task there are many images, of the new one 1,000, and as many to
# choose with.

# %%
(x, y), (x_test, y_test) = (
    (images.astype("float32") / 255, labels)
    for images, labels in tfds.as_numpy(
        tfds.load(
            "mnist",
            split=["train[:16000]", "test"],
            as_supervised=True,
            batch_size=-1,
        )
    )
)
old, new = y < 5, y >= 5
x_old, y_old = x[old], y[old]
x_new, y_new = x[new][:1000], y[new][:1000] - 5
x_val, y_val = x[new][1000:2000], y[new][1000:2000] - 5
x_test, y_test = x_test[y_test >= 5], y_test[y_test >= 5] - 5
len(x_old), len(x_new), len(x_val), len(x_test)

# %% [markdown]
# ## The base
#
# Two convolutions, trained on 0 to 4. In practice this is a model from
# `keras.applications` or KerasHub, with weights that somebody else has trained.

# %%
keras.utils.set_random_seed(0)
base = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(32, 3, activation="relu", name="conv_1"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, activation="relu", name="conv_2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
    ],
    name="base",
)


def with_head(base, width):
    inputs = keras.Input((28, 28, 1))
    x = base(inputs)
    x = layers.Dense(width, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x))
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


with_head(base, 64).fit(x_old, y_old, batch_size=128, epochs=2, verbose=0)
path = tempfile.mkdtemp() + "/base.keras"
base.save(path)

# %% [markdown]
# ## Freeze it
#
# `trainable = False` is all that Keras needs, and the package keeps to it. Look
# at the last column: the channels of the base are not prunable, since removing
# them would change weights that you have frozen.


# %%
def frozen_with_head():
    keras.utils.set_random_seed(1)
    base = keras.saving.load_model(path)
    base.trainable = False
    return with_head(base, 128)


frozen = frozen_with_head()
print(ka.report(frozen))


# %% [markdown]
# ## Three trainings
#
# The first prunes nothing, the second what is not frozen: the hidden layer of
# the head. The third says `prune_non_trainable=True`. The base still does not
# *train*, but channels may leave it, and the weights that read them take over
# what they did.


# %%
def train(callbacks=()):
    model = frozen_with_head()
    history = model.fit(
        x_new,
        y_new,
        epochs=12,
        validation_data=(x_val, y_val),
        callbacks=list(callbacks),
        verbose=0,
    )
    return model, history


plain, _ = train()
head = ka.callbacks.NeuronApoptosis(data=x_new)
head_pruned, _ = train([head])
everything = ka.callbacks.NeuronApoptosis(data=x_new, prune_non_trainable=True)
base_pruned, history = train([everything])

# %% [markdown]
# <!-- Figure: Four line plots over 12 epochs, of head and base pruned. Units:
# at events in epochs 3 and 6 the hidden layer of the head falls far, the two
# convolutions of the base by a third to a half. Parameters: from 225,000 to
# about 40,000 and 22,000. Accuracy: on validation images it is about 95 % from
# epoch 2 on, and a point less in the last epochs. Loss: in training it falls,
# in validation it rises slowly. -->

# %%
ka.plot_history(history)

# %% [markdown]
# <!-- Figure: Bars of the units of each group, before and after: 32 to about 14
# in the first convolution of the base, 64 to about 41 in the second, 128 to
# about 16 in the head. -->

# %%
ka.plot_groups(everything.history)

# %% [markdown]
# ## What it costs


# %%
def accuracy(model, x, y):
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


models = {
    "nothing": plain,
    "the head": head_pruned,
    "head and base": base_pruned,
}
table = pd.DataFrame(
    {
        "pruned": name,
        "validation accuracy, %": accuracy(model, x_val, y_val),
        "parameters": model.count_params(),
        "FLOPs": ka.flops(model),
    }
    for name, model in models.items()
).set_index("pruned")
table.round(1)

# %% [markdown]
# In FLOPs the base is nearly all of the model. Whoever prunes the head alone
# saves parameters, and hardly any time.
#
# The choice, on validation images: the cheapest that loses at most one point.
# Then the test, once. With 4,861 images the standard error is 0.2 points.

# %%
limit = table["validation accuracy, %"]["nothing"] - 1
chosen = table[table["validation accuracy, %"] >= limit]["FLOPs"].idxmin()
pd.DataFrame(
    {
        "pruned": name,
        "test accuracy, %": accuracy(models[name], x_test, y_test),
        "FLOPs": ka.flops(models[name]),
    }
    for name in dict.fromkeys(["nothing", chosen])
).set_index("pruned").round(2)

# %% [markdown]
# One thing to know: pruning is in place. A base that other models share shrinks
# for them as well, and has forgotten what only they needed. That is why each
# training above loads a base of its own.
#
# ## Where to read on
#
# - Which models of `keras.applications` can be pruned:
#   [the list](../applications.md); [KerasHub's backbones](../kerashub.md).
# - All arguments that methods share:
#   [the methods](../methods.md#what-all-share).

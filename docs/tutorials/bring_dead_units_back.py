# %% [markdown]
# # Bring dead units back
#
# At the end of this tutorial you have counted the dead units of a network,
# brought most of them back to life while it trains, and removed the rest.
#
# A ReLU that is zero for every sample gets no gradient: its unit is *dead*, and
# training alone rarely revives it. *Synaptic stripping* masks the most negative
# weights of dead units at the end of each epoch, until they are active again.

# %%
import keras
import matplotlib.pyplot as plt
import pandas as pd
import tensorflow_datasets as tfds
from keras import layers

import keras_apoptosis as ka

# %% [markdown]
# ## Data and model
#
# CIFAR-10, and a perceptron with two wide layers, as in the paper. The learning
# rate is high, which kills units quickly enough for a tutorial. Dead units are
# judged on the validation images.

# %%
(x, y), (x_val, y_val), (x_test, y_test) = (
    (images.astype("float32").reshape(len(images), -1) / 127.5 - 1, labels)
    for images, labels in tfds.as_numpy(
        tfds.load(
            "cifar10",
            split=["train[:5000]", "train[-2000:]", "test[:5000]"],
            as_supervised=True,
            batch_size=-1,
        )
    )
)


def build():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3072,)),
            layers.Dense(256, activation="relu", name="hidden_1"),
            layers.Dense(256, activation="relu", name="hidden_2"),
            layers.Dense(10, name="logits"),
        ]
    )


def train(model, callback):
    model.compile(
        keras.optimizers.Adam(5e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        x,
        y,
        batch_size=64,
        epochs=15,
        validation_data=(x_val, y_val),
        callbacks=[callback],
        verbose=0,
    ).history


# %% [markdown]
# ## Count them
#
# With `share=0` the callback only counts. A plain model is enough for that,
# with data to judge by.

# %%
plain = build()
counting = ka.callbacks.SynapticStripping(share=0, data=x_val)
plain_logs = train(plain, counting)

# %% [markdown]
# ## Bring them back
#
# Masks need layers that can hold them: `ka.make_prunable` converts the model,
# with its weights. Each dead unit loses a tenth of the weights that it has
# left, at the end of every epoch in which it is dead.

# %%
stripped = ka.make_prunable(build())
stripping = ka.callbacks.SynapticStripping(share=0.1)
logs = train(stripped, stripping)

# %% [markdown]
# <!-- Figure: Two line plots over 15 epochs. Dead units: plain training begins
# and stays at about 100 of 512, with stripping they fall almost steadily to
# about 20. Validation accuracy: both rise from 30 to about 36.5 % and cross
# several times. -->

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name, each in (("plain", plain_logs), ("stripping", logs)):
    epochs = range(1, len(each["dead_units"]) + 1)
    left.plot(epochs, each["dead_units"], marker=".", label=name)
    right.plot(epochs, each["val_accuracy"], marker=".", label=name)
left.set(title="dead units, of 512", xlabel="epoch", ylim=0)
right.set(title="validation accuracy", xlabel="epoch")
_ = left.legend(frameon=False)

# %% [markdown]
# Look at both halves of the figure. Dead units come back; the accuracy hardly
# cares, here and in [our longer runs](../results/synaptic_stripping.md). Units
# that are active again are capacity, and capacity is not what this small
# training is short of.

# %%
print(stripping.history[-1])

# %% [markdown]
# ## Remove what stayed dead
#
# A unit that is dead on the data can leave: outputs on these data do not
# change. `ka.strip_pruning` then folds the masks into plain layers.


# %%
def accuracy(model, x, y):
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


rows = []
for name, model, each in (
    ("plain", plain, plain_logs),
    ("stripping", stripped, logs),
):
    before = accuracy(model, x_val, y_val)
    ka.shrink(model, ka.selection.dead_units(model, x_val))
    model = ka.strip_pruning(model)
    rows.append(
        {
            "method": name,
            "dead units": int(each["dead_units"][-1]),
            "active parameters, %": 100 * each["active_parameters"][-1],
            "validation accuracy, %": before,
            "without dead units, %": accuracy(model, x_val, y_val),
            "parameters then": model.count_params(),
            "test accuracy, %": accuracy(model, x_test, y_test),
        }
    )
pd.DataFrame(rows).set_index("method").round(1)

# %% [markdown]
# Nothing was chosen between the two, so both may be tested. The standard error
# on 5,000 test images is 0.7 points. If all you want is a small model, dead
# units are a gift: the plain network without them is the smaller one.
#
# ## Where to read on
#
# - [`SynapticStripping`](../methods.md#synapticstripping), all its arguments.
# - [Dead and frozen units](../concepts.md#dead-and-frozen-units), and how
#   `UnitMonitor` records what becomes of units.

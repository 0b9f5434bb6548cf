# %% [markdown]
# # Resume after a crash
#
# At the end of this tutorial you have a training that dies half-way, after the
# model has already shrunk, and goes on as if nothing had happened: to the last
# bit of its weights.

# %%
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_apoptosis as ka

# %%
images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
x, x_test, y, y_test = train_test_split(
    images, labels, test_size=360, stratify=labels, random_state=0
)
x, x_val, y, y_val = train_test_split(
    x, y, test_size=360, stratify=y, random_state=0
)


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(256, activation="relu", name="hidden_1"),
            layers.Dropout(0.2),
            layers.Dense(256, activation="relu", name="hidden_2"),
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
# ## A training that can be resumed
#
# Write it so that the same lines start it and resume it. `Checkpoint` saves the
# model at the end of each epoch, as small as it is by then, with its optimizer,
# its seeds, and what the method has behind it. `restore` returns the model from
# the file, or `None` if there is no file yet.
#
# Two details make the result the same to the last bit. The order of the batches
# has to follow from the epoch alone: `shuffled_batches` does that, `fit`'s own
# shuffling does not. And `initial_epoch` says where to go on.


# %%
def train(path, epochs=30, more=()):
    apoptosis = ka.callbacks.NeuronApoptosis(data=x)
    checkpoint = ka.callbacks.Checkpoint(path, [apoptosis])
    model = checkpoint.restore() or build()
    parameters = f"{model.count_params():,} parameters"
    print(f"begins at epoch {checkpoint.epoch}, with {parameters}")
    history = model.fit(
        ka.distributed.shuffled_batches(x, y, first_epoch=checkpoint.epoch),
        steps_per_epoch=len(x) // 32,
        shuffle=False,  # They are.
        initial_epoch=checkpoint.epoch,
        epochs=epochs,
        validation_data=(x_val, y_val),
        callbacks=[apoptosis, checkpoint, *more],
        verbose=0,
    )
    return model, apoptosis, history.history


# %% [markdown]
# ## It dies
#
# The machine is taken away in the middle of the epoch with index 17. The
# exception stands for that; a killed process leaves the same file.


# %%
class Crash(keras.callbacks.Callback):
    """Raises an error in the middle of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (17, 5):
            raise RuntimeError("The machine is gone.")


folder = Path(tempfile.mkdtemp())
try:
    train(folder / "run.keras", more=[Crash()])
except RuntimeError as error:
    print(error)

# %% [markdown]
# ## It goes on
#
# The same call again. Look at the first line: it begins with epoch 17, which
# had not ended, and with the smaller model.

# %%
resumed, apoptosis, history = train(folder / "run.keras")

# %% [markdown]
# The events of before the crash are in the history, and none fires twice.

# %%
for event in apoptosis.history:
    print(event)

# %% [markdown]
# ## It is the same
#
# For comparison a training that was never interrupted, of the same seed.

# %%
whole, _, whole_history = train(folder / "whole.keras")
pairs = zip(resumed.get_weights(), whole.get_weights(), strict=True)
print("equal to the last bit:", all(np.array_equal(*each) for each in pairs))

# %% [markdown]
# <!-- Figure: Four line plots over 30 epochs of the training that was not
# interrupted. Units: the two hidden layers, of 256 each, lose most of their
# units at an event in epoch 8 and some more at one in epoch 15. Parameters:
# from 85,000 to 11,000 and then about 7,000. Accuracy: on validation images it
# hardly dips, and ends near 97 %. Loss: in validation it settles near 0.1. -->

# %%
ka.plot_history(whole_history)

# %% [markdown]
# ## What it comes to


# %%
def accuracy(model, x, y):
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    return 100 * found["accuracy"]


pd.DataFrame(
    {
        "training": name,
        "validation accuracy, %": accuracy(model, x_val, y_val),
        "test accuracy, %": accuracy(model, x_test, y_test),
        "parameters": model.count_params(),
        "file, bytes": (folder / f"{file}.keras").stat().st_size,
    }
    for name, model, file in (
        ("whole", whole, "whole"),
        ("resumed", resumed, "run"),
    )
).set_index("training").round(1)

# %% [markdown]
# The files hold the optimizer as well; `model.save(path,
# include_optimizer=False)` makes a smaller one to deploy.
#
# Not everything goes on by itself: Keras' own callbacks, such as
# `EarlyStopping`, begin anew, and what an interrupted epoch had done is done
# again.
#
# ## Where to read on
#
# - [What `Checkpoint` stores](../how_to.md#resume-an-interrupted-training), in
#   short.
# - On several processes the same lines resume, with any number of processes:
#   [clusters](../cluster.md#when-something-fails).

# %% [markdown]
# # Several processes
#
# At the end of this tutorial you have trained and pruned one model by two
# processes, started by the launcher of PyTorch, and have seen that they end
# with the same weights.
#
# A notebook is one process, so the training is a script. We write it from here,
# start it twice, and compare.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import pandas as pd

import keras_apoptosis as ka

folder = Path(tempfile.mkdtemp())
script = folder / "train.py"

# %% [markdown]
# ## The script
#
# It runs on one process as well. Six lines are there for several; each does
# nothing on one:
#
# 1. `ka.distributed.init()` joins the processes that the launcher has started.
# 2. `shard` gives each process its part of the data by which units are judged,
#    and of the validation data.
# 3. `DistributedOptimizer` averages the gradients, in every step.
# 4. `shuffled_batches` gives each process its part of each batch. The batch
#    size is that of all together, so the training is the same.
# 5. `BroadcastInitialState` gives all the weights of the first process, and
#    checks after each epoch that they are still equal, to the last bit.
# 6. `MetricAverage` makes the logs those of all.

# %%
# %%writefile {script}
import json
import sys
import time
from pathlib import Path

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_apoptosis as ka

BATCH, EPOCHS = 64, 20

ka.distributed.init()
keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
x, x_val, y, y_val = train_test_split(
    (images / 16).astype("float32"), labels, test_size=360, random_state=0
)
model = keras.Sequential(
    [
        keras.Input((64,)),
        layers.Dense(256, activation="relu", name="hidden_1"),
        layers.Dense(256, activation="relu", name="hidden_2"),
        layers.Dense(10, name="logits"),
    ]
)
model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
ka.distributed.DistributedOptimizer(model.optimizer)
apoptosis = ka.callbacks.NeuronApoptosis(data=ka.distributed.shard(x[:1024]))
start = time.perf_counter()
history = model.fit(
    ka.distributed.shuffled_batches(x, y, batch_size=BATCH),
    steps_per_epoch=len(x) // BATCH,
    shuffle=False,  # They are.
    epochs=EPOCHS,
    validation_data=ka.distributed.shard((x_val, y_val)),
    callbacks=[
        ka.distributed.BroadcastInitialState(),
        apoptosis,
        ka.distributed.MetricAverage(),
    ],
    verbose=0,
).history
history["seconds"] = time.perf_counter() - start
if ka.distributed.is_primary():
    with ka.distributed.alone():
        model.save(f"{sys.argv[1]}.keras")
    Path(f"{sys.argv[1]}.json").write_text(json.dumps(history))
    print(f"{ka.distributed.size()} processes: {apoptosis.history[0]}")

# %% [markdown]
# ## Start it
#
# `torchrun` comes with PyTorch. On TensorFlow the launcher is `horovodrun`, on
# JAX it is `srun`; the script stays the same. Each process gets one thread, as
# processes that share a machine should.


# %%
def launch(processes):
    out = folder / f"on_{processes}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, f"--nproc-per-node={processes}", script, out],
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(done.stdout)
    return json.loads(out.with_suffix(".json").read_text())


histories = {processes: launch(processes) for processes in (1, 2)}

# %% [markdown]
# ## Compare
#
# All processes decide on the same removal, and compare it before they apply it.
# Batches are the same as on one, so the models end the same up to the rounding
# of sums. Where rounding tips a decision between two units that are as good,
# widths may differ by one or two, and a few of the 360 validation images with
# them.
#
# <!-- Figure: Four line plots over 20 epochs on two processes. Units: the two
# hidden layers, of 256 each, lose most of their units at an event in epoch 5
# and some more at one in epoch 10. Parameters: from 85,000 to about 10,000 and
# then 5,000. Accuracy: on validation images it ends near 97 %, without a drop
# at the events. Loss: it falls, in validation to about 0.1. -->

# %%
ka.plot_history(histories[2])

# %%
models = {
    processes: keras.saving.load_model(folder / f"on_{processes}.keras")
    for processes in histories
}
pd.DataFrame(
    {
        "processes": processes,
        "hidden_1": history["units/hidden_1"][-1],
        "hidden_2": history["units/hidden_2"][-1],
        "parameters": models[processes].count_params(),
        "validation accuracy, %": 100 * history["val_accuracy"][-1],
        "seconds of fit": history["seconds"],
    }
    for processes, history in histories.items()
).set_index("processes").round(1)

# %% [markdown]
# On two cores two processes are *slower* than one: they share the cores, and
# wait for each other in every step of a very small network. Several processes
# pay with a processor or GPU for each, and with models for which a step takes
# longer than the exchange of its gradients.
#
# ## Where to read on
#
# - [Clusters](../cluster.md): installing Horovod, JAX, several hosts, what
#   happens when a process fails, and what all of it costs.
# - To go on after a failure: [resume after a crash](resume_after_a_crash.py).

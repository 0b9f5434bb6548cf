"""A loop of one's own around `DistributedDataParallel`; one process: plain.

Prints the loss on all data at the end, and a digest of the weights.
"""

import gc
import os

import keras
import numpy as np
import torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel

import keras_apoptosis as ka
from keras_apoptosis.distributed.collectives import digest_of

size = int(os.environ.get("WORLD_SIZE", "1"))
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
model = keras.Sequential(
    [
        keras.Input((16,)),
        keras.layers.Dense(32, activation="relu", name="one"),
        keras.layers.Dense(24, activation="relu", name="two"),
        keras.layers.Dense(2),
    ]
)
module = model
if size > 1:
    distributed.init_process_group("gloo")
    module = DistributedDataParallel(model, find_unused_parameters=False)
rank = distributed.get_rank() if size > 1 else 0
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
mine = torch.tensor(x[rank::size])
for group in ("one", "two", "one", None):
    for _ in range(3):
        optimizer.zero_grad()
        loss = (module(mine) - mine[:, :2]).square().mean()
        loss.backward()
        optimizer.step()
    if group is not None:
        ka.shrink(model, ka.Removal({group: [1, 5]}))
digest = digest_of(model.get_weights())
loss = np.square(model(x).detach().numpy() - x[:, :2]).mean()
print(f"rank {rank}: {model.count_params()} {digest} {loss:.6f}")
if size > 1:
    # While the wrapper lives, so do threads of Gloo, which may abort at the
    # end: https://pytorch.org/docs/stable/distributed.html#shutdown
    del module, model, optimizer
    gc.collect()
    distributed.destroy_process_group()

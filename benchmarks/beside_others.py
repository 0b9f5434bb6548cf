"""Removal and training beside other pruners, and beside nothing.

pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1

ResNet-20 on 32 x 32 pixels: some steps, half of each group that can be pruned
leaves, and as many steps again. Others' networks are trained by a plain loop
of PyTorch with a new Adam after the removal; ours goes on with its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "torch"

try:
    import torch_pruning
    from _other_pruners import kirigami_pruner, last_layer
except ImportError as error:
    print(
        f"Skipped, for {error.name} is missing: "
        "pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1"
    )
    sys.exit(0)

import keras
import numpy as np
import torch
from _in_torch import to_torch, torch_inputs
from _measure import compiled, machine, medians, now, turns_of
from _networks import resnet_20
from torch import nn

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

BATCH, STEPS, ROUNDS = 64, 8, 3
X = np.random.default_rng(0).normal(size=(BATCH, 32, 32, 3)).astype("float32")
Y = np.arange(BATCH) % 10
Times = dict[str, float]
# Takes a step of training.
Step = Callable[[], object]


def whole(step: Step, remove: Callable[[Times], Step | None]) -> Times:
    """Trains, removes, and trains on; returns seconds by part."""
    step()  # What is made once, on both sides.
    found: Times = {}
    begin = now()
    for _ in range(STEPS):
        step()
    step = remove(found) or step
    start = now()
    step()
    found["first step"] = now() - start
    start = now()
    for _ in range(STEPS - 1):
        step()
    found["a step"] = (now() - start) / (STEPS - 1)
    found["whole"] = now() - begin
    return found


def ours(prunes: bool) -> Times:
    """In Keras, with the removal or without."""
    model = compiled(resnet_20(side=32))

    def remove(found: Times) -> None:
        if prunes:
            start = now()
            removal = ka.Removal(
                {
                    group.name: range(group.size // 2)
                    for group in ka.unit_groups(model)
                    if group.removable
                }
            )
            found["analysis"] = now() - start
            start = now()
            ka.shrink(model, removal)
            found["surgery"] = now() - start
            left = [int(np.prod(v.shape)) for v in model.trainable_variables]
            found["parameters"] = sum(left)

    return whole(lambda: model.train_on_batch(X, Y), remove)


def theirs(prune: Callable[[nn.Module, Times], nn.Module] | None) -> Times:
    """In PyTorch, pruned by one of the others, or not at all."""
    net = to_torch(resnet_20(side=32), X[:2]).train()

    def remove(found: Times) -> Step | None:
        if prune is None:
            return None
        small = prune(net, found)
        found["parameters"] = sum(each.numel() for each in small.parameters())
        return stepping(small)

    return whole(stepping(net), remove)


def stepping(net: nn.Module) -> Step:
    """Returns a step of Adam on a network."""
    optimizer = torch.optim.Adam(net.parameters())
    x, y = torch_inputs(X), torch.tensor(Y)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def by_torch_pruning(net: nn.Module, found: Times) -> nn.Module:
    """Half of each group, by the graph alone."""
    start = now()
    graph = torch_pruning.DependencyGraph().build_dependency(
        net, torch_inputs(X[:1])
    )
    groups = list(graph.get_all_groups(ignored_layers=[last_layer(net)]))
    found["analysis"] = now() - start
    start = now()
    for group in groups:
        group.prune(list(range(len(group[0].idxs) // 2)))
    found["surgery"] = now() - start
    return net


def by_kirigami(net: nn.Module, found: Times) -> nn.Module:
    """Half of each group of channels that it finds."""
    start = now()
    pruner = kirigami_pruner(net, torch_inputs(X[:1]))
    axes: dict[str, int] = {}
    for each in pruner.discover_candidates().candidates:
        name = each.axis.tensor.paths[0]
        axes[name] = axes.get(name, 0) + 1
    found["analysis"] = now() - start
    start = now()
    plan = pruner.plan_remove(
        [
            pruner.graph.parameter(name).axis(0).select(list(range(size // 2)))
            for name, size in axes.items()
        ]
    )
    net = pruner.apply(plan)[0]
    found["surgery"] = now() - start
    return net


WORKS = {
    "keras-apoptosis": lambda: ours(prunes=True),
    "Keras, not pruned": lambda: ours(prunes=False),
    "Torch-Pruning": lambda: theirs(by_torch_pruning),
    "torch-kirigami": lambda: theirs(by_kirigami),
    "PyTorch, not pruned": lambda: theirs(None),
}
COLUMNS = ("analysis", "surgery", "first step", "a step", "whole")


def main() -> None:
    keras.utils.set_random_seed(0)
    turns = turns_of(WORKS, ROUNDS)
    rows = []
    for name, results in turns.items():
        found = medians(results)
        cells = [f"{found[c]:.3f}" if c in found else "" for c in COLUMNS]
        left = f"{found['parameters']:,.0f}" if "parameters" in found else ""
        rows.append([name, *cells, left])
    print(f"ResNet-20, {STEPS} steps of {BATCH}, half leaves, {STEPS} steps")
    print(table(("seconds", *COLUMNS, "parameters left"), rows))
    print(machine())


if __name__ == "__main__":
    main()

"""Analysis and surgery of ResNet-50, beside Torch-Pruning's.

    pip install --no-deps torch-pruning==1.6.1
    python benchmarks/beside_torch_pruning.py

Both run in one process on one CPU thread, turn by turn, each turn on a new
model with random weights, and cut as many channels of every group. Ours is
Keras' ResNet50 with Adam's slots built; theirs is the ResNet-50 of torchvision,
written out below: the same groups, but without biases in its convolutions, so
slightly fewer parameters. Torch-Pruning cuts no optimizer's slots.

Analysis is `ka.unit_groups` for us, and for them either the dependency graph
and all its groups, or the construction of a pruner, which contains those.
Theirs runs the model once on one image, to trace it; ours reads the graph that
Keras has recorded while it built the model. `ka.shrink` analyses again, which
counts as surgery. One thread, since several wait for each other on a busy
machine, up to thirtyfold as measured; on a quiet one little but that run of
the model gains from a second.

Memory is measured in a new process each, by the kernel: the highest resident
set since just before the surgery, less the resident set then. The allocator is
told to map every block above 64 KiB by itself, so that nothing is reused from
before and all that is freed is given back. Linux only.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import subprocess
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    import torch
    import torch_pruning as pruning
except ImportError as error:
    # Not a failure: `make benchmark` goes on without it.
    print(
        f"Skipped ({error}). It needs PyTorch and Torch-Pruning, which are no "
        "dependencies of this project:\n"
        "    pip install torch==2.13.0\n"
        "    pip install --no-deps torch-pruning==1.6.1",
        file=sys.stderr,
    )
    sys.exit(0)

import keras
import numpy as np
from _measure import clock, cnn, compiled, medians, row, show, turns_of
from torch import nn

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

SHARE = 1 / 3
ROUNDS = 9
IMAGE = 224
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))
MIB = 2**20

torch.set_num_threads(1)


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(
            y + (x if self.downsample is None else self.downsample(x))
        )


class ResNet50(nn.Module):
    """As torchvision has it, down to the names of the parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for number, (width, count) in enumerate(BLOCKS, 1):
            blocks = []
            for index in range(count):
                stride = 2 if index == 0 and number > 1 else 1
                blocks.append(Bottleneck(inputs, width, stride))
                inputs = 4 * width
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 1000)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def leaving(size: int) -> list[int]:
    """Which units of a group go; Torch-Pruning's pruner takes as many."""
    count = size - int(size * (1 - SHARE))
    return np.random.default_rng(size).permutation(size)[:count].tolist()


def keras_model(adam: bool = True) -> keras.Model:
    """Keras' ResNet-50, its optimizer built if it has one."""
    model = keras.applications.ResNet50(
        weights=None, input_shape=(IMAGE, IMAGE, 3)
    )
    if adam:
        compiled(model).optimizer.build(model.trainable_variables)
    return model


def removal_for(groups: list[ka.UnitGroup]) -> ka.Removal:
    return ka.Removal(
        {each.name: leaving(each.size) for each in groups if each.removable}
    )


def graph_of(net: nn.Module) -> list:
    """Their dependency graph, and the groups that may be cut."""
    graph = pruning.DependencyGraph().build_dependency(
        net, torch.randn(1, 3, IMAGE, IMAGE)
    )
    return list(graph.get_all_groups(ignored_layers=[net.fc]))


def prune(groups: list) -> None:
    for group in groups:
        group.prune(leaving(len(group[0].idxs)))


def pruner_of(net: nn.Module, importance) -> pruning.pruner.BasePruner:
    return pruning.pruner.BasePruner(
        net,
        torch.randn(1, 3, IMAGE, IMAGE),
        importance=importance,
        pruning_ratio=SHARE,
        ignored_layers=[net.fc],
    )


def parameters(model: keras.Model | nn.Module) -> int:
    """Trainable parameters, which both count alike."""
    if isinstance(model, keras.Model):
        return sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return sum(each.numel() for each in model.parameters())


def ours(adam: bool) -> dict[str, float]:
    """One turn: seconds, groups and parameters."""
    model = keras_model(adam)
    before = parameters(model)
    analysis, groups = clock(ka.unit_groups, model)
    removal = removal_for(groups)
    surgery, _ = clock(ka.shrink, model, removal)
    return turn(analysis, surgery, len(removal), before, model)


def theirs(importance=None) -> dict[str, float]:
    """One turn by a pruner, or without one by their graph alone."""
    net = ResNet50()
    before = parameters(net)
    if importance is None:
        analysis, groups = clock(graph_of, net)
        surgery, _ = clock(prune, groups)
        count = len(groups)
    else:
        analysis, pruner = clock(pruner_of, net, importance)
        surgery, _ = clock(pruner.step)
        count = len(pruner.pruning_history())
    return turn(analysis, surgery, count, before, net)


def turn(analysis, surgery, groups, before, model) -> dict[str, float]:
    return {
        "analysis": analysis,
        "surgery": surgery,
        "both": analysis + surgery,
        "groups": groups,
        "before": before,
        "after": parameters(model),
    }


WORKS = {
    "ours": lambda: ours(adam=True),
    "ours, no optimizer": lambda: ours(adam=False),
    "their graph": lambda: theirs(),
    "their pruner, magnitude": lambda: theirs(
        pruning.importance.MagnitudeImportance()
    ),
    "their pruner, random": lambda: theirs(
        pruning.importance.RandomImportance()
    ),
}


def times() -> None:
    """Prints seconds and parameters."""
    turns = turns_of(WORKS, ROUNDS)
    found = {name: medians(results) for name, results in turns.items()}
    mine, rows = found["ours"], []
    for name in list(WORKS)[2:]:
        for key in ("analysis", "surgery", "both"):
            what = f"{key}, beside {name}"
            rows.append(row(what, mine[key], found[name][key], 1))
    bare = found["ours, no optimizer"]
    for key in ("surgery", "both"):
        what = f"{key} with no optimizer, beside their graph"
        rows.append(row(what, bare[key], found["their graph"][key], 1))
    # 1.6.1 calls itself 1.6.0 in `__version__`.
    version = importlib.metadata.version("torch-pruning")
    show(
        f"ResNet-50, a third of every group, beside Torch-Pruning {version}",
        rows,
    )
    unrest = max(
        found[name]["both"] / min(each["both"] for each in results)
        for name, results in turns.items()
    )
    print(
        f"Medians of {ROUNDS} turns, at most {unrest:.2f} times the least"
        + (": the machine was busy, measure again" if unrest > 1.2 else "")
    )
    slots = {"ours": "cut too", "ours, no optimizer": "none"}
    print("\nWhat was cut")
    print(
        table(
            (
                "what",
                "groups",
                "parameters before",
                "after",
                "optimizer's slots",
            ),
            [
                (
                    name,
                    *(int(each[key]) for key in ("groups", "before", "after")),
                    slots.get(name, "not handled: left to the user"),
                )
                for name, each in found.items()
            ],
        )
    )


def resident(key: str) -> int:
    """Bytes that are resident now (`VmRSS`) or were at most (`VmHWM`)."""
    with open("/proc/self/status") as file:
        line = next(each for each in file if each.startswith(key))
    return int(line.split()[1]) * 1024


def memory_of(who: str) -> dict[str, float]:
    """What surgery needs beside what is there, in this process, in MiB."""
    if who == "ours":
        small, model = compiled(cnn()), keras_model()
        small.optimizer.build(small.trainable_variables)
        # Zeros may be pages that do not exist before they are written.
        for each in model.optimizer.variables[2:]:
            each.assign(keras.ops.ones(each.shape))
        ka.shrink(small, removal_for(ka.unit_groups(small)))
        removal = removal_for(ka.unit_groups(model))

        def surgery():
            ka.shrink(model, removal)
    else:
        model, small = ResNet50(), ResNet50()
        prune(graph_of(small))
        del small
        groups = graph_of(model)

        def surgery():
            prune(groups)
            groups.clear()  # The traced graph holds the old weights.

    weights = 4 * parameters(model)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # The peak starts anew.
    before = resident("VmRSS")
    surgery()
    peak = resident("VmHWM")
    gc.collect()
    after = resident("VmRSS")
    return {
        "weights": weights / MIB,
        "peak": (peak - before) / MIB,
        "after": (after - before) / MIB,
    }


def memory() -> None:
    """Prints the peak of memory, each measured in a process of its own."""
    if not os.path.exists("/proc/self/clear_refs"):
        print("\nMemory is not measured: this is no Linux.")
        return
    rows = []
    for who in ("ours", "theirs"):
        done = subprocess.run(
            [sys.executable, __file__, who],
            env={
                **os.environ,
                "MALLOC_MMAP_THRESHOLD_": str(2**16),
                "MALLOC_TRIM_THRESHOLD_": str(2**16),
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        each = json.loads(done.stdout.splitlines()[-1])
        name = "ours, Adam's slots too" if who == "ours" else "their graph"
        rows.append(
            (
                name,
                f"{each['weights']:.1f}",
                f"{each['peak']:.1f}",
                f"{each['peak'] / each['weights']:.2f}",
                f"{each['after']:+.1f}",
            )
        )
    print("\nMemory of surgery beyond what was there, MiB")
    print(
        table(
            (
                "what",
                "one copy of the weights",
                "peak",
                "peak / copy",
                "afterwards",
            ),
            rows,
        )
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(memory_of(sys.argv[1])))
    else:
        times()
        memory()

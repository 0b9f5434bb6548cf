"""Analysis and surgery of ViT-B/16, beside Torch-Pruning and torch-kirigami.

    pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1
    python benchmarks/beside_on_transformers.py

All three run in one process on one CPU thread, turn by turn, each turn on a
new model with random weights, and remove the same share of the hidden units of
the twelve feed-forward pairs: 1,024 of 3,072 each. Ours is a Keras model of
custom layers, as people write them; it is inlined first (`ka.inline`), which
is measured by itself. Theirs is the same network in PyTorch. Printed are
medians of seconds, and what was cut. Analysis finds all groups, but for
torch-kirigami: it builds the dependency graph only, since to discover all
candidates takes it minutes for two blocks already; no groups are counted.
"""

from __future__ import annotations

import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    import torch
    import torch_kirigami
    import torch_pruning
    from torch_kirigami.pruning import Pruner
except ImportError as error:
    # Not a failure: `make benchmark` goes on without it.
    print(f"Skipped ({error}); see the top of this file.", file=sys.stderr)
    sys.exit(0)

import keras
import numpy as np
from _measure import clock, machine, medians, turns_of
from keras import layers, ops
from torch import nn

import keras_apoptosis as ka
from keras_apoptosis.utils.tables import table

LAYERS, WIDTH, HEADS, HIDDEN, CUT = 12, 768, 12, 3072, 1024
ROUNDS = 5

torch.set_num_threads(1)


class Patches(layers.Layer):
    """Embeds patches, with a token in front and positions."""

    def build(self, shape):
        self.project = layers.Conv2D(WIDTH, 16, 16, name="project")
        self.project.build(shape)
        self.token = self.add_weight(shape=(1, 1, WIDTH), name="token")
        self.places = self.add_weight(shape=(1, 197, WIDTH), name="places")

    def call(self, inputs):
        x = ops.reshape(self.project(inputs), (-1, 196, WIDTH))
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, WIDTH))
        return ops.concatenate([token, x], axis=1) + self.places


class Block(layers.Layer):
    """A transformer block, the width of whose heads is no argument."""

    def build(self, shape):
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in "12"]
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.up = layers.Dense(HIDDEN, "gelu", name="up")
        self.down = layers.Dense(WIDTH, name="down")
        for norm in self.norms:
            norm.build(shape)
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], HIDDEN))

    def call(self, inputs):
        x = self.norms[0](inputs)
        x = inputs + self.attention(x, x)
        return x + self.down(self.up(self.norms[1](x)))


def keras_vit() -> keras.Model:
    x = inputs = keras.Input((224, 224, 3))
    x = Patches(name="patches")(x)
    for number in range(LAYERS):
        x = Block(name=f"block_{number}")(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, layers.Dense(1000)(x[:, 0]))


class TorchBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, 1e-6) for _ in "12")
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH) for _ in range(4)
        )
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, inputs):
        x = self.norms[0](inputs)
        heads = [
            each(x).reshape(-1, 197, HEADS, WIDTH // HEADS).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        ]
        x = nn.functional.scaled_dot_product_attention(*heads)
        x = inputs + self.out(x.transpose(1, 2).reshape(-1, 197, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))


class TorchViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(3, WIDTH, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(torch.zeros(1, 197, WIDTH))
        self.blocks = nn.ModuleList(TorchBlock() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.head = nn.Linear(WIDTH, 1000)

    def forward(self, inputs):
        x = self.project(inputs).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def ours() -> dict[str, float]:
    model = keras_vit()
    before = model.count_params()
    inlining, model = clock(ka.inline, model)
    analysis, groups = clock(ka.unit_groups, model)
    removal = ka.Removal(
        {
            group.name: np.arange(CUT)
            for group in groups
            if group.removable and group.size == HIDDEN
        }
    )
    surgery, _ = clock(ka.shrink, model, removal)
    return turn(inlining, analysis, surgery, groups, before, model)


def by_torch_pruning() -> dict[str, float]:
    net = TorchViT().eval()
    before = parameters(net)
    image = torch.randn(1, 3, 224, 224)

    def analyse():
        loose = [(each, 2) for each in (net.token, net.places)]
        return torch_pruning.DependencyGraph().build_dependency(
            net, image, unwrapped_parameters=loose
        )

    def cut():
        for block in net.blocks:
            graph.get_pruning_group(
                block.up,
                torch_pruning.prune_linear_out_channels,
                list(range(CUT)),
            ).prune()

    analysis, graph = clock(analyse)
    finding, groups = clock(lambda: [*graph.get_all_groups()])
    surgery, _ = clock(cut)
    return turn(0.0, analysis + finding, surgery, groups, before, net)


def by_kirigami() -> dict[str, float]:
    net = TorchViT().eval()
    before = parameters(net)
    image = torch.randn(1, 3, 224, 224)

    def analyse():
        graph = torch_kirigami.DependencyGraph.build(net, args=(image,))
        return graph, Pruner(net, graph=graph)

    def cut():
        units = [
            graph.parameter(f"blocks.{number}.up.weight").axis(0)
            for number in range(LAYERS)
        ]
        plan = pruner.plan_remove([each.select(range(CUT)) for each in units])
        return pruner.apply(plan)

    analysis, (graph, pruner) = clock(analyse)
    surgery, (small, _) = clock(cut)
    return turn(0.0, analysis, surgery, [], before, small)


WORKS = {
    "ours": ours,
    "Torch-Pruning": by_torch_pruning,
    "torch-kirigami": by_kirigami,
}


def turn(inlining, analysis, surgery, groups, before, model):
    return {
        "inlining": inlining,
        "analysis": analysis,
        "surgery": surgery,
        "groups": len(groups),
        "before": before,
        "after": parameters(model),
    }


def parameters(model) -> int:
    if isinstance(model, keras.Model):
        return model.count_params()
    return sum(each.numel() for each in model.parameters())


def main() -> None:
    keys = ("inlining", "analysis", "surgery", "groups", "before", "after")
    rows = []
    for name, results in turns_of(WORKS, ROUNDS).items():
        found = medians(results)
        rows.append(
            [
                name,
                *(f"{found[key]:.2f}" for key in keys[:3]),
                *(f"{int(found[key]):,}" for key in keys[3:]),
            ]
        )
    print(table(("what", *keys), rows))
    print(machine())


if __name__ == "__main__":
    main()

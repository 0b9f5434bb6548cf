"""Torch-Pruning and torch-kirigami, each to shares of FLOPs and parameters.

pip install --no-deps torch-pruning==1.6.1 torch-kirigami==0.2.1
"""

from __future__ import annotations

import bisect
import copy
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch_kirigami
import torch_pruning
from torch import nn
from torch_kirigami import pruning as kirigami

METHODS = {
    "Torch-Pruning, magnitude": torch_pruning.importance.MagnitudeImportance,
    "Torch-Pruning, Taylor": torch_pruning.importance.TaylorImportance,
    "torch-kirigami, magnitude": kirigami.GroupMagnitude,
    "torch-kirigami, Taylor": kirigami.WeightTaylor,
}
# Channels are removed in so many steps by Torch-Pruning, and at so many
# ratios by torch-kirigami, and the first that meets a target is taken.
_STEPS = 100

Pruned = dict[tuple[str, float], nn.Module]


def prune_to(
    method: str,
    net: nn.Module,
    sample: tuple[torch.Tensor, torch.Tensor],
    shares: Mapping[str, tuple[float, ...]],
    everywhere: bool,
) -> Pruned:
    """Prunes copies of a network to shares of what it costs.

    Args:
        method: One of `METHODS`.
        net: The network; its last layer stays as wide as it is.
        sample: Inputs and labels, for gradients of the cross-entropy in the
            trained network. They are taken once.
        shares: For `"flops"` and `"parameters"` the shares.
        everywhere: `True` to rank all channels of the network together,
            `False` to remove the same share of each layer.

    Returns:
        For each cost and share a network that meets it.
    """
    net = copy.deepcopy(net)
    _differentiate(net, *sample)
    example = sample[0][:1]
    whole = costs(net, example)
    limits = {
        (kind, share): share * whole[kind]
        for kind in shares
        for share in shares[kind]
    }
    prune = _by_torch_pruning if "Torch-Pruning" in method else _by_kirigami
    return prune(METHODS[method](), net, example, limits, everywhere)


def costs(net: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """Counts multiplications and parameters, as Torch-Pruning does."""
    macs, parameters = torch_pruning.utils.count_ops_and_params(net, example)
    return {"flops": macs, "parameters": parameters}


def _differentiate(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    for start in range(0, len(x), 512):
        rows = slice(start, start + 512)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        (loss * len(y[rows]) / len(y)).backward()


def last_layer(net: nn.Module) -> nn.Module:
    """Returns the layer that makes the logits."""
    return [each for each in net.modules() if isinstance(each, nn.Linear)][-1]


def _by_torch_pruning(
    importance: Any,
    net: nn.Module,
    example: torch.Tensor,
    limits: Mapping[tuple[str, float], float],
    everywhere: bool,
) -> Pruned:
    """Prunes one network step by step; gradients are cut along."""
    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=importance,
        global_pruning=everywhere,
        pruning_ratio=0.98,
        max_pruning_ratio=0.98,
        iterative_steps=_STEPS,
        ignored_layers=[last_layer(net)],
    )
    found: Pruned = {}
    for _ in range(_STEPS):
        pruner.step()
        now = costs(net, example)
        for key, limit in limits.items():
            if key not in found and now[key[0]] <= limit:
                found[key] = copy.deepcopy(net)
        if len(found) == len(limits):
            break
    return found


def _by_kirigami(
    metric: Any,
    net: nn.Module,
    example: torch.Tensor,
    limits: Mapping[tuple[str, float], float],
    everywhere: bool,
) -> Pruned:
    """Prunes a copy for each target, at the least ratio that meets it.

    Channels go in the order of its `Greedy` strategy, which scores them once;
    its own search tries the whole network for each channel again, and takes
    half a minute for a LeNet.
    """
    pruner = kirigami_pruner(net, example)
    space = pruner.discover_candidates()
    context = kirigami.PlanningContext(
        pruner.graph,
        space.candidates,
        kirigami.ChannelRatio(0.5),
        space.channel_axes,
        pruner.constraints,
    )
    scores: dict[Any, list[float]] = {}
    for each, score in zip(
        space.candidates, context.score(metric, space.candidates), strict=True
    ):
        found = scores.setdefault(each.axis, [])
        if each.remove != (each.axis.select([len(found)]),):
            raise ValueError(f"Expected channels in order. Received: {each}")
        found.append(score)
    whole = np.sort(np.concatenate(list(scores.values())))

    @functools.cache
    def pruned(step: int) -> nn.Module:
        share, removed = step / _STEPS, {}
        for axis, values in scores.items():
            count = int(share * len(values))
            if everywhere:
                count = int(np.sum(values < whole[int(share * len(whole))]))
            count = min(count, len(values) - 1)
            if count:
                removed[axis.tensor.paths[0]] = np.argsort(values)[:count]
        small = kirigami_pruner(copy.deepcopy(net), example)
        plan = small.plan_remove(
            [
                small.graph.parameter(name).axis(0).select(units.tolist())
                for name, units in removed.items()
            ]
        )
        return small.apply(plan)[0]

    def least(kind: str, limit: float) -> int:
        return bisect.bisect_left(
            range(_STEPS),
            True,
            1,
            key=lambda step: costs(pruned(step), example)[kind] <= limit,
        )

    steps = {key: least(key[0], limit) for key, limit in limits.items()}
    return {key: pruned(n) for key, n in steps.items() if n < _STEPS}


def kirigami_pruner(net: nn.Module, example: torch.Tensor) -> kirigami.Pruner:
    """Returns torch-kirigami's pruner of a network, with its graph."""
    graph = torch_kirigami.DependencyGraph.build(net, args=(example,))
    return kirigami.Pruner(net, graph=graph)

"""Compares what the choices of criteria would cost (sections 2.1 and 4.1)."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_apoptosis as ka
from experiments import thesis_network, training
from experiments.figures import tidy
from experiments.rows import Row, grid
from experiments.thesis_network import build, sample_of
from keras_apoptosis.selection import budget
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits

# Which weights and units go, and which shares of them: figures 2.2 to 2.5, and
# 4.1 to 4.5.
WEIGHTS = {"all weights": (0.5,), "conv1's weights": (0.01, 0.05, 0.2, 0.8)}
UNITS = {"conv1": (0.5,), "fc1": (0.1, 0.2, 0.4, 0.5, 0.6, 0.8)}
# Table 2.1, in seconds.
RUNTIMES = {
    "magnitude": 0.00006,
    "taylor": 0.088,
    "hessian": 0.483,
    "taylor2": 0.564,
}


@dataclasses.dataclass
class Config(thesis_network.Config):
    """Settings.

    Attributes:
        activation: `relu` or `tanh`.
        moments: How often an epoch criteria are compared.
    """

    epochs: int = 3
    activation: str = "relu"
    moments: int = 4


class Comparison(keras.callbacks.Callback):
    """Asks what each criterion's choice would do to the loss, now and then.

    Attributes:
        steps: When.
        changes: Of the loss, by what goes, its share and the criterion.
        seconds: Of the scores of all weights, by criterion.
    """

    def __init__(self, sample: Any, every: int):
        super().__init__()
        self.sample = sample
        self.every = every
        self.steps: list[int] = []
        self.changes: dict[str, dict[float, dict[str, list[float]]]] = {}
        self.seconds: dict[str, list[float]] = {}
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        if self._step % self.every == 0:
            self.steps.append(self._step)
            self._compare_units()
            self._compare_weights()

    def _criterion(self, name: str, granularity: str) -> ka.criteria.Criterion:
        if name != "random":
            return ka.criteria.get(name, granularity)
        scores = functools.partial(
            ka.criteria.random, granularity=granularity, seed=self._step
        )
        return ka.criteria.get(scores, granularity)

    def _note(self, what: str, share: float, name: str, change: float) -> None:
        shares = self.changes.setdefault(what, {})
        shares.setdefault(share, {}).setdefault(name, []).append(float(change))

    def _compare_units(self) -> None:
        analysis = ka.graph.analyse(self.model)
        units = ReplacedUnits(analysis, groups=list(UNITS))
        means = units.means(self.sample)
        plain = units.losses(self.sample, means, {}).mean()
        for name in ka.criteria.names("units"):
            every = self._criterion(name, "units").score(
                self.model, self.sample
            )
            for group, shares in UNITS.items():
                if group not in every:  # This network has no normalization.
                    continue
                scores = {group: every[group]}
                size = every[group].size
                for share in shares:
                    gone = np.zeros(size)
                    count = budget.share_of(size, share)
                    gone[budget.lowest(scores, count)[group]] = 1
                    loss = units.losses(self.sample, means, {group: gone})
                    change = loss.mean() - plain
                    self._note(f"{group}'s units", share, name, change)

    def _compare_weights(self) -> None:
        derivatives = WeightDerivatives(self.model)
        kernel = self.model.get_layer("conv1").kernel
        plain = derivatives.loss(self.sample)
        weights = [
            keras.ops.convert_to_numpy(each) for each in derivatives.weights
        ]
        places = {
            "all weights": list(range(len(weights))),
            "conv1's weights": [
                place
                for place, weight in enumerate(derivatives.weights)
                if weight is kernel
            ],
        }

        def change(what: str, gone: dict[str, np.ndarray]) -> float:
            pruned = [each.copy() for each in weights]
            for place in places[what]:
                pruned[place].reshape(-1)[gone[str(place)]] = 0
            return derivatives.loss(self.sample, pruned) - plain

        every = {}
        for name in ka.criteria.names("weights"):
            if name == "loss_change":  # A pass for each of 20,000 weights.
                continue
            start = time.perf_counter()
            every[name] = self._criterion(name, "weights").score(
                self.model, self.sample
            )
            spent = time.perf_counter() - start
            self.seconds.setdefault(name, []).append(spent)
        (first,) = places["conv1's weights"]
        exact = [
            change("conv1's weights", {str(first): np.array([index])})
            for index in range(weights[first].size)
        ]
        every["loss_change"] = {first: np.array(exact)}
        every["absolute_loss_change"] = {first: np.abs(exact)}
        for what, shares in WEIGHTS.items():
            for name, scores in every.items():
                if what == "all weights" and isinstance(scores, dict):
                    continue
                flat = {
                    str(place): np.ravel(scores[place])
                    for place in places[what]
                }
                size = sum(each.size for each in flat.values())
                for share in shares:
                    count = budget.share_of(size, share)
                    gone = budget.lowest(flat, count)
                    self._note(what, share, name, change(what, gone))


def run(config: Config) -> Row:
    """Trains once, and asks at some moments."""
    data = thesis_network.data_of(config)
    steps = len(data.y_train) // config.batch_size
    comparison = Comparison(sample_of(data, 0), max(1, steps // config.moments))
    _, log = training.fit(
        config,
        lambda: build(config.activation),
        data.x_train,
        data.y_train,
        callbacks=[comparison],
        resume=False,
    )
    return {
        "steps": comparison.steps,
        "changes": comparison.changes,
        "score_seconds": {k: min(v) for k, v in comparison.seconds.items()},
        **log.times(),
    }


def table(rows: list[Row]) -> str:
    """Returns the change of the loss in the second half of a training.

    Means over the seeds.
    """
    parts = [runtimes(rows)]
    for activation, mine in by_activation(rows).items():
        count = f", {len(mine)} seeds" if len(mine) > 1 else ""
        for what, shares in mine[0]["changes"].items():
            lines = [
                [name, *(late_change(mine, what, s, name) for s in shares)]
                for name in next(iter(shares.values()))
            ]
            lines.sort(key=lambda line: line[-1])
            header = [f"{activation}{count}: {what}"]
            header += [f"{float(share):.0%}" for share in shares]
            cells = [[n, *(f"{x:.3g}" for x in line)] for n, *line in lines]
            parts.append(grid([header, *cells]))
    return "\n\n".join(parts)


def by_activation(rows: list[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each activation, in the order of their seeds."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["config"]["seed"]):
        found.setdefault(row["config"]["activation"], []).append(row)
    return dict(sorted(found.items()))


def late_change(rows: list[Row], what: str, share: str, name: str) -> float:
    """Returns the mean over seeds, each of the second half of its moments."""
    return float(
        np.mean(
            [
                np.mean(row["changes"][what][share][name][half:])
                for row in rows
                for half in [len(row["steps"]) // 2]
            ]
        )
    )


def runtimes(rows: list[Row]) -> str:
    """Returns Table 2.1, with ratios to first-order scores."""
    seconds = {
        name: min(row["score_seconds"][name] for row in rows)
        for name in RUNTIMES
    }
    lines = [
        [
            name,
            theirs,
            f"{theirs / RUNTIMES['taylor']:.2g}",
            f"{seconds[name]:.2g}",
            f"{seconds[name] / seconds['taylor']:.2g}",
        ]
        for name, theirs in RUNTIMES.items()
    ]
    header = ["score", "paper, s", "ratio", "ours, s", "ratio"]
    return grid([header, *lines])


def draw(rows: list[Row], path: Path) -> None:
    """Draws figures 2.2 to 2.5 and 4.1 to 4.5: the first seeds."""
    from matplotlib.figure import Figure

    rows = [mine[0] for mine in by_activation(rows).values()]

    shown = [
        ("conv1's weights", 0.05),
        ("conv1's weights", 0.8),
        ("all weights", 0.5),
        ("fc1's units", 0.2),
        ("fc1's units", 0.5),
    ]
    figure = Figure(figsize=(17, 2 + 3 * len(rows)), layout="constrained")
    lines = figure.subplots(len(rows), len(shown), squeeze=False)
    for line, row in zip(lines, rows, strict=True):
        for axes, (what, share) in zip(line, shown, strict=True):
            for name, values in row["changes"][what][str(share)].items():
                axes.plot(row["steps"], values, marker=".", label=name)
            title = f"{row['config']['activation']}: {share:.0%} of {what}"
            axes.set(title=title, xlabel="step")
            axes.set_yscale("symlog", linthresh=0.01)
            tidy(axes)
        line[0].set_ylabel("change of the loss")
    for axes in lines[-1]:
        axes.legend(
            frameon=False,
            fontsize="x-small",
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.15),
        )
    figure.savefig(path, dpi=110)

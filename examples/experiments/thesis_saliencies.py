"""Compares what the choices of criteria would cost (sections 2.1 and 4.1)."""

from __future__ import annotations

import dataclasses
import functools
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


@dataclasses.dataclass
class Config(thesis_network.Config):
    """Settings."""

    epochs: int = 3


class Comparison(keras.callbacks.Callback):
    """Asks what each criterion's choice would do to the loss, now and then."""

    def __init__(self, sample: Any, every: int):
        super().__init__()
        self.sample = sample
        self.every = every
        self.steps: list[int] = []
        self.units: dict[str, list[float]] = {}
        self.weights: dict[str, list[float]] = {}
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

    def _compare_units(self, group: str = "fc1", share: float = 0.5) -> None:
        analysis = ka.graph.analyse(self.model)
        units = ReplacedUnits(analysis, groups=[group])
        means = units.means(self.sample)
        plain = units.losses(self.sample, means, {}).mean()
        for name in ka.criteria.names("units"):
            criterion = self._criterion(name, "units")
            scores = criterion.score(self.model, self.sample).get(group)
            if scores is None:  # This network has no normalization.
                continue
            gone = np.zeros(scores.size)
            count = budget.share_of(scores.size, share)
            gone[budget.lowest({group: scores}, count)[group]] = 1
            loss = units.losses(self.sample, means, {group: gone}).mean()
            self.units.setdefault(name, []).append(float(loss - plain))

    def _compare_weights(self, share: float = 0.5) -> None:
        derivatives = WeightDerivatives(self.model)
        plain = derivatives.loss(self.sample)
        weights = [
            keras.ops.convert_to_numpy(each) for each in derivatives.weights
        ]
        for name in ka.criteria.names("weights"):
            criterion = self._criterion(name, "weights")
            if name == "loss_change":  # A pass for each of 20,000 weights.
                continue
            flat = {
                str(i): np.ravel(each)
                for i, each in enumerate(
                    criterion.score(self.model, self.sample)
                )
            }
            count = budget.share_of(sum(w.size for w in weights), share)
            pruned = []
            for (key, gone), weight in zip(
                budget.lowest(flat, count).items(), weights, strict=True
            ):
                pruned.append(weight.copy())
                pruned[-1].reshape(-1)[gone] = 0
                del key
            loss = derivatives.loss(self.sample, pruned)
            self.weights.setdefault(name, []).append(loss - plain)


def run(config: Config) -> Row:
    """Trains once, and asks four times an epoch."""
    data = thesis_network.data_of(config)
    steps = len(data.y_train) // config.batch_size
    comparison = Comparison(sample_of(data, 0), max(1, steps // 4))
    _, log = training.fit(
        config,
        build,
        data.x_train,
        data.y_train,
        callbacks=[comparison],
        resume=False,
    )
    return {
        "steps": comparison.steps,
        "half of all weights to zero": comparison.weights,
        "half of fc1's units to their means": comparison.units,
        **log.times(),
    }


TITLES = ("half of all weights to zero", "half of fc1's units to their means")


def table(rows: list[Row]) -> str:
    """Returns the change of the training loss, of one training."""
    tables = []
    half = len(rows[0]["steps"]) // 2
    for title in TITLES:
        lines = [
            (name, np.mean(v[:half]), np.mean(v[half:]), np.max(v))
            for name, v in rows[0][title].items()
        ]
        lines.sort(key=lambda line: line[2])
        tables.append(
            grid(
                [
                    [title, "first half", "second half", "worst"],
                    *([n, *(f"{v:.3g}" for v in vs)] for n, *vs in lines),
                ]
            )
        )
    return "\n\n".join(tables)


def draw(rows: list[Row], path: Path) -> None:
    """Draws figures 2.3 to 2.6, and 4.2."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, title in zip(figure.subplots(1, 2), TITLES, strict=True):
        for name, values in rows[0][title].items():
            axes.plot(rows[0]["steps"], values, marker=".", label=name)
        axes.set(title=title, xlabel="step", ylabel="change of the loss")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.legend(frameon=False, fontsize="x-small", ncols=2)
        tidy(axes)
    figure.savefig(path, dpi=130)

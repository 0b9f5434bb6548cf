"""What each criterion's choice would cost (sections 2.1 and 4.1)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
from thesis_network import build, sample_of

import keras_apoptosis as ka
from keras_apoptosis.selection import budget
from keras_apoptosis.statistics import WeightDerivatives
from keras_apoptosis.statistics.replaced_units import ReplacedUnits
from keras_apoptosis.utils.tables import table


class Comparison(keras.callbacks.Callback):
    """What each criterion's choice would do to the loss, now and then."""

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


def compare(data: Any, arguments: Any) -> None:
    """Sections 2.1 and 4.1."""
    keras.utils.set_random_seed(0)
    model = build()
    steps = len(data.y_train) // 32
    comparison = Comparison(sample_of(data, 0), max(1, steps // 4))
    model.fit(
        data.x_train,
        data.y_train,
        batch_size=32,
        epochs=arguments.epochs,
        verbose=arguments.verbose,
        callbacks=[comparison],
    )
    for title, found in (
        ("half of all weights set to zero", comparison.weights),
        ("half of the units of fc1 replaced by their means", comparison.units),
    ):
        half = len(comparison.steps) // 2
        rows = [
            (
                name,
                f"{np.mean(values[:half]):.4f}",
                f"{np.mean(values[half:]):.4f}",
                f"{np.max(values):.4f}",
            )
            for name, values in found.items()
        ]
        rows.sort(key=lambda row: float(row[2]))
        print(f"\nChange of the training loss, {title}")
        print(table(("criterion", "first half", "second half", "worst"), rows))
    if not arguments.no_figures:
        draw_comparison(
            comparison, Path(arguments.out) / "mnist_saliencies.png"
        )


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Figures 2.3 to 2.6, and 4.2."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(1, 2),
        (
            ("half of all weights to zero", comparison.weights),
            ("half of fc1's units to their means", comparison.units),
        ),
        strict=True,
    ):
        for name, values in found.items():
            axes.plot(comparison.steps, values, marker=".", label=name)
        axes.set(title=title, xlabel="step", ylabel="change of the loss")
        axes.set_yscale("symlog", linthresh=0.01)
        axes.legend(frameon=False, fontsize="x-small", ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"Figure: {path}")

"""How many units noise alone kills (figure 9 of "Maxwell's demon at work").

An MLP of 100, 300 and 10 units without normalization. Regimes:

- `sgd`: gradient descent, a sample a step;
- `sgd_noise`: the gradient of a sample minus that of all, which is noise with
  a mean of zero, and zero for units that are dead;
- `gaussian`: no gradient, but Gaussian noise for units that are not dead;
- `symmetric`: the same for all units.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_apoptosis as ka
from experiments import training
from experiments.demon_models import mlp
from experiments.figures import tidy
from experiments.rows import Row, by_setting, markdown, percent
from experiments.training import score


@dataclasses.dataclass
class Config(training.Config):
    """Settings.

    Attributes:
        regime: See above.
        rate: That of gradient descent, or the deviation of the noise.
        moments: How often an epoch the dead are counted.
    """

    samples: int | None = 1000
    epochs: int = 3
    batch_size: int = 1
    regime: str = "sgd"
    rate: float = 0.1
    moments: int = 10


class Dead(keras.callbacks.Callback):
    """Counts hidden units that are zero for all samples."""

    def __init__(self, x: Any, every: int):
        super().__init__()
        self.x, self.every = x, every
        self.steps: list[int] = []
        self.counts: list[int] = []

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        outputs = [
            each.output
            for each in model.layers
            if isinstance(each, keras.layers.Activation)
        ]
        self.hidden = keras.Model(model.inputs, outputs)

    def count(self, step: int) -> None:
        found = self.hidden.predict(self.x, batch_size=1000, verbose=0)
        self.steps.append(step)
        self.counts.append(sum(int((v <= 0).all(0).sum()) for v in found))

    def on_train_begin(self, logs: Any = None) -> None:
        self.count(0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        if step % self.every == 0:
            self.count(int(step))


def run(config: Config) -> Row:
    """Trains once."""
    data = training.data_of(config)
    x, y, count = data.x_train, data.y_train, len(data.y_train)
    noisy = config.regime in ("gaussian", "symmetric")
    steps = -(-count // config.batch_size)
    dead = Dead(x, max(1, steps // config.moments))
    callbacks: list[keras.callbacks.Callback] = [dead]
    if noisy:
        callbacks.append(
            ka.callbacks.DemonPruning(
                0.0,
                noise_variance=ka.schedules.Constant(config.rate**2),
                symmetric_noise=config.regime == "symmetric",
                dynamic=False,
                data=x,
                verbose=0,
            )
        )

    def build() -> keras.Model:
        model = mlp(data.input_shape, data.num_classes, 100, growth=3)
        model.compile(
            keras.optimizers.SGD(0.0 if noisy else config.rate),
            keras.losses.SparseCategoricalCrossentropy(
                from_logits=True, reduction="sum"
            ),
            metrics=["accuracy"],
        )
        return model

    def less_all(one: Any, label: Any, random: np.random.Generator) -> Any:
        """Appends all samples, whose mean gradient is taken off."""
        weights = np.full(1 + count, -1 / count, "float32")
        weights[0] = 1
        return np.concatenate([one, x]), np.concatenate([label, y]), weights

    model, log = training.fit(
        config,
        build,
        x,
        y,
        callbacks=callbacks,
        change=less_all if config.regime == "sgd_noise" else None,
        resume=False,
    )
    return {
        "steps": dead.steps,
        "dead": dead.counts,
        "train_accuracy": score(model, x, y),
        **log.times(),
    }


def table(rows: list[Row]) -> str:
    """Returns how many of 400 units are dead, and at most were."""
    return markdown(
        rows,
        {
            "dead at the end": (lambda row: row["dead"][-1], "±.0f"),
            "at most": (lambda row: max(row["dead"]), "±.0f"),
            "training accuracy %": percent("train_accuracy", "±.1f"),
            "seconds": ("seconds", ".0f"),
        },
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draws figure 9: dead units over the training."""
    from matplotlib.figure import Figure

    panels = (("sgd_noise",), ("gaussian", "symmetric"), ("sgd",))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, regimes in zip(figure.subplots(1, 3), panels, strict=True):
        for mine in by_setting(rows).values():
            config = mine[0]["config"]
            if config["regime"] in regimes:
                counts = np.mean([row["dead"] for row in mine], axis=0)
                label = f"{config['regime']}, {config['rate']:g}"
                axes.plot(mine[0]["steps"], counts, label=label)
        axes.set(xlabel="step", ylabel="dead units of 400")
        if axes.lines:
            axes.legend(frameon=False, fontsize="small")
        tidy(axes)
    figure.savefig(path, dpi=110)

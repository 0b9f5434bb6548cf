"""What all experiments share: a configuration, data, and how to train."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import keras
import numpy as np
from omegaconf import MISSING

import keras_apoptosis as ka


@dataclasses.dataclass
class Config:
    """What can be set in every experiment.

    What is not compared has no influence on the result.

    Attributes:
        page: The page of `docs/results/` that shows the results.
        dataset: See `examples/datasets.py`.
        samples: How many rows of the training part to train on; all if none.
        epochs: How many.
        batch_size: Rows of a step.
        seed: Of weights, order and noise.
        results: Folder of the rows.
        checkpoints: Folder of what is needed to resume a training.
        tensorboard: Folder for `keras.callbacks.TensorBoard`.
        verbose: As in `fit`.
    """

    page: str = dataclasses.field(default=MISSING, compare=False)
    dataset: str = "mnist"
    samples: int | None = None
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    results: str = dataclasses.field(default="docs/results/data", compare=False)
    checkpoints: str = dataclasses.field(default="output", compare=False)
    tensorboard: str | None = dataclasses.field(default=None, compare=False)
    verbose: int = dataclasses.field(default=2, compare=False)


def data_of(config: Config) -> datasets.Dataset:
    """Returns the data, of which only the training part is cut."""
    data = load(config.dataset)
    return dataclasses.replace(
        data,
        x_train=data.x_train[: config.samples],
        y_train=data.y_train[: config.samples],
    )


@functools.lru_cache(maxsize=1)
def load(name: str) -> datasets.Dataset:
    """Returns a dataset, which the trainings of a sweep share."""
    return datasets.load(name)


def fit(
    config: Config,
    build: Callable[[], keras.Model],
    x: Any,
    y: Any = None,
    *,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    change: Callable[[Any, Any, np.random.Generator], Any] | None = None,
    stage: str = "model",
    resume: bool = True,
    **options: Any,
) -> tuple[keras.Model, Log]:
    """Trains a model, from its last checkpoint if there is one.

    Args:
        config: Epochs, batches, seed, and where checkpoints are.
        build: Makes the compiled model.
        x: Inputs of the training.
        y: Targets; the inputs if there are none.
        callbacks: Those with `get_state` resume with the model.
        change: Changes a batch at random: a function of inputs, targets and a
            generator of random numbers.
        stage: A name for each training, where an experiment has several.
        resume: Whether it resumes; not where a callback that matters cannot.
        **options: Others of `fit`.

    Returns:
        The model, and the `Log` of the whole training.
    """
    callbacks, log = list(callbacks), Log()
    checkpoint = Checkpoint(
        Path(config.checkpoints) / f"{stage}.keras",
        [each for each in [*callbacks, log] if hasattr(each, "get_state")],
    )
    model = checkpoint.restore() or build()
    if config.tensorboard:
        board = keras.callbacks.TensorBoard(f"{config.tensorboard}/{stage}")
        callbacks.append(board)
    targets = x if y is None else y
    log.begin()
    model.fit(
        Batches(x, targets, config, checkpoint.epoch, change),
        shuffle=False,  # They are.
        epochs=config.epochs,
        initial_epoch=checkpoint.epoch,
        validation_batch_size=500,
        verbose=config.verbose,
        callbacks=[*callbacks, log, *[checkpoint] * resume],
        **options,
    )
    log.end()
    return model, log


class Batches(keras.utils.PyDataset):
    """Shuffled batches, whose order depends on seed and epoch alone."""

    def __init__(
        self,
        x: Any,
        y: Any,
        config: Config,
        epoch: int = 0,
        change: Callable | None = None,
    ):
        super().__init__()
        self.x, self.y, self.config, self.change = x, y, config, change
        self.epoch = epoch
        self.order = self._random(0).permutation(len(y))

    def _random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, self.epoch, *numbers))

    def __len__(self) -> int:
        return -(-len(self.y) // self.config.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        size = self.config.batch_size
        rows = self.order[index * size : (index + 1) * size]
        batch = self.x[rows], self.y[rows]
        if self.change is not None:
            batch = self.change(*batch, self._random(1, index))
        return batch

    def on_epoch_end(self) -> None:
        self.epoch += 1
        self.order = self._random(0).permutation(len(self.y))


class Log(keras.callbacks.Callback):
    """Keeps the logs and the seconds of a training that may be resumed.

    Attributes:
        history: Values of each epoch, by name.
        seconds: Duration of `fit`: tracing, events and validation included.
        cpu_seconds: The same of all cores together, which other jobs on the
            machine hardly change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.seconds = self.cpu_seconds = 0.0

    def begin(self) -> None:
        self._start = time.perf_counter() - self.seconds
        self._cpu_start = time.process_time() - self.cpu_seconds

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu_seconds = time.process_time() - self._cpu_start

    def times(self) -> dict[str, float]:
        """Returns the durations, for a row."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        self.end()

    def get_state(self) -> dict[str, Any]:
        return {"history": self.history, **self.times()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Checkpoint(ka.callbacks.Checkpoint):
    """Saves at the end of an epoch, but not more than once a minute."""

    minutes = 1.0
    saved = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self.saved = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if time.perf_counter() - self.saved >= 60 * self.minutes:
            super().on_epoch_end(epoch, logs)
            self.saved = time.perf_counter()


def score(model: keras.Model, x: Any, y: Any) -> float:
    """Returns the share of rows whose class a model finds."""
    return model.evaluate(x, y, batch_size=500, verbose=0)[1]

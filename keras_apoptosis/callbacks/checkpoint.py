"""A training that was broken off goes on, though the model has shrunk."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend import layers_inside, seeds_of
from keras_apoptosis.distributed import collectives
from keras_apoptosis.training.masking import (
    mask_of,
    mask_weights,
    masked_layers,
)
from keras_apoptosis.utils.checks import check_count
from keras_apoptosis.utils.serialization import (
    differences,
    from_json,
    to_json,
)

# What stands in the file beside what Keras saves; Keras passes it over.
ENTRY = "keras_apoptosis.json"


class Checkpoint(keras.callbacks.Callback):
    """Saves a training at the end of epochs, so that it can be resumed.

    The file is what `model.save` writes: the model as small as it has become,
    its weights, masks and statistics, and the optimizer. In it are also how
    far the training has come, the seeds of layers, and the state of the
    callbacks that are given: what a schedule has behind it, their history. It
    replaces the one before at once or not at all, so a job that is killed
    while it writes leaves a whole file.

    A training that resumes at the end of an epoch gives the same weights as
    one that was never broken off, to the last bit, if the data of an epoch
    come in an order that depends on the epoch alone: unshuffled, or by
    `ka.distributed.shuffled_batches`.

    Of several workers rank 0 writes, and alone needs the file to resume.

    Callbacks take part by two methods: `get_state()` returns plain data
    (dictionaries whose keys are strings, lists, tuples, arrays, numbers,
    strings or `None`), and `set_state(state)` goes on from there before
    training begins. All of this package do; Keras' own, such as
    `EarlyStopping`, begin anew.

    Args:
        path: Where to save: a name that ends in `.keras`.
        callbacks: The callbacks to save along, in the same order when the
            training is resumed. In `fit`'s list they come before this one.
        every: Integer >= 1. Save at the end of every so many epochs, and of
            the last.

    Attributes:
        epoch: How many epochs are done: what `fit` needs as `initial_epoch`.

    Raises:
        ValueError: If an argument is of no use.

    Example:

    >>> import tempfile
    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> path = tempfile.mkdtemp() + "/run.keras"
    >>> def train(epochs):
    ...     apoptosis = ka.callbacks.NeuronApoptosis(data=x, total_epochs=4)
    ...     checkpoint = ka.callbacks.Checkpoint(path, [apoptosis])
    ...     model = checkpoint.restore()
    ...     if model is None:
    ...         model = keras.Sequential([
    ...             keras.Input((4,)),
    ...             keras.layers.Dense(32, activation="relu"),
    ...             keras.layers.Dense(1),
    ...         ])
    ...         model.compile("adam", "mse")
    ...     began = checkpoint.epoch
    ...     _ = model.fit(
    ...         x, x[:, :1], shuffle=False, epochs=epochs,
    ...         initial_epoch=began, verbose=0,
    ...         callbacks=[apoptosis, checkpoint],
    ...     )
    ...     return began, checkpoint.epoch, len(apoptosis.history)
    >>> train(epochs=3), train(epochs=4)
    ((0, 3, 2), (3, 4, 2))
    """

    def __init__(
        self,
        path: str | os.PathLike,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        *,
        every: int = 1,
    ):
        super().__init__()
        self.path = Path(path)
        if self.path.suffix != ".keras":
            raise ValueError(
                "Expected `path` to be the name of a file that ends in "
                f"'.keras'. Received: path={path}"
            )
        self.callbacks = list(callbacks)
        for each in self.callbacks:
            if not (hasattr(each, "get_state") and hasattr(each, "set_state")):
                raise ValueError(
                    "Expected `callbacks` with `get_state` and `set_state`. "
                    f"Received: {type(each).__name__}"
                )
        check_count("every", every)
        self.every = every
        self.epoch = 0
        self._generators: list[np.ndarray] = []

    def restore(
        self, custom_objects: Mapping[str, Any] | None = None
    ) -> keras.Model | None:
        """Returns the saved model, and restores the state of the callbacks.

        Of several workers all must call it. The model is compiled, with a
        plain optimizer: `ka.distributed.DistributedOptimizer(
        model.optimizer)` makes it what it was.

        Args:
            custom_objects: See `keras.saving.load_model`.

        Returns:
            The model; `None` if nothing was saved yet.

        Raises:
            ValueError: If the file is no checkpoint, or one with other
                callbacks.
        """
        found = None
        if collectives.is_primary() and self.path.exists():
            found = self.path.read_bytes()
        found = collectives.broadcast(found, "checkpoint")
        if found is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.path.name
            path.write_bytes(found)
            saved = self._read(path)
            model = keras.saving.load_model(path, custom_objects)
        seeds = zip(seeds_of(model), saved["seeds"], strict=True)
        for variable, value in seeds:
            variable.assign(value)
        self._generators = saved["generators"]
        masked = {layer: mask_of(layer) for layer in masked_layers(model)}
        if masked:  # Some optimizers need a hook to keep them at zero.
            mask_weights(model, masked)
        states = zip(self.callbacks, saved["states"], strict=True)
        for callback, state in states:
            callback.set_state(state)
        self.epoch = saved["epoch"]
        return model

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not before: making ready to iterate over data draws numbers, too,
        # in the first epoch of a `fit` others than later.
        set_generators(self._generators)
        self._generators = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        self._generators = generators()
        last = self.epoch == self.params.get("epochs")
        if self.epoch % self.every == 0 or last or self.model.stop_training:
            self._save()

    def _save(self) -> None:
        backend.sync_from_jax(self.model)
        gather_statistics(self.model)
        if not collectives.is_primary():
            return
        saved = to_json(
            {
                "epoch": self.epoch,
                "seeds": [
                    ops.convert_to_numpy(each.value)
                    for each in seeds_of(self.model)
                ],
                "generators": self._generators,
                "callbacks": [type(each).__name__ for each in self.callbacks],
                "configs": [_config_of(each) for each in self.callbacks],
                "states": [each.get_state() for each in self.callbacks],
            }
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: only within one file system a file takes
        # another's place at once.
        with tempfile.TemporaryDirectory(
            prefix=f".{self.path.stem}-", dir=self.path.parent
        ) as folder:
            path = Path(folder) / self.path.name
            with collectives.alone():
                self.model.save(path)
            with zipfile.ZipFile(path, "a") as file:
                file.writestr(ENTRY, saved)
            with path.open("rb") as file:
                os.fsync(file.fileno())  # On the disk before it has the name.
            path.replace(self.path)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(path) as file:
                found = file.read(ENTRY).decode()
            saved = from_json(found)
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise ValueError(
                "Expected a whole file that `Checkpoint` has written. "
                f"Received: {self.path}, which holds no state of a training "
                f"({error})"
            ) from error
        names = [type(each).__name__ for each in self.callbacks]
        if names != saved["callbacks"]:
            raise ValueError(
                "Expected the callbacks that were saved: "
                f"{', '.join(saved['callbacks']) or '(none)'}. "
                f"Received: {', '.join(names) or '(none)'}"
            )
        for callback, config in zip(
            self.callbacks, saved["configs"], strict=True
        ):
            changed = [
                f"{name}={new!r} instead of {old!r}"
                for name, old, new in differences(config, _config_of(callback))
            ]
            if changed:
                raise ValueError(
                    f"Expected `{type(callback).__name__}` with the arguments "
                    f"that were saved in {self.path}. Received: "
                    f"{', '.join(changed)}"
                )
        return saved


def _config_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns what of a callback must be the same when it resumes."""
    if not hasattr(callback, "get_config"):
        return {}
    config = json.loads(json.dumps(callback.get_config()))
    return {key: each for key, each in config.items() if key != "verbose"}


def generators() -> list[np.ndarray]:
    """Returns the states of PyTorch's generators, which dropout draws from.

    Layers on other backends draw from seeds of their own.
    """
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.numpy() for state in states]


def set_generators(states: list[np.ndarray]) -> None:
    """Puts PyTorch's generators to what `generators` gave."""
    if not states or keras.backend.backend() != "torch":
        return
    import torch

    first, *rest = map(torch.from_numpy, states)
    torch.set_rng_state(first)
    torch.cuda.set_rng_state_all(rest[: torch.cuda.device_count()])


def gather_statistics(model: keras.Model) -> None:
    """Moves what layers have counted on all workers to rank 0.

    The sums over the workers, which are what is read, stay as they are.
    """
    if not collectives.together() or collectives.sees_all_batches():
        return
    for layer in layers_inside(model):
        variables = getattr(layer, "statistics_variables", ())
        for variable in variables:
            value = collectives.all_reduce_state(
                variable, largest=variable is layer.statistics_max_abs
            )
            if not collectives.is_primary():
                value = np.zeros_like(value)
            variable.assign(value)

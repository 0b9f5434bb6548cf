"""Keeps the best model since the last removal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from keras_apoptosis.training.masking import masked_count
from keras_apoptosis.utils.checks import check_count, check_that


@keras.saving.register_keras_serializable(package="keras_apoptosis")
class BestModel(keras.callbacks.EarlyStopping):
    """Restores, and saves, the best model since units were last removed.

    Use it in place of `EarlyStopping(restore_best_weights=True)` and of
    `ModelCheckpoint(save_best_only=True)` when a model is pruned while it
    trains. Both compare a model with larger ones of earlier epochs: weights
    that no longer fit, and a file that holds the model as it was before
    pruning. This callback forgets the best epoch whenever units have been
    removed or weights have been masked, and counts its patience from there.

    An epoch is only compared if all of its measurement was made with the
    model that it ends with: after a removal in the middle of an epoch, its
    validation counts and its training loss does not.

    Args:
        monitor: String, the quantity to compare, such as `"val_loss"` or
            `"val_accuracy"`.
        path: Where to save the best model: the name of a file that ends in
            `.keras`. The file always holds the best model since the last
            removal. `None` not to save it.
        restore: Whether the model gets the weights of the best epoch since
            the last removal when training ends.
        patience: Integer of at least 1: stop the training after so many
            epochs without an improvement. `None` not to stop it.
        mode: `"min"`, `"max"`, or `"auto"` to tell by the metric.
        min_delta: Number of at least 0: the least change that counts as an
            improvement.
        verbose: 0 or 1: whether to print what is restored.

    Attributes:
        best: The best value since the last removal, or `None`.
        best_epoch: The epoch it was measured in, counted from 0.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(32, activation="relu", name="hidden"),
    ...     keras.layers.Dense(1),
    ... ])
    >>> model.compile("adam", "mse")
    >>> best = ka.callbacks.BestModel("val_loss", patience=20)
    >>> apoptosis = ka.callbacks.NeuronApoptosis(data=x)
    >>> _ = model.fit(
    ...     x, x[:, :1], validation_split=0.25, epochs=4, verbose=0,
    ...     callbacks=[apoptosis, best],
    ... )
    >>> best.best_epoch >= 2  # The last removal was after two epochs.
    True
    """

    # It is an `EarlyStopping` that pruning callbacks need not refuse.
    follows_removals = True

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        path: str | os.PathLike | None = None,
        restore: bool = True,
        patience: int | None = None,
        mode: str = "auto",
        min_delta: float = 0.0,
        verbose: int = 0,
    ):
        if patience is not None:
            check_count("patience", patience)
        check_that(
            "mode",
            mode,
            mode in ("auto", "min", "max"),
            "'auto', 'min' or 'max'",
        )
        check_that("monitor", monitor, isinstance(monitor, str), "a string")
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check_that(
                "path",
                path,
                self.path.suffix == ".keras",
                "the name of a file that ends in '.keras'",
            )
        super().__init__(
            monitor,
            min_delta=min_delta,
            patience=2**31 if patience is None else patience,
            verbose=verbose,
            mode=mode,
            restore_best_weights=restore,
        )
        self._measured: tuple[Any, ...] | None = None
        self._compared: tuple[Any, ...] | None = None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the callback."""
        return {
            "monitor": self.monitor,
            "path": None if self.path is None else str(self.path),
            "restore": self.restore_best_weights,
            "patience": None if self.patience == 2**31 else self.patience,
            "mode": self.mode,
            "min_delta": abs(self.min_delta),  # Keras may have turned its sign.
            "verbose": self.verbose,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BestModel:
        """Makes a callback from what `get_config` returned."""
        return cls(**config)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._compared = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self.monitor.startswith("val_"):
            self._measured = _form(self.model)

    def on_test_begin(self, logs: Any = None) -> None:
        if self.monitor.startswith("val_"):
            self._measured = _form(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        form = _form(self.model)
        if form != self._compared:
            self._forget(form)
        if form != self._measured:  # The logs are of another model.
            return
        before: Any = self.best
        super().on_epoch_end(epoch, logs)
        if self.path is not None and self.best is not before:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.model.save(self.path)

    def on_train_end(self, logs: Any = None) -> None:
        form = _form(self.model)
        if form != self._compared:
            self._forget(form)
        super().on_train_end(logs)

    def _forget(self, form: tuple[Any, ...]) -> None:
        self._compared = form
        self.best = None
        self.best_weights = None
        self.wait = 0


def _form(model: keras.Model) -> tuple[Any, ...]:
    """Returns what pruning changes in a model: its shapes and its masks."""
    shapes = tuple(tuple(weight.shape) for weight in model.weights)
    return (*shapes, masked_count(model))

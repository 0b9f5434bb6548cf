"""The loss of every single sample, as the model's own loss has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def sample_losses(
    model: keras.Model, loss: Any = None
) -> Callable[[Any, Any, Any], Any]:
    """Returns a function that computes the loss of each sample of a batch.

    It is the data's part of the loss that `fit` minimizes: regularizers are
    not in it.

    Args:
        model: A compiled model; it needs not be compiled where `loss` is
            given.
        loss: Instead of the model's own: a loss of Keras, by name or as an
            object, or a function of labels and predictions that returns one
            number for each sample.

    Returns:
        A function of labels, predictions and sample weights (or `None`), to
        be called on the tensors of a batch; it returns shape `(batch,)`.

    Raises:
        ValueError: If there is no loss, or the model has several outputs and
            `loss` is no function of them all.
    """
    given = getattr(model, "loss", None) if loss is None else loss
    if given is None:
        raise ValueError(
            "Expected a model that is compiled with a loss, or `loss=`. "
            f"Received: model '{model.name}' with loss=None"
        )
    if isinstance(given, (list, tuple, dict)) or (
        loss is None and len(model.outputs) > 1
    ):
        raise ValueError(
            "Of a model with several outputs the loss of one sample is not "
            "known. Give a function of labels and predictions that returns "
            f"one number for each sample, as `loss=`. Received: loss={given}"
        )
    given = keras.losses.get(given)
    compute = given.call if isinstance(given, keras.losses.Loss) else given

    def losses(labels: Any, predictions: Any, weights: Any = None) -> Any:
        labels = keras.tree.map_structure(ops.convert_to_tensor, labels)
        if not isinstance(predictions, (list, tuple, dict)):
            # As Keras does, whatever the model computes in.
            labels = ops.cast(labels, keras.config.floatx())
            predictions = ops.cast(predictions, keras.config.floatx())
        values = compute(labels, predictions)
        if not len(values.shape):
            raise ValueError(
                "Expected a loss that returns one number for each sample. "
                f"Received: loss={given}, which returns a single number"
            )
        values = ops.mean(values, axis=tuple(range(1, len(values.shape))))
        if weights is not None:
            values = values * ops.reshape(
                ops.cast(weights, values.dtype), (-1,)
            )
        return values

    return losses

"""Records the total activation of units on the data of an epoch of `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis
from keras_apoptosis.statistics.rectified_layers import Rectified, totals


class ActivationRecorder:
    """Records the total activation of units on one kind of data.

    Layers that keep statistics count every call, in training and in
    evaluation. So the recorder resets them before the requested data, and
    reads them after it.

    Args:
        data: `"validation"`, `"training"`, or data to run the model on.
        batch_size: How many samples of such data to run at once.

    Raises:
        ValueError: If `data` is another string.
    """

    def __init__(self, data: Any, batch_size: int):
        if isinstance(data, str) and data not in ("validation", "training"):
            raise ValueError(
                "Expected `data` to be 'validation', 'training' or a sample. "
                f"Received: data={data}"
            )
        self.data = data
        self.batch_size = batch_size
        self._layers: Sequence[Rectified] = ()
        self._totals: dict[str, np.ndarray] | None = None

    def begin_fit(self, layers: Sequence[Rectified]) -> None:
        """Sets the layers to record.

        Raises:
            ValueError: If a layer keeps no statistics, and no data is given.
        """
        for each in layers if isinstance(self.data, str) else ():
            if getattr(each.judge, "statistics_total", None) is None:
                raise ValueError(
                    f"Layer '{each.judge.name}' keeps no statistics, so its "
                    f"activations on the {self.data} data are not known. "
                    "Convert the model by `ka.make_prunable(model, "
                    "track_statistics=True)`, or pass `data=`, such as "
                    "`data=x_val`. Received: "
                    f"{type(each.judge).__name__} '{each.judge.name}'"
                )
        self._layers = layers

    def end_fit(self) -> None:
        self._layers = ()

    def begin_epoch(self) -> None:
        self._totals = None
        if self._is("training"):
            self._reset()

    def begin_test(self) -> None:
        if self._is("training"):
            self._read()  # Before the validation data are counted, too.
        else:
            self._reset()  # The training batches were counted.

    def end_test(self) -> None:
        # Now: until the end of the epoch the model may run on other data.
        if self._is("validation"):
            self._read()

    def end_epoch(
        self, analysis: Analysis, layers: Sequence[Rectified]
    ) -> dict[str, np.ndarray] | None:
        """Returns the total activation of each unit, by path of the layer.

        Args:
            analysis: The model's units as they are now.
            layers: The layers as they are now.

        Returns:
            The totals; `None` if there was no validation in this epoch.
        """
        if not isinstance(self.data, str):
            return totals(analysis, layers, self.data, self.batch_size)
        if self._is("training") and self._totals is None:
            self._read()
        if self._totals is None:
            return None
        for each in layers:
            if self._totals[each.path].size != each.size:
                # Units were removed since, and their statistics with them.
                self._totals[each.path] = _total(each)
        return self._totals

    def _is(self, data: str) -> bool:
        return isinstance(self.data, str) and self.data == data

    def _reset(self) -> None:
        for each in self._layers if isinstance(self.data, str) else ():
            each.judge.reset_statistics()

    def _read(self) -> None:
        if self._layers and self._totals is None:
            self._totals = {each.path: _total(each) for each in self._layers}


def _total(layer: Rectified) -> np.ndarray:
    """Returns the totals over the data of all workers."""
    return collectives.all_reduce_state(layer.judge.statistics_total)

"""The loss of a model as a function of how far units are replaced.

Replacing unit i by its mean, in part: its activation h becomes
`h + p (mean − h)`. With p = 1 it is replaced, which is what removing it with
bias propagation does; the derivative at p = 0 is its first-order estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apoptosis import backend
from keras_apoptosis.backend import gradients
from keras_apoptosis.distributed import collectives
from keras_apoptosis.graph import Analysis, Place
from keras_apoptosis.graph.rule_table import rule_of
from keras_apoptosis.graph.rules import Contraction
from keras_apoptosis.statistics.constants import constants_of
from keras_apoptosis.statistics.losses import sample_losses
from keras_apoptosis.statistics.probe import Point, post_points, pre_points
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.statistics.streaming import batches, labelled_batches
from keras_apoptosis.utils.checks import check_choice

# For each group, by name, one number for each of its units.
UnitScores = dict[str, np.ndarray]


class ReplacedUnits:
    """Replaces units by constants, in part, and measures the loss.

    It keeps its compiled functions: reuse an object as long as the shapes of
    the model do not change.

    Args:
        analysis: The model's units.
        at: `"post"` to replace values after the activation, `"pre"` to
            replace those before it.
        loss: Instead of the model's loss; see `keras_apoptosis.losses`.
        groups: Names of the groups to replace; all by default.

    Attributes:
        groups: Names of the groups that it can replace.
        points: The points at which their units are measured.
    """

    def __init__(
        self,
        analysis: Analysis,
        at: str = "post",
        loss: Any = None,
        groups: Iterable[str] | None = None,
    ):
        check_choice("at", at, ("pre", "post"))
        self.analysis = analysis
        self.at = at
        self.groups: list[str] = []
        self.points: list[Point] = []
        self._sites: dict[Place, list[_Site]] = {}
        chosen = None if groups is None else set(groups)
        for number, group in enumerate(analysis.groups):
            if chosen is None or group.name in chosen:
                self._add(number)
        self._variables = list(analysis.graph.model.variables)
        self._losses = sample_losses(analysis.graph.model, loss)
        self._run = gradients.compiled(self._sample_losses)
        self._differentiate = gradients.compiled(self._slopes)

    def means(
        self, data: Any, batch_size: int = 512
    ) -> dict[str, dict[str, np.ndarray]]:
        """Returns the mean of each unit, by group and observation point.

        Args:
            data: The sample; labels are not needed.
            batch_size: How many samples of an array to run at once.
        """
        return self.constants(data, "mean", batch_size)

    def constants(
        self,
        data: Any,
        constant: str = "mean",
        batch_size: int = 512,
        passes: SamplePasses | None = None,
    ) -> dict[str, dict[str, np.ndarray]]:
        """Returns a constant for each unit, by group and observation point.

        Args:
            data: The sample; labels are not needed.
            constant: Which; see `constants_of`.
            batch_size: How many samples of an array to run at once.
            passes: See `collect`.
        """
        return constants_of(
            self.analysis, self.points, data, constant, batch_size, passes
        )

    def slopes(
        self,
        data: Any,
        constants: Mapping[str, Mapping[str, np.ndarray]],
        batch_size: int = 512,
    ) -> Iterator[tuple[UnitScores, UnitScores]]:
        """Derivatives of each sample's loss, from one backward pass a batch.

        Args:
            data: The sample, with labels.
            constants: Constants that replace units, as `means` returns them.
            batch_size: How many samples of an array to run at once.

        Yields:
            For each batch, and for each group shapes `(batch, units)`: the
            derivative with respect to p, and that with respect to something
            added to the unit (at every position of a feature map).
        """
        constants = self._arrays(constants)
        for rest, size in self._batches(data, batch_size):
            zeros = {
                name: np.zeros((size, self._size(name)), "float32")
                for name in self.groups
            }
            parts, sums = self._differentiate(zeros, zeros, constants, *rest)
            yield _numpy(parts), _numpy(sums)

    def losses(
        self,
        data: Any,
        constants: Mapping[str, Mapping[str, np.ndarray]],
        replaced: Mapping[str, np.ndarray],
        batch_size: int = 512,
    ) -> np.ndarray:
        """Computes the loss of each sample with units replaced.

        Args:
            data: The sample, with labels.
            constants: Constants that replace units, as `means` returns them.
            replaced: For some groups, by name, how far each unit is
                replaced: shape `(units,)`, from 0 to 1.
            batch_size: How many samples of an array to run at once.

        Returns:
            Shape `(samples,)`.
        """
        constants = self._arrays(constants)
        parts = {
            name: np.asarray(
                replaced.get(name, np.zeros(self._size(name))), "float32"
            )[None]
            for name in self.groups
        }
        with gradients.no_gradients():
            found = [
                ops.convert_to_numpy(self._run(parts, None, constants, *rest))
                for rest, _ in self._batches(data, batch_size)
            ]
        return np.concatenate(found)

    def constants_after(
        self,
        data: Any,
        constants: Mapping[str, Mapping[str, np.ndarray]],
        points: Iterable[Point],
        batch_size: int = 512,
    ) -> dict[str, dict[str, np.ndarray]]:
        """Computes what other points receive from units replaced by constants.

        Args:
            data: The sample; labels are not needed.
            constants: Constants that replace units, as `means` returns them.
            points: Where to look.
            batch_size: How many samples of an array to run at once.
        """
        points = list(points)
        ones = {n: np.ones((1, self._size(n)), "float32") for n in self.groups}
        edits = self._edits(ones, None, self._arrays(constants))
        first = next(batches(data, batch_size))
        wanted = set().union(*(point.tensors for point in points))
        with backend.inference_scope(self.analysis.graph.model):
            tensors = self.analysis.graph.compute(first, wanted, edits)
            found: dict[str, dict[str, np.ndarray]] = {}
            for point in points:
                values = np.concatenate(
                    [ops.convert_to_numpy(v) for v in point.values(tensors)]
                )
                mean = collectives.all_reduce_sum(values.sum(0), "constants")
                mean = mean / collectives.all_reduce_sum(
                    np.array(len(values)), "count"
                )
                found.setdefault(point.group, {})[point.name] = mean
        return found

    def _add(self, number: int) -> None:
        group = self.analysis.groups[number]
        sites = list(self._sites_of(number))
        if not sites:
            return
        self.groups.append(group.name)
        for point, place, site in sites:
            if point not in self.points:
                self.points.append(point)
            self._sites.setdefault(place, []).append(site)

    def _sites_of(self, number: int) -> Iterator[tuple[Point, Place, _Site]]:
        analysis = self.analysis
        group = analysis.groups[number]
        if self.at == "pre":
            makers = {
                block.path: block.step
                for block in analysis.trace.blocks
                if block.step is not None
            }
            for point in pre_points(analysis, number):
                step = makers[point.name]
                # Only these apply their activation to what they return.
                before = isinstance(rule_of(step.operation), Contraction)
                _, axis, places, _ = point.parts[0]
                if not before:
                    point = Point(
                        group.name,
                        point.name,
                        [(step.outputs[0], axis, places, None)],
                    )
                place = Place(step.outputs[0], before)
                yield point, place, _Site(group.name, point.name, axis, places)
            return
        for point in post_points(analysis, number):
            if any(within is not None for *_, within in point.parts):
                continue  # Deep inside a layer nothing can be replaced.
            for key, axis, places, _ in point.parts:
                site = _Site(group.name, point.name, axis, places)
                yield point, Place(key), site

    def _size(self, name: str) -> int:
        return next(g.size for g in self.analysis.groups if g.name == name)

    def _arrays(self, constants: Mapping) -> dict[str, dict[str, np.ndarray]]:
        return {
            name: {
                point: np.asarray(value, "float32")
                for point, value in constants[name].items()
            }
            for name in self.groups
        }

    def _batches(
        self, data: Any, batch_size: int
    ) -> Iterator[tuple[tuple, int]]:
        for x, y, weights in labelled_batches(data, batch_size):
            state = [backend.local_value(each) for each in self._variables]
            yield (state, x, y, weights), len(keras.tree.flatten(x)[0])

    def _slopes(
        self, parts: dict, sums: dict, constants: Mapping, *rest: Any
    ) -> tuple[dict, dict]:
        names = list(parts)
        tensors = [parts[name] for name in names]
        tensors += [sums[name] for name in names]

        def total(values: list[Any]) -> tuple[Any, None]:
            half = len(names)
            first = dict(zip(names, values[:half], strict=True))
            second = dict(zip(names, values[half:], strict=True))
            losses = self._sample_losses(first, second, constants, *rest)
            return ops.sum(losses), None

        _, _, found = gradients.value_and_gradients(total, tensors)
        half = len(names)
        return (
            dict(zip(names, found[:half], strict=True)),
            dict(zip(names, found[half:], strict=True)),
        )

    def _sample_losses(
        self,
        parts: dict,
        sums: dict | None,
        constants: Mapping,
        state: Sequence[Any],
        x: Any,
        y: Any,
        weights: Any,
    ) -> Any:
        graph = self.analysis.graph
        mapping = list(zip(self._variables, state, strict=True))
        edits = self._edits(parts, sums, constants)
        with keras.StatelessScope(state_mapping=mapping):
            tensors = graph.compute(x, graph.outputs, edits)
            outputs = [tensors[key] for key in graph.outputs]
            predictions = outputs[0] if len(outputs) == 1 else outputs
            return self._losses(y, predictions, weights)

    def _edits(
        self, parts: dict, sums: dict | None, constants: Mapping
    ) -> dict[Place, Callable]:
        def edit_of(sites: list[_Site]) -> Callable[[Any], Any]:
            def edit(value: Any) -> Any:
                for site in sites:
                    value = site.replaced(
                        value,
                        parts[site.group],
                        None if sums is None else sums[site.group],
                        constants[site.group][site.point],
                    )
                return value

            return edit

        return {place: edit_of(sites) for place, sites in self._sites.items()}


class _Site:
    """The units of a group in one tensor.

    Args:
        group: Name of the group.
        point: Name of the point whose constants are meant.
        axis: Axis of the units.
        places: Where each unit stands along it: `(occurrences, units)`.
    """

    def __init__(self, group: str, point: str, axis: int, places: np.ndarray):
        self.group = group
        self.point = point
        self.axis = axis
        self.places = places

    def replaced(self, value: Any, part: Any, added: Any, constant: Any) -> Any:
        """Returns `value + part (constant − value) + added` for these units."""
        part = self._spread(part, value)
        constant = self._spread(constant[None], value)
        value = value + part * (constant - value)
        return value if added is None else value + self._spread(added, value)

    def _spread(self, rows: Any, like: Any) -> Any:
        """Places rows of one number per unit along the axis of the units."""
        rows = ops.cast(rows, like.dtype)
        axis = self.axis % len(like.shape)
        size = like.shape[axis]
        units = self.places.shape[1]
        # Places of other groups' units take the zero at the end.
        unit_at = np.full(size, units)
        for place in self.places:
            unit_at[place] = np.arange(units)
        if size != units or (unit_at != np.arange(units)).any():
            rows = ops.pad(rows, ((0, 0), (0, 1)))
            rows = ops.take(rows, unit_at, axis=1)
        shape = [1] * len(like.shape)
        shape[0], shape[axis] = -1, size
        return ops.reshape(rows, shape)


def _numpy(tensors: Mapping[str, Any]) -> UnitScores:
    return {name: ops.convert_to_numpy(t) for name, t in tensors.items()}

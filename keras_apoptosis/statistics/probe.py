"""Measures the activations of a model's units on a sample."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras import Model, ops

from keras_apoptosis.backend.calls import mask_of
from keras_apoptosis.graph import Analysis, Step, analyse
from keras_apoptosis.graph.activations import without_activation
from keras_apoptosis.statistics.moments import Moments
from keras_apoptosis.statistics.sample_passes import SamplePasses
from keras_apoptosis.statistics.streaming import batches
from keras_apoptosis.utils.checks import check_choice


def unit_statistics(
    model: Model,
    data: Any,
    *,
    at: str = "post",
    gram: bool = False,
    activity_tolerance: float = 0.0,
    batch_size: int = 512,
    samples: int | None = 4096,
) -> dict[str, dict[str, Moments]]:
    """Measures the units of a model on a sample, in one streaming pass.

    Args:
        model: A built Sequential or Functional model, or a nesting of those.
        data: The sample: arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a `DataLoader` or a generator of
            batches. Of tuples `(x, y, ...)` only `x` is used.
        at: `"post"` to measure where units are judged, after the activation;
            `"pre"` to measure what their layers compute before it.
        gram: Whether to gather second moments between units as well.
        activity_tolerance: Float >= 0. A unit counts as active in a sample
            if its absolute value is above it.
        batch_size: How many samples of an array to run at once.
        samples: Integer > 0, the maximum number of samples; `None` for all.

    Returns:
        For each group, by name, and each point where it is measured, by the
        layer's path, the `Moments`. Every position of a feature map counts
        as a sample.

    Raises:
        ValueError: If `at` is unknown, or the model or the data is no use.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> found = ka.unit_statistics(model, np.ones((10, 4), "float32"))
    >>> found["hidden"]["hidden"].count
    10
    """
    check_choice("at", at, ("pre", "post"))
    analysis = analyse(model)
    points = post_points if at == "post" else pre_points
    return collect(
        analysis,
        [p for n in range(len(analysis.groups)) for p in points(analysis, n)],
        data,
        gram=gram,
        activity_tolerance=activity_tolerance,
        batch_size=batch_size,
        samples=samples,
    )


class Point:
    """One place to measure a group at.

    Args:
        group: Name of the group.
        name: Name of the place.
        parts: For each tensor to read: its key, the axis of the units, the
            places of each unit along it, and what to compute from it first,
            or `None`.
    """

    def __init__(self, group: str, name: str, parts: list[tuple]):
        self.group = group
        self.name = name
        self.parts = parts

    @property
    def tensors(self) -> set[int]:
        return {key for key, *_ in self.parts}

    def values(self, tensors: dict[int, Any]) -> Iterator[Any]:
        """Iterates over arrays of shape `(samples, units)` from the tensors."""
        for key, axis, places, compute in self.parts:
            value = tensors[key]
            if compute is not None:
                value = compute(value)
            value = ops.moveaxis(value, axis, -1)
            value = ops.reshape(value, (-1, value.shape[-1]))
            whole = list(range(value.shape[-1]))
            for place in places:  # Where a unit stands at several.
                yield (
                    value
                    if list(place) == whole
                    else ops.take(value, place, axis=-1)
                )


def post_points(analysis: Analysis, number: int) -> list[Point]:
    """Returns the observation points of a group that can be measured."""
    group = analysis.groups[number]
    points = []
    for observation in group.observations:
        if not observation.measurable:
            continue
        parts = []
        for index in observation.sources:
            source = analysis.trace.sources[index]
            units = source.units
            places = analysis.positions(units.labels, number)
            parts.append((source.tensor, units.axis, places, source.within))
        points.append(Point(group.name, observation.name, parts))
    return points


def pre_points(analysis: Analysis, number: int) -> list[Point]:
    """Returns the points of a group before the producers' activations."""
    group = analysis.groups[number]
    points = []
    for block in analysis.blocks_of[number]:
        step = block.step
        if step is not None:
            mine = analysis.group_of[block.start : block.stop] == number
            made = analysis.trace.units[step.outputs[0]].values()
            first = block.start + int(mine.argmax())
            units = next(u for u in made if first in u.labels)
            places = analysis.positions(units.labels, number)
            before = functools.partial(_before_activation, step)
            parts = [(step.read[0], units.axis, places, before)]
            points.append(Point(group.name, block.path, parts))
    return points


def collect(
    analysis: Analysis,
    points: Iterable[Point],
    data: Any,
    *,
    gram: bool = True,
    activity_tolerance: float = 0.0,
    batch_size: int = 512,
    samples: int | None = None,
    passes: SamplePasses | None = None,
) -> dict[str, dict[str, Moments]]:
    """Measures points of an analyzed model; see `unit_statistics`.

    Each worker measures its own data, and gets the moments of all.

    Args:
        analysis: The model's units.
        points: Where to measure, of one group if there are `passes`.
        data: The sample.
        gram: See `unit_statistics`.
        activity_tolerance: See `unit_statistics`.
        batch_size: See `unit_statistics`.
        samples: See `unit_statistics`.
        passes: What runs the sample, where the model shrinks group by group;
            the group of the points is the next.
    """
    points = list(points)
    moments: dict[str, dict[str, Moments]] = {}
    for point in points:
        moments.setdefault(point.group, {})[point.name] = Moments(
            point.parts[0][2].shape[1],
            gram=gram,
            activity_tolerance=activity_tolerance,
        )
    if not points:
        return moments
    runs = runs_of(analysis, points, data, batch_size, samples, passes)
    for tensors in runs:
        for point in points:
            for value in point.values(tensors):
                moments[point.group][point.name].update(value)
    for found in moments.values():
        for each in found.values():
            each.pool()
    return moments


def runs_of(
    analysis: Analysis,
    points: Sequence[Point],
    data: Any,
    batch_size: int = 512,
    samples: int | None = None,
    passes: SamplePasses | None = None,
) -> Iterator[dict[int, Any]]:
    """Iterates over the tensors of some points, batch by batch.

    See `collect` for the arguments.
    """
    wanted = set().union(*(point.tensors for point in points))
    if passes is None:
        for batch in batches(data, batch_size=batch_size, samples=samples):
            yield analysis.graph.run(batch, wanted)
    else:
        (name,) = {point.group for point in points}
        number = [group.name for group in analysis.groups].index(name)
        yield from passes.run(analysis, wanted, number)


def _before_activation(step: Step, value: Any) -> Any:
    with without_activation(step.operation):
        masks = dict.fromkeys(set(step.inputs) - set(step.read), mask_of(value))
        return step.run({**masks, step.read[0]: value})[0]

"""The reference for surgery: the full model with activations replaced.

It is worked out by another route than surgery: the full graph is run step by
step with its own weights, and activations are replaced on the way. Only what
is read inside a layer, where no tensor can be reached, is replaced by setting
to zero the weights that read it.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_apoptosis.backend.calls import mask_of, masked
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.reading import Replay


def masked_outputs(model, removal, inputs):
    """Outputs of the full model with the removed units' values replaced."""
    analysis = analyse(model)
    replaced: dict[tuple[int, int], tuple] = {}
    weights: dict[int, tuple] = {}

    def replacement(source):
        units = source.units
        size = units.labels.size
        return replaced.setdefault(
            (source.tensor, units.axis), (np.eye(size), np.zeros(size))
        )

    for number, group in enumerate(analysis.groups):
        if group.name not in removal:
            continue
        gone = removal[group.name]
        stay = np.setdiff1d(np.arange(group.size), gone)
        points = {}
        for point in group.observations:
            given = removal.replacement(group.name, point.name).arrays()
            points.update(dict.fromkeys(point.sources, given))
        for consumer in analysis.trace.consumers:
            units = consumer.units
            mine = analysis.member(units.labels, number)
            for index in np.unique(units.sources[mine]):
                source = analysis.trace.sources[index]
                if source.tensor is None or source.within is not None:
                    continue
                matrix, constant = replacement(source)
                # A layer without weights takes removed units as zero.
                given = points.get(index, {})
                for place in analysis.positions(source.units.labels, number):
                    matrix[:, place[gone]] = 0
                    constant[place[gone]] = given.get("constant", 0)
                    if "mixing" in given:
                        where = np.ix_(place[stay], place[gone])
                        matrix[where] = given["mixing"].T
            if mine.any() and _inside(analysis, consumer):
                _zero(weights, analysis, consumer, number, gone)

    mapping = [
        (variable, ops.convert_to_tensor(value, variable.dtype))
        for variable, value in weights.values()
    ]
    graph = analysis.graph

    def run(inputs):
        values = dict(zip(graph.inputs, inputs, strict=True))
        replay = Replay()
        with keras.StatelessScope(mapping):
            for step in graph.steps:
                made = replay.run(step, values)
                values.update(zip(step.outputs, made, strict=True))
                for (key, axis), given in replaced.items():
                    if key in step.outputs:
                        mask = mask_of(values[key])
                        new = _replace(values[key], axis, *given)
                        values[key] = masked(new, mask)
        return [values[key] for key in graph.outputs]

    return _evaluated(run, model, inputs)


def reachable(analysis, point):
    """Whether values at a point can be replaced by others than zero here."""
    alone = {
        int(source)
        for consumer in analysis.trace.consumers
        if consumer.kernel is None
        for source in consumer.units.sources
    }
    if not point.combines:
        return False
    return not alone.intersection(point.sources) and not any(
        _inside(analysis, consumer) for consumer, _ in point.consumers
    )


def _replace(value, axis, matrix, constant):
    double = keras.backend.standardize_dtype(value.dtype) == "float64"
    dtype = "float64" if double else "float32"
    moved = ops.cast(ops.moveaxis(value, axis, -1), dtype)
    moved = ops.matmul(moved, ops.convert_to_tensor(matrix, dtype))
    moved = moved + ops.convert_to_tensor(constant, dtype)
    return ops.cast(ops.moveaxis(moved, -1, axis), value.dtype)


def _inside(analysis, consumer):
    """Whether a consumer reads values that are no tensor of the graph."""
    if consumer.kernel is None:
        return analysis.trace.sources[consumer.units.sources[0]].tensor is None
    recurrent = "recurrent_kernel" in consumer.kernel.path
    source = analysis.trace.sources[consumer.units.sources[0]]
    return recurrent or source.tensor is None or source.within is not None


def _zero(weights, analysis, consumer, number, gone):
    if consumer.kernel is None:  # The products of queries and keys.
        dense = consumer.layer._query_dense
        cut = [(dense._kernel, 2), (dense.bias, 1)]
    else:
        cut = [(consumer.kernel, consumer.axis)]
    for variable, axis in cut:
        if variable is None:
            continue
        _, value = weights.setdefault(
            id(variable), (variable, ops.convert_to_numpy(variable).copy())
        )
        rows = np.moveaxis(value, axis, 0)
        for place in analysis.positions(consumer.units.labels, number):
            rows[place[gone]] = 0


def outputs_of(model, inputs):
    """Flat list of a model's outputs in inference, as numpy arrays."""
    structure = inputs

    def run(inputs):
        inputs = keras.tree.pack_sequence_as(structure, inputs)
        return keras.tree.flatten(model(inputs, training=False))

    return _evaluated(run, model, inputs)


def _evaluated(run, model, inputs):
    flat = [ops.convert_to_tensor(each) for each in keras.tree.flatten(inputs)]
    if keras.backend.backend() == "jax" and model.count_params() < 1e6:
        import jax

        # Step by step, JAX compiles every function for every shape.
        run = jax.jit(_stateless(run))
    return [ops.convert_to_numpy(each) for each in run(flat)]


def _stateless(run):
    """Keeps the new states of recurrent layers, which JAX traces, apart."""

    def stateless(inputs):
        with keras.StatelessScope():
            return run(inputs)

    return stateless

"""Passes that begin where a model has changed, against whole ones."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.groups import obstacle
from keras_apoptosis.statistics import sample_passes
from keras_apoptosis.statistics.probe import post_points
from keras_apoptosis.statistics.sample_passes import SamplePasses, unchanged_by
from keras_apoptosis.statistics.streaming import batches
from tests.architectures import CATALOGUE, randomize, sample
from tests.cases import part
from tests.random_architectures import BATCH, Block, generate, inputs_of


def array(value):
    return keras.ops.convert_to_numpy(keras.ops.cast(value, "float64"))


def shrink_group_by_group(model, x, batch_size=8):
    """Shrinks by passes, and compares each with one from the inputs.

    Returns:
        How many groups there were.
    """
    rng = np.random.default_rng(0)
    passes = SamplePasses(x, batch_size)
    names = [
        group.name
        for group in analyse(model).groups
        if group.removable and group.size > 2 and not obstacle(group, True)
    ]
    for name in names:
        analysis = analyse(model)
        number = [group.name for group in analysis.groups].index(name)
        points = post_points(analysis, number)
        wanted = set().union(*(point.tensors for point in points))
        found = list(passes.run(analysis, wanted, number))
        for tensors, inputs in zip(found, batches(x, batch_size), strict=True):
            whole = analysis.graph.run(inputs, wanted)
            for key in wanted:
                np.testing.assert_array_equal(
                    array(tensors[key]), array(whole[key])
                )
        size = analysis.groups[number].size
        gone = rng.choice(size, size // 2, replace=False)
        constant = ka.Replacement(constant=rng.normal(size=gone.size))
        ka.shrink(model, ka.Removal({name: gone}, {name: constant}))
    return len(names)


@pytest.mark.parametrize("name", part([*CATALOGUE]))
def test_passes_are_those_from_the_inputs(name):
    model = randomize(CATALOGUE[name](), seed=0)
    assert shrink_group_by_group(model, sample(model, 20))


@pytest.mark.parametrize("seed", part(range(6)))
def test_passes_of_random_models(seed):
    model = generate(seed)
    shrink_group_by_group(model, inputs_of(model, seed), BATCH)


def test_an_event_runs_each_layer_a_few_times(monkeypatch):
    """And not as often as there are groups behind it."""
    depth, rows = 8, 64
    model = keras.Sequential([keras.Input((4,))])
    for _ in range(depth):
        model.add(layers.Dense(6))
        model.add(layers.ReLU())
    model.add(layers.Dense(2))
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype("float32")
    apoptosis = ka.callbacks.NeuronApoptosis(
        tolerance=0.3, data=x, min_gain=0, recalibrate=False
    )
    apoptosis.set_model(model)
    calls = []
    call = layers.ReLU.call

    def counted(self, inputs):
        calls.append(inputs.shape[0])
        return call(self, inputs)

    monkeypatch.setattr(layers.ReLU, "call", counted)
    report = apoptosis.fire(0.3)
    pruned = len(report.groups)
    assert pruned > 4
    # Each once, to choose; then that of every group, and of the one before.
    assert calls.count(rows) <= depth + 2 * (pruned - 1)


def test_after_another_removal_than_was_said_a_pass_begins_at_the_inputs():
    model = randomize(CATALOGUE["mlp"](), seed=0)
    x = sample(model, 20)
    passes = SamplePasses(x, 8)

    def last(number):
        analysis = analyse(model)
        (point,) = post_points(analysis, 1)
        found = list(passes.run(analysis, point.tensors, number))
        whole = [analysis.graph.run(e, point.tensors) for e in batches(x, 8)]
        for one, other in zip(found, whole, strict=True):
            for key in point.tensors:
                np.testing.assert_array_equal(
                    array(one[key]), array(other[key])
                )

    last(1)
    ka.shrink(model, ka.Removal({analyse(model).groups[0].name: [0, 2]}))
    last(1)
    last(1)  # And nothing was removed: what is held serves again.


def test_the_sample_is_read_once(monkeypatch):
    """Also where groups are inside layers that are followed."""
    reads = []

    def counted(*arguments):
        reads.append(arguments)
        return batches(*arguments)

    monkeypatch.setattr(sample_passes, "batches", counted)
    inputs = keras.Input((6,))
    x = layers.Dense(6)(inputs)
    for name in ("first", "second"):
        x = Block(8, residual=False, name=name)(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), seed=0)
    assert shrink_group_by_group(model, sample(model, 20)) == 2
    assert len(reads) == 1


def test_what_is_wanted_later_may_be_computed_before():
    """By way of a gate: nothing before it is held, so it is run again."""
    inputs = keras.Input((6,))
    made = layers.Dense(5, name="made")(layers.Dense(4, name="before")(inputs))
    for _ in range(4):  # So that it comes first in the order of the model.
        made = layers.Activation("tanh")(made)
    hidden = layers.Dense(4, name="hidden")(layers.Dense(4, name="up")(inputs))
    gated = layers.Multiply()([made, layers.Dense(1, name="gate")(hidden)])
    model = keras.Model(inputs, layers.Dense(2, name="end")(gated))
    model = randomize(model, seed=0)
    names = [group.name for group in analyse(model).groups]
    assert names.index("made") < names.index("up")
    assert shrink_group_by_group(model, sample(model, 20)) == 4


def test_without_room_passes_begin_at_the_inputs(monkeypatch):
    monkeypatch.setattr(sample_passes, "_HELD", 0)
    model = randomize(CATALOGUE["residual"](), seed=0)
    assert shrink_group_by_group(model, sample(model, 20))


def test_what_a_removal_leaves_as_it_is():
    """All before its units, but for what shares a weight with what reads them.

    `first` and `second` are calls of one layer.
    """
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    first = shared(inputs)
    before = layers.Dense(5, name="before")(first)
    made = layers.Dense(4, name="made")(before)
    second = shared(layers.Dense(6, name="up")(made))
    model = keras.Model(inputs, layers.Dense(1)(second))
    analysis = analyse(model)
    groups = {group.name: n for n, group in enumerate(analysis.groups)}
    # `shared` comes after `made`: its weights may change, and so its first
    # call, and all that follows.
    assert unchanged_by(analysis, groups["made"]) == set(analysis.graph.inputs)
    apart = keras.Model(inputs, layers.Dense(1, name="end")(made))
    analysis = analyse(apart)
    groups = {group.name: n for n, group in enumerate(analysis.groups)}
    key = {step.path: step.outputs[0] for step in analysis.graph.steps}
    assert unchanged_by(analysis, groups["made"]) == {
        *analysis.graph.inputs,
        key["shared"],
        key["before"],
    }


@pytest.mark.parametrize("replacement", ["least_squares", "mean", "median"])
def test_what_replaces_units_is_as_by_passes_from_the_inputs(
    replacement, monkeypatch
):
    found = []
    for room in (2**30, 0):
        monkeypatch.setattr(sample_passes, "_HELD", room)
        model = randomize(CATALOGUE["residual"](), seed=0)
        ka.prune(
            model,
            ka.targets.Units(at_most=0.6),
            sample(model, 20),
            criterion="squared_norm",
            replacement=replacement,
            batch_size=8,
        )
        found.append(model.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)

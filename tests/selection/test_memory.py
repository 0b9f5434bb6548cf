"""Memory is bounded, and refused before it is spent."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.selection.parallel_units import parallel_units
from keras_apoptosis.selection.reconstruction import (
    Reconstruction,
    memory_needed,
)

RNG = np.random.default_rng(0)


@pytest.fixture
def limit():
    before = ka.selection.memory_limit()
    yield ka.selection.set_memory_limit
    ka.selection.set_memory_limit(before)


def wide(units, readers=1):
    inputs = keras.Input((4,))
    hidden = layers.Dense(units, activation="tanh", name="wide")(inputs)
    outputs = [layers.Dense(2)(hidden) for _ in range(readers)]
    return keras.Model(inputs, outputs)


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tolerance", [0.5, 0.001, 0.0])
def test_reconstruction_takes_what_it_says(tolerance):
    model, size = wide(1200), 1200
    x = RNG.normal(size=(1500, 4)).astype("float32")
    analysis = analyse(model)
    rule = Reconstruction(x, min_units=size // 2)

    def choose():
        measured = rule.measure(analysis, [0])
        rule.choose(analysis, 0, tolerance, measured)

    needed = memory_needed({0: (size, 1)})
    assert needed == 3 * 8 * size**2
    choose()
    # Beside the matrices: activations, and the consumers' weights.
    assert peak_of(choose) < 1.1 * needed + 1e7


def test_the_need_of_several_groups_adds_up():
    # All second moments are held; the largest group is worked on.
    found = memory_needed({0: (10, 1), 3: (20, 2), 5: (5, 1)})
    assert found == 8 * (100 + 2 * 400 + 25 + 3 * 400)
    assert memory_needed({}) == 0


def test_reconstruction_is_refused_before_memory_is_spent(limit):
    model = wide(64)
    before = model.get_weights()
    needed = 3 * 8 * 64**2 / 2**30

    def data():
        yield pytest.fail("The data was read.")

    limit(needed * 0.99)
    analysis = analyse(model)
    with pytest.raises(ValueError, match="Received: a group of 64 units"):
        Reconstruction(data()).measure(analysis, [0])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    limit(needed * 1.01)
    Reconstruction(np.zeros((8, 4))).measure(analysis, [0])


def test_fewer_samples_than_units_take_what_it_says():
    model, size, samples = wide(3000), 3000, 200
    x = RNG.normal(size=(samples, 4)).astype("float32")
    analysis = analyse(model)
    rule = Reconstruction(x, samples, min_units=100)

    def choose():
        measured = rule.measure(analysis, [0])
        rule.choose(analysis, 0, 0.001, measured)

    choose()
    needed = memory_needed({0: (size, 1)}, {0: samples})
    assert needed == 20 * size * samples
    # Beside them some rows of the factor, and the consumers' weights.
    assert peak_of(choose) < 1.1 * needed + 8 * 256 * size + 1e7


def test_twenty_thousand_units_are_refused_if_there_are_as_many_samples():
    assert memory_needed({0: (20_000, 1)}) > 8 * 2**30
    assert memory_needed({0: (20_000, 1)}, {0: 4096}) < 2 * 2**30
    assert ka.selection.memory_limit() == 8


@pytest.mark.parametrize("value", [0, -1, "8", None, True])
def test_a_limit_is_a_number_above_0(value):
    with pytest.raises(ValueError, match="Received: gibibytes="):
        ka.selection.set_memory_limit(value)


@pytest.mark.parametrize("scale_free", [True, False])
def test_similarity_never_holds_all_pairs(scale_free):
    size = 4000
    vectors = RNG.normal(size=(size, 3))

    def search():
        parallel_units(vectors, 1.5, scale_free=scale_free)

    search()
    # All cosines would be 64 MB, even in single precision.
    assert peak_of(search) < 0.5 * 4 * size**2

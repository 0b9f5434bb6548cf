"""Kernels of layers, and the masks over them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.backend import (
    effective_value,
    kernel_mask_of,
    kernel_of,
    mask_over,
)

KINDS = [
    (layers.Dense(2), (None, 3), (3, 2)),
    (layers.Conv1D(2, 5), (None, 9, 3), (5, 3, 2)),
    (layers.EinsumDense("ab,bc->ac", 2), (None, 3), (3, 2)),
    (layers.DepthwiseConv1D(5), (None, 9, 3), (5, 3, 1)),
    (ka.layers.PrunableDense(2), (None, 3), (3, 2)),
]


@pytest.mark.parametrize(
    ("layer", "inputs", "shape"),
    KINDS,
    ids=[type(layer).__name__ for layer, *_ in KINDS],
)
def test_a_kernel_is_the_variable_behind_it(layer, inputs, shape):
    assert kernel_of(layer) is None
    layer.build(inputs)
    assert kernel_of(layer) is layer.variables[0]
    assert tuple(kernel_of(layer).shape) == shape
    assert kernel_mask_of(layer) is None


def test_layers_without_a_kernel():
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    assert kernel_of(norm) is None
    assert mask_over(norm, norm.gamma) is None


def test_a_kernel_is_not_what_is_computed_from_it():
    layer = layers.Dense(2)
    layer.build((None, 3))
    layer.enable_lora(1)
    kernel = kernel_of(layer)
    assert isinstance(kernel, keras.Variable)
    assert kernel is not layer.kernel


def test_a_mask_lies_over_the_kernel_alone():
    layer = ka.layers.PrunableDense(2)
    layer.build((None, 2))
    layer.set_mask([[1, 0], [1, 1]])
    assert mask_over(layer, kernel_of(layer)) is layer.kernel_mask
    assert mask_over(layer, layer.bias) is None
    # What an optimizer has done to masked weights counts for nothing.
    kernel_of(layer).assign([[1.0, 2.0], [3.0, 4.0]])
    found = effective_value(layer, kernel_of(layer))
    np.testing.assert_array_equal(found, [[1.0, 0.0], [3.0, 4.0]])
    assert found.dtype == "float64"
    layer.bias.assign([5.0, 6.0])
    np.testing.assert_array_equal(
        effective_value(layer, layer.bias), [5.0, 6.0]
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(kernel_of(layer)), [[1.0, 2.0], [3.0, 4.0]]
    )

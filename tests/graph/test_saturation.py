"""By which activations units are dead or alive."""

import keras
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.graph import analyse
from keras_apoptosis.graph.saturation import saturated_side, silent_groups


def normalized(x, filters, strides=1, size=3):
    x = layers.Conv2D(filters, size, strides, "same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def resnet_18(width):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(normalized(x, width))
    for stage in range(4):
        filters = width * 2**stage
        for block in range(2):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(normalized(x, filters, strides))
            y = normalized(y, filters)
            if strides == 2:
                x = normalized(x, filters, strides, 1)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def test_a_resnet_18_has_as_many_neurons_as_the_paper_says():
    """3,904 for 64 channels (section 2.1); a sixteenth for 4."""
    assert ka.accounting.size_of(resnet_18(4)).neurons == 3904 // 16


@pytest.mark.parametrize(
    ("activation", "side"),
    [
        ("relu", "zero"),
        ("relu6", "zero"),
        ("gelu", "zero"),
        ("silu", "zero"),
        ("mish", "zero"),
        ("leaky_relu", "negative"),
        ("tanh", ""),
        ("elu", ""),
        ("linear", ""),
    ],
)
def test_sides(activation, side):
    assert saturated_side(layers.Activation(activation)) == side
    assert saturated_side(layers.Dense(2, activation)) == side


@pytest.mark.parametrize(
    ("activation", "side"),
    [
        (lambda x: ops.gelu(x, approximate=False), "zero"),
        (lambda x: x * ops.sigmoid(1.7 * x), "zero"),
        (lambda x: ops.maximum(x, 0.1 * x), "negative"),
        (lambda x: ops.maximum(x, -1.0), ""),
        (lambda x: x, ""),
        (lambda x: ops.exp(-x * x), ""),
        (lambda x: ops.relu(x) / (1 + ops.max(x)), ""),
    ],
)
def test_sides_of_functions_are_found_by_trial(activation, side):
    assert saturated_side(layers.Dense(2, activation)) == side


def test_sides_of_layers():
    assert saturated_side(layers.ReLU()) == "zero"
    assert saturated_side(layers.ReLU(max_value=6)) == "zero"
    assert saturated_side(layers.ReLU(negative_slope=0.1)) == "negative"
    assert saturated_side(layers.LeakyReLU()) == "negative"
    assert saturated_side(layers.Dropout(0.5)) == ""


def gates(*stack):
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    analysis = analyse(model)
    return {
        analysis.groups[number].name: [gate.step.path for gate in found]
        for number, found in silent_groups(analysis).items()
    }


def test_units_are_judged_before_what_leaves_them_constant():
    found = gates(
        layers.Conv2D(4, 3, name="conv"),
        layers.ReLU(name="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )
    assert found == {"conv": ["relu"]}


def test_without_an_activation_that_falls_silent_there_is_none():
    assert gates(layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)) == {}
    found = gates(layers.Conv2D(4, 3, activation="tanh"), layers.Conv2D(2, 3))
    assert found == {}


def test_functions_count_as_well():
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(ops.relu(hidden)))
    assert len(silent_groups(analyse(model))) == 1

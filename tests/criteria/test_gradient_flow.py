"""Scores of gates behind units, against finite differences."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.statistics import WeightDerivatives

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, 40)


def make_model(activation="tanh"):
    """Smooth, so that differences of second derivatives mean something."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, activation=activation, name="one"),
            layers.Conv2D(5, 3, activation=activation, name="two"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def scaled(model, variable, place, factor):
    """The value of a weight with a slice multiplied."""
    value = np.array(ops.convert_to_numpy(variable))
    value[place] *= factor
    variable.assign(value)


def test_snap_is_the_slope_of_the_loss_in_a_gate():
    """A gate behind unit u multiplies the weights that read it."""
    model = make_model()
    derivatives = WeightDerivatives(model)
    step = 1e-2
    for name, reader in (("one", 1), ("two", 3)):
        found = ka.criteria.snap(model, (X, Y))[name] / len(X)
        kernel = model.layers[reader].kernel
        for unit in range(len(found)):
            place = (..., unit, slice(None))
            losses = []
            for factor in (1 + step, 1 - step):
                before = np.array(ops.convert_to_numpy(kernel))
                scaled(model, kernel, place, factor)
                losses.append(derivatives.loss((X, Y)))
                kernel.assign(before)
            slope = (losses[0] - losses[1]) / (2 * step)
            assert found[unit] == pytest.approx(abs(slope), rel=0.03, abs=2e-4)


def test_cropit_is_half_the_slope_of_the_gradient_flow_in_a_gate():
    """‖g‖² by the weights w of a unit has the gradient 2 H g."""
    model = make_model()
    derivatives = WeightDerivatives(model)
    step = 1e-2

    def flow():
        gradients = derivatives.gradients((X, Y))
        return sum(
            float(np.square(g, dtype="float64").sum()) for g in gradients
        )

    for name in ("one", "two"):
        found = ka.criteria.cropit(model, (X, Y))[name]
        kernel = model.get_layer(name).kernel
        for unit in range(len(found)):
            flows = []
            for factor in (1 + step, 1 - step):
                before = np.array(ops.convert_to_numpy(kernel))
                scaled(model, kernel, (..., unit), factor)
                flows.append(flow())
                kernel.assign(before)
            slope = (flows[0] - flows[1]) / (2 * step)
            assert found[unit] == pytest.approx(
                abs(slope) / 2, rel=0.03, abs=2e-4
            )


def test_scales_add_up_over_what_a_stream_passes():
    inputs = keras.Input((4,))
    first, second = layers.BatchNormalization(), layers.BatchNormalization()
    x = first(layers.Dense(3, name="stream")(inputs))
    y = second(layers.Dense(3)(layers.ReLU()(x)))
    outputs = layers.Dense(2)(layers.ReLU()(layers.Add()([x, y])))
    model = keras.Model(inputs, outputs)
    first.gamma.assign([1.0, -2.0, 0.0])
    second.gamma.assign([0.5, 0.5, -3.0])
    found = ka.criteria.normalization_scale(model)
    assert {n: v.tolist() for n, v in found.items()} == {
        "stream": [1.5, 2.5, 3.0]
    }


@pytest.mark.parametrize("name", ["snap", "cropit"])
def test_the_callback_takes_them(name):
    model = make_model("relu")
    pruning = ka.callbacks.SaliencyPruning(
        name,
        schedule=ka.schedules.OneShot(0.34, at=0.5),
        data=(X, Y),
        scope="global",
        replacement="zero",
        verbose=False,
    )
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[pruning])
    assert model.layers[0].filters + model.layers[1].filters == 6

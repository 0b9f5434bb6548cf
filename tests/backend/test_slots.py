"""What optimizers remember of masked weights is cleared, and no more."""

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import keras_apoptosis as ka
from keras_apoptosis.backend import clear_slots
from tests.cases import RUN_EAGERLY

OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.1),
    "SGD, momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: optimizers.RMSprop(momentum=0.5, centered=True),
    "Adam": lambda: optimizers.Adam(amsgrad=True),
    "Adam, EMA": lambda: optimizers.Adam(use_ema=True),
    "Adam, accumulating": lambda: optimizers.Adam(
        gradient_accumulation_steps=2
    ),
    "Adam, scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam()),
    "AdamW": lambda: optimizers.AdamW(),
    "Adadelta": lambda: optimizers.Adadelta(),
    "Adafactor": lambda: optimizers.Adafactor(),
    "Adagrad": lambda: optimizers.Adagrad(),
    "Ftrl": lambda: optimizers.Ftrl(),
    "Lion": lambda: optimizers.Lion(),
    "Nadam": lambda: optimizers.Nadam(),
}


def values(variables):
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_of_masked_weights_start_anew(name):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 4)), rng.normal(size=(48, 2))
    layer = ka.layers.PrunableDense(5, activation="tanh")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    optimizer = OPTIMIZERS[name]()
    model.compile(optimizer, "mse", run_eagerly=RUN_EAGERLY)
    model.fit(x, y, batch_size=16, verbose=0)
    before = values(optimizer.variables)
    fresh = OPTIMIZERS[name]()
    fresh.build(model.trainable_variables)
    start = values(fresh.variables)

    mask = rng.integers(0, 2, (4, 5)).astype(bool)
    clear_slots(optimizer, {id(layer.trainable_variables[0]): mask})
    cleared = 0
    for slot, old, initial, new in zip(
        optimizer.variables, before, start, values(optimizer.variables),
        strict=True,
    ):  # fmt: skip
        if new.shape != (4, 5):  # Only the kernel's own slots have its axes.
            np.testing.assert_array_equal(new, old)
            continue
        if "average" in slot.name:
            initial = np.zeros_like(old)  # The average of masked weights.
        np.testing.assert_array_equal(new, np.where(mask, old, initial))
        cleared += 1
    assert cleared or name == "SGD"

    if "EMA" in name and keras.backend.backend() == "jax":
        return  # Keras itself cannot `fit` a second time then.
    # The training goes on, and nothing becomes NaN.
    layer.set_mask(mask)
    model.make_train_function(force=True)
    model.fit(x, y, batch_size=16, verbose=0)
    for value in values([*model.variables, *optimizer.variables]):
        assert np.isfinite(value).all()


def test_slots_of_a_square_weight_are_told_from_those_of_another():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, name="one"),
            keras.layers.Dense(3, name="two"),
        ]
    )
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.zeros((4, 3)), verbose=0)
    one, two = (model.get_layer(name).kernel for name in ("one", "two"))
    before = values(model.optimizer.variables)
    clear_slots(model.optimizer, {id(two): np.zeros((3, 3), bool)})
    for slot, old in zip(model.optimizer.variables, before, strict=True):
        new = ops.convert_to_numpy(slot.value)
        if two.path.replace("/", "_") in slot.path.replace("/", "_"):
            assert not new.any()
        else:
            np.testing.assert_array_equal(new, old)
    assert one is not two

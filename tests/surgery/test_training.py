"""Promises 3, 5, 6 and 8: what a removal does to a training."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from tests.architectures import CATALOGUE, randomize, sample
from tests.cases import RUN_EAGERLY
from tests.surgery.test_shrink import removal_of

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.001, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(0.1),
    "adam": lambda: keras.optimizers.Adam(0.001, amsgrad=True),
    "adamax": lambda: keras.optimizers.Adamax(0.001),
    "adamw": lambda: keras.optimizers.AdamW(0.001, clipnorm=1.0),
    "nadam": lambda: keras.optimizers.Nadam(0.001),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "lion": lambda: keras.optimizers.Lion(0.001),
    "lamb": lambda: keras.optimizers.Lamb(0.001),
    "muon": lambda: keras.optimizers.Muon(0.001),
    "adafactor": lambda: keras.optimizers.Adafactor(0.001),
    "schedule_free": lambda: keras.optimizers.ScheduleFreeAdamW(0.001),
    "ema": lambda: keras.optimizers.Adam(0.001, use_ema=True),
    "accumulation": lambda: keras.optimizers.SGD(
        0.01, gradient_accumulation_steps=3
    ),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.001), initial_scale=8.0
    ),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.ExponentialDecay(0.01, 5, 0.9)
    ),
}


def data_for(model, size=32, seed=0):
    rng = np.random.default_rng(seed)
    y = [
        rng.normal(size=(size, *each.shape[1:])).astype("float32")
        for each in model.outputs
    ]
    return sample(model, size, seed), y if len(y) > 1 else y[0]


def trained(name="cnn", optimizer="adam", epochs=1, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = randomize(CATALOGUE[name](), seed=1)
    model.compile(OPTIMIZERS[optimizer](), "mse", **compile_arguments)
    x, y = data_for(model)
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model, x, y


def state_of(model):
    return [
        ops.convert_to_numpy(v)
        for v in (*model.variables, *model.optimizer.variables)
    ]


class At(keras.callbacks.Callback):
    """Calls a function once, after a batch or an epoch."""

    def __init__(self, function, epoch=0, batch=None):
        super().__init__()
        self.function, self.when = function, (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.when == (self.epoch, batch):
            self.function(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if self.when == (epoch, None):
            self.function(self.model)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_slots_are_cut_alike(optimizer):
    """Every variable of an optimizer, cut by hand, for any optimizer."""
    model, x, y = trained("mlp", optimizer, run_eagerly=RUN_EAGERLY)
    removal = removal_of(model, seed=2)
    before = {
        id(slot): ops.convert_to_numpy(slot)
        for slot in model.optimizer.variables
    }
    iterations = int(model.optimizer.iterations)
    rate = float(model.optimizer.learning_rate)
    slots = backend.slots_of(
        model.optimizer,
        model.optimizer._trainable_variables
        if optimizer != "loss_scale"
        else model.trainable_variables,
    )
    copies = {
        id(copy)
        for each in backend.weight_copies(model.optimizer)
        for copy in each.values()
    }
    copies |= {id(s) for _, s, _ in backend.implied_slots(model.optimizer)}
    weights = {id(v): i for i, v in enumerate(model.trainable_variables)}
    kept = _kept_by_hand(model, removal)
    ka.shrink(model, removal)
    assert int(model.optimizer.iterations) == iterations
    assert float(model.optimizer.learning_rate) == rate
    assert slots, "every optimizer here keeps something for each weight"
    for slot, axes in slots:
        expected = before[id(slot)]
        for axis, origin in enumerate(axes):
            if origin is not None:
                index, of = origin
                expected = np.take(expected, kept[index][of], axis)
        if id(slot) in copies:  # See `test_followers.py`.
            assert tuple(slot.shape) == expected.shape
            continue
        np.testing.assert_array_equal(ops.convert_to_numpy(slot), expected)
    others = {id(slot) for slot, _ in slots}
    for slot in model.optimizer.variables:
        if id(slot) not in others:
            np.testing.assert_array_equal(
                ops.convert_to_numpy(slot), before[id(slot)]
            )
    assert len(weights) == len(model.trainable_variables)
    if optimizer == "ema" and keras.backend.backend() == "jax":
        return  # Keras 3.15 cannot fit twice with it there, shrunk or not.
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert all(np.isfinite(value).all() for value in state_of(model))


def _kept_by_hand(model, removal):
    """For the weights of `mlp`: what stays along each axis."""
    one = np.setdiff1d(np.arange(8), removal["one"])
    two = np.setdiff1d(np.arange(7), removal["two"])
    six, three = np.arange(6), np.arange(3)
    return [[six, one], [one], [one, two], [two], [two, three], [three]]


@pytest.mark.parametrize(
    ("optimizer", "batch"),
    [("sgd", 1), ("adam", None), ("adam", 1), ("accumulation", 1)],
)
def test_useless_units_leave_without_a_trace(optimizer, batch):
    """Fit with and without units that nobody reads: the same weights.

    Their reader is frozen and has zeros for them, so that they never matter:
    everything else must train identically.
    """

    def build():
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, activation="relu", name="one"),
                keras.layers.Dense(7, activation="relu", name="two"),
                keras.layers.Dense(3, name="logits"),
            ]
        )
        randomize(model, seed=1)
        kernel = ops.convert_to_numpy(model.get_layer("two").kernel)
        kernel = np.array(kernel)
        kernel[[1, 4, 5]] = 0
        model.get_layer("two").kernel.assign(kernel)
        model.get_layer("two").trainable = False
        model.compile(OPTIMIZERS[optimizer](), "mse")
        return model

    found = []
    removal = ka.Removal({"one": [1, 4, 5]})

    def shrink(model):
        ka.shrink(model, removal, prune_non_trainable=True)

    for callbacks in (
        [],
        [At(shrink, 0, batch)],
    ):
        model = build()
        x, y = data_for(model)
        model.fit(
            x,
            y,
            batch_size=8,
            epochs=3,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        found.append(
            [
                ops.convert_to_numpy(model.get_layer("one").kernel),
                ops.convert_to_numpy(model.get_layer("logits").kernel),
            ]
        )
    stays = np.setdiff1d(np.arange(8), [1, 4, 5])
    np.testing.assert_allclose(found[1][0], found[0][0][:, stays], atol=1e-5)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("mlp", None),
        ("cnn_normalized", 1),
        ("residual", 1),
        ("nested", None),
        ("shared", 1),
        ("two_outputs", 1),
    ],
)
def test_models_go_on_in_fit(name, batch, tmp_path):
    """After a removal in `fit`: loss, evaluation, saving, more training."""
    model = randomize(CATALOGUE[name](), seed=1)
    model.compile("adam", "mse", metrics=["mae"] if name == "mlp" else None)
    x, y = data_for(model)
    if name == "two_outputs":
        y = dict(zip(("a", "b"), y, strict=True))
    sizes = {}
    history = model.fit(
        x,
        y,
        validation_data=(x, y),
        batch_size=8,
        epochs=3,
        verbose=0,
        callbacks=[
            At(
                lambda model: sizes.update(
                    done=ka.shrink(model, removal_of(model, seed=5))
                ),
                epoch=1,
                batch=batch,
            )
        ],
    )
    assert len(history.history["val_loss"]) == 3
    assert sizes["done"].parameters_after == model.count_params()
    model.evaluate(x, y, verbose=0)
    expected = keras.tree.flatten(model.predict(x, verbose=0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(
        keras.tree.flatten(loaded.predict(x, verbose=0)), expected, strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
    for each in (model, loaded):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    if name not in ("mlp", "cnn_normalized"):  # Those have dropout.
        for one, other in zip(model.weights, loaded.weights, strict=True):
            np.testing.assert_allclose(
                ops.convert_to_numpy(one),
                ops.convert_to_numpy(other),
                rtol=1e-4,
                atol=1e-5,
            )


def test_gradients_reach_the_new_parameters():
    """A stale record of parameters lets gradients pile up on PyTorch."""
    model, x, y = trained("mlp_normalized")
    ka.shrink(model, removal_of(model, seed=2))
    before = model.evaluate(x, y, verbose=0)
    model.optimizer.learning_rate = 0.01
    model.fit(x, y, batch_size=8, epochs=60, verbose=0)
    assert model.evaluate(x, y, verbose=0) < 0.8 * before
    if keras.backend.backend() == "torch":
        parameters = {id(p) for p in model.parameters()}
        for variable in model.trainable_variables:
            assert id(variable.value) in parameters


@pytest.mark.parametrize(
    "fails",
    [
        "resize_variable",
        "set_attributes",
        "set_shape",
        "cut_variable",
        "forget_compiled",
    ],
)
def test_all_or_nothing(fails, monkeypatch):
    eagerly = RUN_EAGERLY and fails != "forget_compiled"
    model, x, y = trained("residual", run_eagerly=eagerly)
    inputs_of = model.predict(x, verbose=0)
    before, config = state_of(model), model.get_config()
    shapes = [tuple(step.shape) for step in model.outputs]
    original = getattr(backend, fails)
    calls = []

    def breaks(*args):
        calls.append(args)
        if len(calls) == 3 or (fails == "forget_compiled" and len(calls) == 1):
            raise RuntimeError("planted")
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(backend, fails, breaks)
        with pytest.raises(RuntimeError, match="planted"):
            ka.shrink(model, removal_of(model, seed=2))
    assert model.get_config() == config
    assert [tuple(step.shape) for step in model.outputs] == shapes
    for one, other in zip(state_of(model), before, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(
        model.predict(x, verbose=0), inputs_of, rtol=1e-5, atol=1e-5
    )
    ka.shrink(model, removal_of(model, seed=2))
    model.fit(x, y, batch_size=8, verbose=0)


def test_one_removal_costs_one_trace():
    """A step function is traced anew once, and then never again."""
    traces = []

    @keras.saving.register_keras_serializable()
    class Counting(keras.layers.Dense):
        def call(self, inputs, training=None):
            if training:
                traces.append(tuple(self.kernel.shape))
            return super().call(inputs)

    ka.register_rule(Counting, ka.rules.RULES[keras.layers.Dense])
    model = keras.Sequential(
        [
            keras.Input((6,)),
            Counting(8, activation="relu", name="one"),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", "mse")
    x, y = data_for(model)
    counts = []
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=4,
        verbose=0,
        callbacks=[
            At(lambda m: ka.shrink(m, ka.Removal({"one": [1, 2]})), 1),
            *(At(lambda m: counts.append(len(traces)), e) for e in range(4)),
        ],
    )
    del ka.rules.RULES[Counting]
    if keras.backend.backend() == "torch":
        assert len(traces) >= 16  # Every step runs as it is written.
        assert set(traces[8:]) == {(6, 6)}
    else:
        assert traces[-1] == (6, 6)
        once = counts[0]
        assert counts == [once, once, counts[2], counts[2]]
        assert counts[2] - once <= once


def test_same_seed_same_result():
    found = []
    for _ in range(2):
        model, x, y = trained("cnn")
        ka.shrink(model, removal_of(model, seed=2))
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        found.append(state_of(model))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, x, y = trained("mlp_normalized")
        ka.shrink(model, removal_of(model, seed=2))
        model.fit(x, y, batch_size=8, verbose=0)
        assert model.layers[0].compute_dtype == "bfloat16"
        assert all(v.dtype == "float32" for v in model.trainable_variables)
    finally:
        keras.config.set_dtype_policy("float32")


def test_spectral_normalization_goes_on_in_fit():
    """It keeps the shape of its kernel, of a type of TensorFlow's there."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.SpectralNormalization(keras.layers.Dense(8)),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", "mse")
    x, y = data_for(model)
    model.fit(x, y, batch_size=16, verbose=0)
    group = ka.unit_groups(model)[0].name
    ka.shrink(model, ka.Removal({group: [0, 1, 2]}))
    assert tuple(model.layers[0].kernel_shape) == (6, 5)
    model.fit(x, y, batch_size=16, verbose=0)

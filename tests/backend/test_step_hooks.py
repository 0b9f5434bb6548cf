"""Hooks run inside the compiled step, and leave no trace behind."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from keras_apoptosis.backend import step_hooks

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = X[:, :1]

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1)
    ),
}


class Scaling(step_hooks.StepHook):
    """Multiplies gradients before, and adds to every weight after."""

    def __init__(self, factor=1.0, added=0.0):
        self.values = (factor, added)
        self.built_with = []

    def build(self, weights):
        self.built_with.append([tuple(each.shape) for each in weights])
        self.factor = self.add_variable(self.values[0])
        self.added = self.add_variable(self.values[1])

    def before(self, gradients, weights):
        return [self.factor * each for each in gradients]

    def after(self, weights):
        for each in weights:
            each.assign(each + self.added)


def make_model(optimizer="sgd"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "mse")
    return model


def fit(model, epochs=1, **kwargs):
    model.fit(
        X, Y, epochs=epochs, batch_size=16, shuffle=False, verbose=0, **kwargs
    )


def weights(model):
    return [ops.convert_to_numpy(each) for each in model.weights]


def optimizer_values(model):
    return list(map(ops.convert_to_numpy, model.optimizer.variables))


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_hook_changes_the_update(optimizer):
    model = make_model(optimizer)
    start = weights(model)
    step_hooks.attach(model, Scaling(factor=0.0, added=0.5))
    fit(model)  # Four steps: nothing but what is added.
    assert_equal(weights(model), [each + 2.0 for each in start])


def test_before_scales_what_sgd_does():
    doubled, plain = make_model(), make_model()
    plain.optimizer.learning_rate = 0.2
    step_hooks.attach(doubled, Scaling(factor=2.0))
    fit(doubled)
    fit(plain)
    for a, b in zip(weights(doubled), weights(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def make_trained(optimizer):
    model = make_model(optimizer)
    fit(model)
    return model


class Assigning(keras.callbacks.Callback):
    def __init__(self, hook, step, value):
        super().__init__()
        self.hook, self.step, self.value = hook, step, value

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.step:
            backend.sync_from_jax(self.model)
            self.hook.added.assign(self.value)
            backend.sync_to_jax(self.model)


def test_a_variable_that_is_assigned_between_steps_is_seen():
    model = make_model()
    start = weights(model)
    hook = Scaling(factor=0.0, added=0.5)
    step_hooks.attach(model, hook)
    fit(model, callbacks=[Assigning(hook, 1, 0.25)])
    assert_equal(weights(model), [each + 1.5 for each in start])


class Attaching(keras.callbacks.Callback):
    def __init__(self, hook, first, last):
        super().__init__()
        self.hook, self.first, self.last = hook, first, last

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.first:
            self.detach = step_hooks.attach(self.model, self.hook)
        if batch == self.last:
            self.detach()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_attached_and_detached_in_the_middle_of_an_epoch(optimizer):
    model, plain = make_model(optimizer), make_model(optimizer)
    # Neither factor nor sum changes anything: the training must not notice.
    fit(model, 2, callbacks=[Attaching(Scaling(), 0, 2)])
    fit(plain, 2)
    assert_equal(weights(model), weights(plain))
    assert len(model.optimizer.variables) == len(plain.optimizer.variables)
    assert "apply" not in backend.innermost(model.optimizer).__dict__


class Shrinking(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            ka.shrink(self.model, ka.Removal({"hidden": [1, 4]}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_units_leave_under_a_hook(optimizer):
    model, plain = make_model(optimizer), make_model(optimizer)
    hook = Scaling()
    detach = step_hooks.attach(model, hook)
    fit(model, callbacks=[Shrinking()])
    fit(plain, callbacks=[Shrinking()])
    assert [shapes[0] for shapes in hook.built_with] == [(4, 6), (4, 4)]
    assert_equal(weights(model), weights(plain))
    detach()
    assert_equal(optimizer_values(model), optimizer_values(plain))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_files_know_nothing_of_hooks(optimizer, tmp_path):
    model = make_model(optimizer)
    hook = Scaling(factor=2.0)
    step_hooks.attach(model, hook)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer.variables) == len(
        make_trained(optimizer).optimizer.variables
    )
    assert_equal(weights(loaded), weights(model))
    # A model with a hook takes the file as well, and keeps its hook.
    other = make_model(optimizer)
    step_hooks.attach(other, Scaling(factor=2.0))
    other.load_weights(tmp_path / "model.keras")
    assert_equal(optimizer_values(other)[:1], optimizer_values(model)[:1])
    fit(other)
    fit(model)
    assert_equal(weights(other), weights(model))


def test_the_last_hook_is_nearest_to_the_gradients():
    calls = []

    class Named(step_hooks.StepHook):
        def __init__(self, name):
            self.name = name

        def before(self, gradients, weights):
            calls.append(f"before {self.name}")
            return gradients

        def after(self, weights):
            calls.append(f"after {self.name}")

    model = make_model()
    for name in "ab":
        step_hooks.attach(model, Named(name))
    model.optimizer.apply([ops.zeros(w.shape) for w in model.weights])
    assert calls == ["before b", "before a", "after a", "after b"]


def test_a_model_without_an_optimizer_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="compiled with an optimizer"):
        step_hooks.attach(model, Scaling())

"""Whatever holds weights or layers of a model follows when it shrinks."""

import gc

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from tests.surgery.test_training import At

BACKEND = keras.backend.backend()
rng = np.random.default_rng(0)
X = rng.normal(size=(64, 6)).astype("float32")
Y = rng.normal(size=(64, 3)).astype("float32")
REMOVAL = ka.Removal(
    {"one": [1, 4]},
    {
        "one": ka.Replacement(
            constant=[0.5, -1.0], mixing=rng.normal(size=(2, 6))
        )
    },
)
SMALLER = ka.Removal({"one": [0, 3]})


def mlp(norm=False, **arguments):
    middle = [layers.BatchNormalization()] if norm else []
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="one"),
            layers.Dense(7, use_bias=not norm, name="two"),
            *middle,
            layers.Activation("tanh"),
            layers.Dense(3, name="out", **arguments),
        ]
    )


def fit(model, **arguments):
    arguments = {"epochs": 1, "batch_size": 16, "verbose": 0, **arguments}
    return model.fit(X, Y, shuffle=False, **arguments).history


def numpy(values):
    return [ops.convert_to_numpy(each) for each in values]


def same(found, expected, atol=1e-5):
    for one, other in zip(numpy(found), numpy(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=atol)


def sgd_ema():
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7)


def multi():
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            sgd_ema(), {".*two/.*": keras.optimizers.Adam(0.01, use_ema=True)}
        )
    )


AVERAGING = {
    "ema": sgd_ema,
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        sgd_ema(), initial_scale=4.0
    ),
    "multi": multi,
    "muon": lambda: keras.optimizers.Muon(0.01, use_ema=True),
    "schedule_free": lambda: keras.optimizers.ScheduleFreeAdamW(0.1),
}


def trained(optimizer, epochs=2, **arguments):
    """A model whose weights and averages differ, without the end of `fit`."""
    model = mlp(**arguments)
    model.compile(optimizer, "mse")
    if BACKEND == "jax":
        optimizer.build(model.trainable_variables)
    for step in range(4 * epochs):
        if BACKEND == "jax":  # Keras' `fit` would write the averages back.
            variables = [v.value for v in model.trainable_variables]
            slots = [v.value for v in optimizer.variables]
            grads = [ops.full(v.shape, 0.1 * (step + 1)) for v in variables]
            variables, slots = optimizer.stateless_apply(
                slots, grads, variables
            )
            every = [*model.trainable_variables, *optimizer.variables]
            for v, new in zip(every, [*variables, *slots], strict=True):
                v.assign(new)
        else:
            model.train_on_batch(X[:16], Y[:16])
    return model


@pytest.mark.parametrize("name", AVERAGING)
def test_averages_absorb_the_replacement_as_weights_do(name):
    """The averages are weights of a model that shrinks by the same removal."""
    model = trained(AVERAGING[name]())
    (copies,) = backend.weight_copies(model.optimizer)
    weights = model.trainable_variables
    assert set(copies) == {id(weight) for weight in weights}
    averaged = mlp()
    averaged.set_weights(numpy(copies[id(weight)] for weight in weights))
    one, other = numpy([averaged(X), model(X)])
    assert np.abs(one - other).max() > 1e-2
    ka.shrink(averaged, REMOVAL)
    ka.shrink(model, REMOVAL)
    same([copies[id(weight)] for weight in weights], averaged.weights)


# Those that move each number of a weight by slots of this number alone; the
# others move it by all of the weight, which is another one without units.
ELEMENTWISE = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9},
    "Adam": {},
    "AdamW": {"weight_decay": 0.0},
    "Nadam": {},
    "Adamax": {},
    "Adagrad": {},
    "Adadelta": {},
    "Lion": {},
    "Ftrl": {
        "beta": 0.1,
        "l1_regularization_strength": 0.01,
        "l2_regularization_strength": 0.02,
    },
}
BY_THE_WHOLE_WEIGHT = {"Adafactor", "Lamb", "Muon"}
WRAPPERS = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
AVERAGES = {"ScheduleFreeAdamW"}  # See above.


def test_all_optimizers_are_looked_at():
    every = {
        name
        for name, each in vars(keras.optimizers).items()
        if isinstance(each, type) and issubclass(each, keras.Optimizer)
    }
    expected = {*ELEMENTWISE, *BY_THE_WHOLE_WEIGHT, *WRAPPERS, *AVERAGES}
    assert every == expected


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_no_optimizer_forgets_what_was_absorbed(name):
    """A step without gradients moves what is left as it moves the whole."""
    model = mlp()
    optimizer = getattr(keras.optimizers, name)(0.1, **ELEMENTWISE[name])
    model.compile(optimizer, "mse")
    draw = np.random.default_rng(1)
    weights = model.trainable_variables

    def step(scale):
        optimizer.apply(
            [
                ops.convert_to_tensor(
                    scale * draw.normal(size=each.shape), "float32"
                )
                for each in weights
            ],
            weights,
        )

    for _ in range(3):
        step(1.0)
    state = ka.snapshot(model)
    before = numpy(weights)
    step(0.0)
    moved = [b - a for a, b in zip(before, numpy(weights), strict=True)]
    if name == "Ftrl":  # It computes the same weights from the same slots.
        assert max(np.abs(each).max() for each in moved) < 1e-6
    state.restore()
    ka.shrink(model, REMOVAL)
    absorbed = numpy(weights)
    step(0.0)
    stay = np.delete(np.arange(8), [1, 4])
    expected = [moved[0][:, stay], moved[1][stay], moved[2][stay], *moved[3:]]
    for start, move, found in zip(
        absorbed, expected, numpy(weights), strict=True
    ):
        np.testing.assert_allclose(found - start, move, atol=2e-6)


def test_fit_ends_with_averages_that_absorbed_the_replacement():
    """`fit` writes the averages into the weights at its end."""
    if BACKEND == "jax":
        pytest.skip("Keras 3.15 cannot fit twice with averages on JAX")
    model = mlp()
    model.compile(keras.optimizers.SGD(0.0, use_ema=True), "mse")
    fit(model)
    means = ops.convert_to_numpy(model.layers[0](X)).mean(0)
    replaced = ka.Replacement(constant=means[:3])
    ka.shrink(model, ka.Removal({"one": [0, 1, 2]}, {"one": replaced}))
    before = model.predict(X, verbose=0)
    fit(model)
    same([model.predict(X, verbose=0)], [before])


def test_swapped_averages_absorb_it_too():
    """`SwapEMAWeights` swaps weights with averages, within validation."""
    model = trained(sgd_ema())
    (copies,) = backend.weight_copies(model.optimizer)
    weights = model.trainable_variables

    def swap():
        for weight in weights:
            one, other = numpy([weight, copies[id(weight)]])
            weight.assign(other)
            copies[id(weight)].assign(one)

    twin = trained(sgd_ema())
    twin.set_weights(model.get_weights())
    for weight, other in zip(weights, twin.trainable_variables, strict=True):
        (twins,) = backend.weight_copies(twin.optimizer)
        twins[id(other)].assign(copies[id(weight)].value)
    swap()
    ka.shrink(model, REMOVAL)
    swap()
    ka.shrink(twin, REMOVAL)
    same(weights, twin.trainable_variables)
    same([copies[id(w)] for w in weights], [twins[id(w)] for w in twin.weights])


def test_averages_that_share_a_moving_mean_are_said():
    """A moving mean has no average: it can follow the weights only."""
    model = trained(sgd_ema(), norm=True)
    (copies,) = backend.weight_copies(model.optimizer)
    kernel = model.get_layer("two").kernel
    constant = np.array([0.5, -1.0])
    shifts = [
        constant @ ops.convert_to_numpy(each)[[1, 4]]
        for each in (kernel, copies[id(kernel)])
    ]
    error = np.sqrt(np.mean((shifts[0] - shifts[1]) ** 2))
    replacement = ka.Replacement(constant=constant)
    report = ka.shrink(model, ka.Removal({"one": [1, 4]}, {"one": replacement}))
    (note,) = report.notes
    assert f"off by {error:.3g} RMS for the average" in note


def test_a_feature_extractor_follows():
    model = mlp()
    model.compile("adam", "mse")
    extractor = keras.Model(model.inputs, model.get_layer("two").output)
    encoder = keras.Sequential([keras.Input((6,)), *model.layers[:2]])
    for each in (extractor, encoder):
        each.predict(X, verbose=0)
    fit(model)
    ka.shrink(model, ka.Removal({"one": [0, 3], "two": [1, 2]}))
    fit(model, epochs=2)
    for each in (extractor, encoder):
        assert each.output_shape == (None, 5)
        found = each.predict(X, verbose=0)
        same([found], [each(X)])
        expected = X
        for layer in model.layers[:2]:
            expected = layer(expected)
        same([found], [expected])


def test_an_extractor_in_fit_follows():
    """Its own optimizer trains the layers that another model removes from."""
    model = mlp()
    other = keras.Model(model.inputs, model.get_layer("two").output)
    other.compile(keras.optimizers.Adam(0.01), "mse")
    y = rng.normal(size=(64, 7)).astype("float32")
    seen = {}

    def shrink(_):
        ka.shrink(model, SMALLER)
        seen["before"] = numpy(other.weights)

    losses = other.fit(
        X, y, epochs=8, verbose=0, callbacks=[At(shrink, 1, 0)]
    ).history["loss"]
    assert [tuple(v.shape) for v in other.weights[:2]] == [(6, 6), (6,)]
    for one, before in zip(numpy(other.weights), seen["before"], strict=True):
        assert np.abs(one - before).max() > 1e-3
    assert losses[-1] < losses[2]
    np.testing.assert_allclose(
        other.evaluate(X, y, verbose=0), losses[-1], rtol=0.1
    )


@pytest.mark.parametrize("batch", [None, 1])
def test_a_backbone_shrinks_while_the_model_around_it_trains(batch):
    backbone = mlp()
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(backbone(inputs)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    seen = {}

    def shrink(_):
        backend.sync_from_jax(model)
        expected = numpy(backbone.weights)
        ka.shrink(backbone, SMALLER)
        kept = [1, 2, 4, 5, 6, 7]
        same(
            backbone.weights[:3],
            [expected[0][:, kept], expected[1][kept], expected[2][kept]],
        )
        seen["before"] = numpy(backbone.weights)

    losses = fit(model, epochs=6, callbacks=[At(shrink, 1, batch)])["loss"]
    for one, before in zip(
        numpy(backbone.weights), seen["before"], strict=True
    ):
        assert np.abs(one - before).max() > 1e-3
    assert losses[-1] < losses[2]
    np.testing.assert_allclose(
        model.evaluate(X, Y, verbose=0), losses[-1], rtol=0.1
    )
    model.compile("adam", "mse")
    fit(model)


class Two(keras.Model):
    """Trains two parts, each with an optimizer of its own, in any backend."""

    def __init__(self):
        super().__init__()
        self.left, self.right = mlp(), mlp()

    def call(self, inputs):
        return self.left(inputs) + self.right(inputs)


def test_all_optimizers_of_a_model_follow_though_it_is_not_built():
    """As those of a GAN: attributes of a model that is never called."""
    model = Two()
    optimizers = [keras.optimizers.Adam(0.1) for _ in range(2)]
    model.optimizers = optimizers
    for optimizer, part in zip(
        optimizers, (model.left, model.right), strict=True
    ):
        optimizer.build(part.trainable_variables)
        for number, slot in enumerate(optimizer.variables[2:]):
            slot.assign(rng.normal(size=slot.shape) + number)
    names = [g.name for g in ka.unit_groups(model) if g.removable]
    one, other = (n for n in names if n.endswith("one"))
    assert not model.built
    before = [numpy(each.variables) for each in optimizers]
    report = ka.shrink(model, ka.Removal({one: [0], other: [1, 2]}))
    assert report.parameters_before == 2 * (6 * 8 + 8 + 8 * 7 + 7 + 24)
    assert report.parameters_after == report.parameters_before - 3 * 14
    for optimizer, old, kept in zip(
        optimizers, before, (range(1, 8), [0, 3, 4, 5, 6, 7]), strict=True
    ):
        # Adam: iteration and rate, then momentum and velocity a weight.
        found = numpy(optimizer.variables)
        for place, axis in ((2, 1), (3, 1), (4, 0), (5, 0), (6, 0), (7, 0)):
            expected = np.take(old[place], list(kept), axis)
            np.testing.assert_array_equal(found[place], expected)
    same([model(X)], [model.left(X) + model.right(X)])


def test_an_optimizer_that_no_model_knows_follows():
    model = mlp()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    ka.shrink(model, SMALLER)
    shapes = [tuple(v.shape) for v in optimizer.variables[2:]]
    assert shapes == [tuple(v.shape) for v in model.trainable_variables]
    if BACKEND != "jax":
        grads = [ops.ones(v.shape) for v in model.trainable_variables]
        before = numpy(model.trainable_variables)
        optimizer.apply(grads, model.trainable_variables)
        for one, old in zip(
            numpy(model.trainable_variables), before, strict=True
        ):
            np.testing.assert_allclose(one, old - 0.1, atol=1e-6)


def test_an_own_tf_function_fails_at_its_next_use():
    if BACKEND != "tensorflow":
        pytest.skip("only TensorFlow compiles functions around variables")
    import tensorflow as tf

    for compiled in (False, True):
        model, optimizer = mlp(), keras.optimizers.Adam(0.1)

        @tf.function(jit_compile=compiled)
        def step(model=model, optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        step()
        ka.shrink(model, SMALLER)
        before = numpy(model.weights)
        with pytest.raises(tf.errors.OpError):
            step()
        same(model.weights, before)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adafactor"])
def test_an_own_torch_loop_goes_on(kind):
    """Just as after the same removal without an optimizer's memory."""
    if BACKEND != "torch":
        pytest.skip("a loop of PyTorch")
    import torch

    model = mlp()
    arguments = {"momentum": 0.9} if kind == "SGD" else {}
    parameters = list(model.parameters())
    optimizer = getattr(torch.optim, kind)(parameters, lr=0.01, **arguments)

    def step():
        optimizer.zero_grad()
        loss = ((model(X) - torch.as_tensor(Y)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    losses = [step() for _ in range(3)]  # Kept, with their graphs.
    kernel = model.get_layer("one").kernel.value
    before = {
        key: value.clone()
        for key, value in optimizer.state[kernel].items()
        if value.ndim == 2
    }
    ka.shrink(model, SMALLER)
    kept = [1, 2, 4, 5, 6, 7]
    for key, value in before.items():
        wide = value.shape[1] > 1
        expected = value[:, kept] if wide else value
        assert torch.equal(optimizer.state[kernel][key], expected)
    assert kernel.grad.shape == (6, 6)
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    weights = numpy(model.weights)
    losses += [step() for _ in range(5)]
    for one, old in zip(numpy(model.weights), weights, strict=True):
        assert np.abs(one - old).max() > 1e-5
    assert losses[-1] < losses[3]


def test_own_state_on_jax_does_not_fit_the_smaller_model():
    if BACKEND != "jax":
        pytest.skip("state outside of the model is JAX's")
    import jax

    model = mlp()
    state = [v.value for v in model.trainable_variables]
    step = jax.jit(lambda state, x: model.stateless_call(state, [], x)[0])
    step(state, X[:32])
    ka.shrink(model, SMALLER)
    with pytest.raises(ValueError, match="shape"):
        step(state, X)  # Traced anew, with the old state.
    state = [v.value for v in model.trainable_variables]
    same([step(state, X)], [model(X)])


def readers():
    """Models that use units of `mlp` in ways of their own."""
    yield "layer", lambda features: layers.Dense(2)(features)
    yield "combined", lambda features: ops.mean(features, axis=-1)
    yield "reshaped", lambda features: layers.Reshape((4, 2))(features)


@pytest.mark.parametrize("reader", dict(readers()))
def test_units_that_another_model_uses_stay(reader):
    model = mlp()
    model.compile("adam", "mse")
    fit(model)
    features = model.get_layer("one").output
    other = keras.Model(model.inputs, dict(readers())[reader](features))
    expected = [model.predict(X, verbose=0), other.predict(X, verbose=0)]
    state = numpy([*model.variables, *model.optimizer.variables])
    with pytest.raises(ValueError, match=f"Another model, '{other.name}'"):
        ka.shrink(model, SMALLER)
    same([*model.variables, *model.optimizer.variables], state)
    assert model.get_layer("one").units == 8
    same([m.predict(X, verbose=0) for m in (model, other)], expected)
    ka.shrink(model, ka.Removal({"two": [0]}))
    del other, features
    ka.shrink(model, SMALLER)  # It is gone, though not collected.
    fit(model)


def test_features_leave_another_model_that_shares_the_layer():
    """What is built by `add` is one: Keras keeps what it was before each."""
    model = keras.Sequential([keras.Input((8,))])
    model.add(ka.layers.FeatureSelection(name="features"))
    model.add(layers.Dense(4, name="one"))
    model.add(layers.Dense(2))
    inputs = keras.Input((8,))
    features = model.layers[0](inputs)
    other = keras.Model(inputs, model.layers[1](features))
    snapshot = ka.snapshot(model)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    whole = [model(x), other(x)]
    ka.shrink(model, ka.Removal({"features": [1, 5]}))
    assert features.shape == (None, 6)
    x[:, [1, 5]] = 0
    masked = [model(x), other(x)]
    snapshot.restore()
    assert features.shape == (None, 8)
    same([model(x), other(x)], masked)
    assert np.abs(numpy(whole)[0] - numpy(masked)[0]).max() > 1e-3


def test_nothing_is_kept_alive():
    model = mlp()
    holders = backend.holders_of(model)
    assert holders.models[0] is model
    extractor = keras.Model(model.inputs, model.get_layer("one").output)
    assert extractor in backend.holders_of(model).models
    assert mlp() not in backend.holders_of(model).models
    name = extractor.name
    del extractor, holders
    gc.collect()
    assert name not in [m.name for m in backend.holders_of(model).models]


class Subclass(keras.Model):
    pass


@pytest.mark.parametrize(
    "kind",
    [
        type(keras.Model(i := keras.Input((1,)), i + 1)),
        Subclass,
        keras.Sequential,
        keras.optimizers.Adam,
        keras.optimizers.LossScaleOptimizer,
    ],
)
def test_what_was_not_made_to_its_end_holds_nothing(kind):
    """A wrong argument leaves it so; a traceback may keep it alive."""
    half = object.__new__(kind)
    model = mlp()
    ka.shrink(model, SMALLER)
    assert model.get_layer("one").units == 6
    del half

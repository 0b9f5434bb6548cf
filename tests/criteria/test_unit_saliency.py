"""What replacing units by their means costs, worked out by other routes."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy.stats import spearmanr

import keras_apoptosis as ka
from keras_apoptosis.criteria import unit_saliency
from keras_apoptosis.graph import analyse
from keras_apoptosis.statistics.replaced_units import ReplacedUnits
from tests.masking import masked_outputs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype("float32")
Y = RNG.normal(size=(30, 2)).astype("float32")
IMAGES = RNG.uniform(size=(12, 8, 8, 2)).astype("float32")


def dense(activation="tanh"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation=activation, name="one"),
            layers.Dense(3, activation=activation, name="two"),
            layers.Dense(2, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    return model


def residual():
    """A stream that two layers write, and two read."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = layers.BatchNormalization()(x)
    y = layers.ReLU()(x)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(y)
    x = layers.Add()([x, y])
    x = layers.Activation("tanh")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(1, name="out")(x))
    model.compile("sgd", "mse")
    return model


def lower_median(values):
    return np.sort(values)[(len(values) - 1) // 2]


def forward(model, x, change=None):
    """The dense network in NumPy, with pre-activations changed."""
    values = x.astype("float64")
    found = {}
    for layer in model.layers:
        kernel, bias = (w.astype("float64") for w in layer.get_weights())
        values = values @ kernel + bias
        found[layer.name, "pre"] = values
        if change and (layer.name, "pre") in change:
            values = change[layer.name, "pre"](values)
        if layer.name != "out":
            values = np.tanh(values)
        found[layer.name, "post"] = values
        if change and (layer.name, "post") in change:
            values = change[layer.name, "post"](values)
    return values, found


@pytest.mark.parametrize(
    ("at", "replacement"),
    [("pre", "mean"), ("post", "mean"), ("pre", "median")],
)
def test_penalty_and_saliency_of_a_dense_network_by_hand(at, replacement):
    model = dense()
    constant = {"mean": np.mean, "median": lower_median}[replacement]
    _, found = forward(model, X)

    def losses(change=None):
        return ((forward(model, X, change)[0] - Y) ** 2).mean(1)

    how = {"at": at, "replacement": replacement}
    penalty = ka.criteria.mean_replacement_penalty(model, (X, Y), **how)
    saliency = ka.criteria.mean_replacement_saliency(model, (X, Y), **how)
    for group in ("one", "two"):
        values = found[group, at]
        for unit in range(values.shape[1]):
            away = np.zeros_like(values)
            away[:, unit] = constant(values[:, unit]) - values[:, unit]

            def moved(part, away=away, group=group):
                return losses({(group, at): lambda v: v + part * away})

            expected = abs(moved(1) - losses()).sum()
            assert penalty[group][unit] == pytest.approx(expected, rel=1e-3)
            slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
            assert saliency[group][unit] == pytest.approx(
                abs(slope).sum(), rel=1e-3
            )


@pytest.mark.parametrize("make", [residual])
def test_a_penalty_is_what_a_removal_by_means_does(make):
    """Surgery with bias propagation is the other route."""
    model = make()
    labels = RNG.normal(size=(len(IMAGES), 1)).astype("float32")
    found = ka.criteria.mean_replacement_penalty(model, (IMAGES, labels))
    before = (model.predict(IMAGES, verbose=0) - labels) ** 2
    assert set(found) == {g.name for g in ka.unit_groups(model) if g.removable}
    for group, scores in found.items():
        for unit in (0, 2):
            gone = {group: np.array([unit])}
            replaced = ka.selection.mean_replacements(model, IMAGES, gone)
            removal = ka.Removal(gone, replaced)
            outputs = masked_outputs(model, removal, IMAGES)
            after = (ops.convert_to_numpy(outputs) - labels) ** 2
            assert scores[unit] == pytest.approx(
                abs(after - before).sum(), rel=1e-3
            )


def test_saliency_ranks_as_the_penalty_does():
    """A trained network of 3 groups; the thesis' figures 3.3 to 3.5."""
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(400, 10)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((10,)),
            *(
                layers.Dense(24, activation="relu", name=f"hidden_{i}")
                for i in range(3)
            ),
            layers.Dense(2),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, epochs=3, batch_size=32, verbose=0)
    penalty = ka.criteria.mean_replacement_penalty(model, (x, y))
    saliency = ka.criteria.mean_replacement_saliency(model, (x, y))
    for name in penalty:
        assert spearmanr(penalty[name], saliency[name]).statistic > 0.9


def test_dead_and_constant_units_score_nothing():
    model = dense("relu")
    one = model.get_layer("one")
    one.bias.assign([0.0, -99.0, 0.0, 0.0, 3.0])
    kernel = np.array(one.get_weights()[0])
    kernel[:, 4] = 0  # Always 3.
    one.kernel.assign(kernel)
    for criterion in ("mean_replacement_penalty", "mean_replacement_saliency"):
        scores = getattr(ka.criteria, criterion)(model, (X, Y))["one"]
        np.testing.assert_allclose(scores[[1, 4]], 0, atol=1e-5)
        assert (scores[[0, 2, 3]] > 1e-3).all()


def test_norms_by_hand():
    model = dense()
    kernel = np.array([[1.0, -2.0, 0.0, 3.0, 0.5]] * 4, "float32")
    model.get_layer("one").kernel.assign(kernel)
    l1, l2 = ka.criteria.l1_norm(model), ka.criteria.squared_norm(model)
    np.testing.assert_allclose(l1["one"], [4, 8, 0, 12, 2])
    np.testing.assert_allclose(l2["one"], [4, 16, 0, 36, 1])
    assert list(l1) == ["one", "two"]


def test_norms_add_up_over_the_layers_that_make_a_unit():
    model = residual()
    norms = ka.criteria.l1_norm(model)
    stem, branch = (
        abs(model.get_layer(name).get_weights()[0]).sum((0, 1, 2))
        for name in ("stem", "branch")
    )
    (group,) = (g for g in ka.unit_groups(model) if g.removable)
    np.testing.assert_allclose(norms[group.name], stem + branch, rtol=1e-5)


def test_norms_of_recurrent_and_transposed_layers():
    inputs = keras.Input((6, 3))
    x = layers.Conv1DTranspose(4, 2, name="up")(inputs)
    x = layers.LSTM(5, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(1)(x))
    norms = ka.criteria.l1_norm(model)
    kernel = model.get_layer("up").get_weights()[0]  # (2, out, in)
    np.testing.assert_allclose(norms["up"], abs(kernel).sum((0, 2)), rtol=1e-5)
    kernel, recurrent, _ = model.get_layer("lstm").get_weights()
    gates = abs(kernel).sum(0) + abs(recurrent).sum(0)
    np.testing.assert_allclose(
        norms["lstm"], gates.reshape(4, 5).sum(0), rtol=1e-5
    )


def test_the_mean_goes_into_the_next_bias():
    """Equations 1.5 and 1.6, by hand: once, not twice."""
    model = dense()
    _, found = forward(model, X)
    mean = found["one", "post"].mean(0)[2]
    two = model.get_layer("two")
    kernel, bias = two.get_weights()
    gone = {"one": np.array([2])}
    replaced = ka.selection.mean_replacements(model, X, gone)
    ka.shrink(model, ka.Removal(gone, replaced))
    np.testing.assert_allclose(
        two.get_weights()[1], bias + mean * kernel[2], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("replacement", "by_hand"),
    [
        ("mean", np.mean),
        ("median", lower_median),
        ("minimum", np.min),
        ("maximum", np.max),
    ],
)
def test_a_constant_before_the_activation(replacement, by_hand):
    model = dense()
    _, found = forward(model, X)
    replaced = ka.selection.mean_replacements(
        model, X, {"one": np.array([2])}, at="pre", replacement=replacement
    )
    (constant,) = replaced["one"]["one"].constant
    expected = np.tanh(by_hand(found["one", "pre"][:, 2]))
    assert constant == pytest.approx(expected, rel=1e-4)


def test_slopes_see_what_is_added_to_a_unit():
    """The gradient at a unit, against finite differences."""
    model = dense()
    units = ReplacedUnits(analyse(model), "pre")
    ((_, sums),) = units.slopes((X, Y), units.means(X))

    def losses(shift):
        change = {("two", "pre"): lambda v: v + shift * np.eye(3)[1]}
        return ((forward(model, X, change)[0] - Y) ** 2).mean(1)

    slope = (losses(1e-5) - losses(-1e-5)) / 2e-5
    np.testing.assert_allclose(sums["two"][:, 1], slope, atol=1e-4)


def test_units_inside_a_layer_are_out_of_sight():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    x = RNG.normal(size=(4, 5, 8)).astype("float32")
    scores = ka.criteria.mean_replacement_saliency(model, (x, np.zeros((4, 1))))
    analysis = analyse(model)
    hidden = {
        group.name
        for group in analysis.groups
        if group.removable
        and not any(point.measurable for point in group.observations)
    }
    assert hidden
    assert hidden.isdisjoint(scores)


def test_one_group_alone_scores_the_same():
    model = dense()
    every = ka.criteria.mean_replacement_saliency(model, (X, Y))
    alone = ka.criteria.mean_replacement_saliency(model, (X, Y), layers=["two"])
    assert list(alone) == ["two"]
    np.testing.assert_allclose(alone["two"], every["two"], rtol=1e-4)


def test_batches_do_not_matter():
    model = dense()
    whole = unit_saliency.mean_replacement_saliency(model, (X, Y))
    parts = unit_saliency.mean_replacement_saliency(model, (X, Y), batch_size=7)
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4)


class Own(keras.layers.Layer):
    """Uses a weight itself, not through a layer."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)


def test_norms_are_those_of_incoming_weights_alone():
    """Also before a layer that reads the units by a weight of its own."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, name="one"), Own()]
    )
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    found = ka.criteria.l1_norm(model)
    assert list(found) == ["one"]
    np.testing.assert_allclose(found["one"], np.abs(kernel).sum(0), rtol=1e-6)

"""Functions that read fixed places along the units' axis.

What they are told follows the units that stay: in the graph, in what is
saved, and in the code of layers that are followed.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from tests.architectures import randomize, sample
from tests.every_layer import chain, dense
from tests.masking import outputs_of
from tests.surgery.test_shrink import check_equal_to_masking, removal_of

EIGHT = np.arange(8.0, dtype="float32")


def through(*functions, shape=(5,), batch=None):
    """Makes a model of 8 units that pass each function by itself."""
    inputs = keras.Input(shape, batch_size=batch)
    x = layers.Dense(8, activation="relu", name="one")(inputs)
    return keras.Model(inputs, [layers.Dense(2)(f(x)) for f in functions])


def gated(x):
    n = x.shape[-1] // 2
    return x[..., :n] * ops.sigmoid(x[..., n:])


def split_in_unequal_pieces():
    inputs = keras.Input((5,))
    x = layers.Dense(8, activation="relu", name="one")(inputs)
    return keras.Model(
        inputs, [layers.Dense(2)(y) for y in ops.split(x, [2, 5], axis=-1)]
    )


def nested_twice():
    inner = through(lambda x: x[:, :3], lambda x: x[:, 3:])
    inputs = keras.Input((5,))
    return keras.Model(inputs, [*inner(inputs), *inner(ops.flip(inputs, 1))])


PLACES = {
    "slices": lambda: through(lambda x: x[:, :3], lambda x: x[..., 3:]),
    "slices from the end": lambda: through(
        lambda x: x[..., -3:], lambda x: x[..., :-3]
    ),
    "slices that overlap": lambda: through(
        lambda x: x[:, 1:6], lambda x: x[:, None, 3:100], lambda x: x[:, :1]
    ),
    "gated by slices": lambda: through(gated),
    "gated at each step": lambda: through(gated, shape=(4, 5)),
    "every other": lambda: through(
        lambda x: x[..., ::2] * ops.tanh(x[..., 1::2])
    ),
    "slice": lambda: through(
        lambda x: ops.slice(x, [0, 2], [8, 4]), lambda x: x, batch=8
    ),
    "split": split_in_unequal_pieces,
    "nested twice": nested_twice,
    "roll": lambda: through(lambda x: ops.roll(x, 3, -1)),
    "roll back": lambda: through(lambda x: ops.roll(x, -10, 1)),
    "roll and add": lambda: through(
        lambda x: ops.roll(x[..., :4], 4, -1) + x[..., 4:]
    ),
    "take": lambda: through(
        lambda x: ops.take(x, [5, 0, 1, -1, 2, 0], axis=-1), lambda x: x
    ),
    "take by an array": lambda: through(
        lambda x: ops.take(x, np.array([5, 0, 1, 7]), axis=1), lambda x: x
    ),
    "multiply by a tensor": lambda: through(
        lambda x: x * ops.arange(8, dtype="float32") + 1
    ),
    "subtract from an array": lambda: through(lambda x: ops.subtract(EIGHT, x)),
    "an array for each step": lambda: through(
        lambda x: x + np.arange(32, dtype="float32").reshape(4, 8),
        shape=(4, 5),
    ),
    "where": lambda: through(
        lambda x: ops.where(EIGHT % 2 == 0, x, ops.negative(x)),
        lambda x: ops.where(EIGHT > 3, x, 0.5),
    ),
    "where something holds": lambda: through(
        lambda x: ops.where(x > 0.3, x, EIGHT)
    ),
    "maximum": lambda: through(lambda x: ops.maximum(x, EIGHT / 8)),
}


def check(model, path):
    reasons = {g.reason for g in ka.unit_groups(model) if not g.removable}
    assert reasons <= {"the model returns them"}
    randomize(model, seed=1)
    removal = removal_of(model, seed=2)
    assert len(removal) > 0
    report, small = check_equal_to_masking(model, removal)
    assert report.notes == ()
    data = sample(model)
    for each in (model, small):
        each.save(path)
        loaded = keras.models.load_model(path)
        for one, other in zip(
            outputs_of(loaded, data), outputs_of(model, data), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    return loaded


@pytest.mark.parametrize("name", PLACES)
def test_equals_masking_saved_and_loaded(name, tmp_path):
    loaded = check(PLACES[name](), tmp_path / "small.keras")
    removal = removal_of(loaded, seed=3, replace="nothing")  # Once more.
    if len(removal):
        check_equal_to_masking(loaded, removal)


def told(model, name):
    """What a function is told: its own settings, and its arguments."""
    (operation,) = [
        each for each in model.operations if type(each).__name__ == name
    ]
    return operation, operation._inbound_nodes[0].arguments.args


def without_1_4_and_5(function):
    """A model whose units 1, 4 and 5 have left."""
    model = through(function)
    analysis = ka.graph.analyse(model)
    gone = {}
    for unit in (1, 4, 5):
        group = analysis.groups[analysis.group_of[unit]].name
        gone.setdefault(group, []).append(int(analysis.index_of[unit]))
    ka.shrink(model, ka.Removal(gone))
    return model


def test_new_places_by_hand():
    """0, 2 and 3 are now 0, 1 and 2, and 6 and 7 are 3 and 4."""
    model = without_1_4_and_5(lambda x: ops.concatenate([x[:, 2:-1], x], -1))
    assert told(model, "GetItem")[1][1][1] == slice(1, -1)
    model = without_1_4_and_5(lambda x: ops.roll(x, 3, -1))
    assert told(model, "Roll")[0].shift == 2  # Of 5, 6 and 7.
    model = without_1_4_and_5(
        lambda x: ops.take(x, [7, 4, 6, 1, 0, 2, 3, 5, -1], axis=-1)
    )
    assert told(model, "Take")[1][1] == [4, 3, 0, 1, 2, 4]
    model = without_1_4_and_5(lambda x: x * EIGHT)
    np.testing.assert_array_equal(
        told(model, "Multiply")[1][1], [0, 2, 3, 6, 7]
    )
    model = without_1_4_and_5(
        lambda x: ops.concatenate(ops.split(x, [2, 5], axis=-1), -1)
    )
    assert told(model, "Split")[0].indices_or_sections == (1, 3)


def test_a_failure_leaves_the_places_as_they_were(monkeypatch):
    model = through(gated)
    before = outputs_of(model, sample(model))
    removal = removal_of(model, seed=2, replace="nothing")

    def fail(holders):
        raise RuntimeError("half-way")

    monkeypatch.setattr("keras_apoptosis.surgery.apply.refresh", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        ka.shrink(model, removal)
    monkeypatch.undo()
    after = outputs_of(model, sample(model))
    np.testing.assert_array_equal(before[0], after[0])
    again = keras.Model.from_config(model.get_config())
    assert again.count_params() == model.count_params()


def test_undo():
    model = through(gated)
    data = sample(model)
    states, outputs = [], []
    for units in ([0, 1], [2, 3]):
        states.append(ka.snapshot(model))
        outputs.append(outputs_of(model, data)[0])
        ka.shrink(model, ka.Removal({"one": units}))
        states.append(ka.snapshot(model))
        outputs.append(outputs_of(model, data)[0])
        states[0].restore()
    for index in (1, 3, 0, 2, 1):
        states[index].restore()
        found = outputs_of(model, data)[0]
        np.testing.assert_array_equal(found, outputs[index])


def test_undo_where_only_places_differ():
    model = through(lambda x: ops.roll(x, 3, -1), lambda x: x * EIGHT)
    data = sample(model)
    whole = ka.snapshot(model)
    ka.shrink(model, ka.Removal({"one": [0, 1]}))
    first, expected = ka.snapshot(model), outputs_of(model, data)
    whole.restore()
    ka.shrink(model, ka.Removal({"one": [5, 7]}))
    first.restore()
    for one, other in zip(outputs_of(model, data), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@keras.saving.register_keras_serializable("tests")
class Gated(layers.Layer):
    """Gates by slices of its own code."""

    def __init__(self, hidden, how, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.how = hidden, how
        self.up = layers.Dense(2 * hidden, name="up")

    def build(self, shape):
        self.up.build(shape)
        self.down = layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], self.hidden))

    def call(self, inputs):
        x, n = self.up(inputs), self.hidden
        if self.how == "shape":
            n = x.shape[-1] // 2
        if self.how == "number":
            n = 4
        a, b = x[..., :n], x[..., n:]
        if self.how == "split":
            a, b = ops.split(x, [n], axis=-1)
        if self.how == "end":
            a, b = x[..., : x.shape[-1] - n], x[..., -n:]
        if self.how == "roll":
            b = ops.roll(x, n, -1)[..., :n]
        if self.how == "arange":
            a = a * ops.arange(n, dtype="float32")
        return self.down(a * ops.sigmoid(b))

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "how": self.how,
        }


@pytest.mark.parametrize("how", ["setting", "shape", "split", "end", "roll"])
def test_places_in_the_code_of_a_layer(how, tmp_path):
    model = chain((5,), Gated(4, how, name="gated"), dense(3, "out"))
    group = next(g for g in ka.unit_groups(model) if g.name == "gated/up")
    assert (group.size, group.removable) == (4, True)
    randomize(model, seed=1)
    removal = ka.Removal({"gated/up": [0, 2]})
    check_equal_to_masking(model, removal)
    assert model.get_layer("gated").hidden == 2
    path = tmp_path / "small.keras"
    model.save(path)
    loaded, data = keras.models.load_model(path), sample(model)
    np.testing.assert_allclose(
        outputs_of(loaded, data)[0], outputs_of(model, data)[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("number", "has no setting that says how many there are"),
        ("arange", "reads fixed places of them at 'multiply'"),
    ],
)
def test_places_that_a_layer_cannot_follow(how, reason):
    model = chain((5,), Gated(4, how, name="gated"), dense(3, "out"))
    group = next(g for g in ka.unit_groups(model) if g.name == "gated/up")
    assert not group.removable
    assert reason in group.reason


class Last(layers.Layer):
    """Reads the last three units, whichever those are."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.up = layers.Dense(units, name="up")
        self.down = layers.Dense(2, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((None, 3))

    def call(self, inputs):
        return self.down(self.up(inputs)[:, -3:])

    def compute_output_shape(self, shape):
        return (shape[0], 2)


def test_a_slice_that_would_be_right_for_the_first_unit_only():
    model = chain((5,), Last(6, name="last"))
    assert not any(
        g.removable for g in ka.unit_groups(model) if g.name.startswith("last")
    )


class Model(keras.Model):
    """A subclassed model whose code reads fixed places."""

    def __init__(self, hidden, how):
        super().__init__()
        self.hidden, self.how = hidden, how
        self.up = layers.Dense(2 * hidden, name="up")
        self.down = layers.Dense(3, name="down")

    def call(self, inputs):
        x = self.up(inputs)
        if self.how == "reshape":
            x = ops.reshape(ops.reshape(x, (-1, 8, 1)), (-1, 8))
            return self.down(x)
        n = self.hidden if self.how == "setting" else 4
        return self.down(x[..., :n] * ops.sigmoid(x[..., n:]))

    def get_config(self):
        return {"hidden": self.hidden, "how": self.how}


def subclass(how):
    model = Model(4, how)
    model(np.zeros((2, 5), "float32"))
    return model


def test_places_in_the_code_of_a_model():
    model = randomize(subclass("setting"), seed=1)
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    weights = [ops.convert_to_numpy(w) for w in model.weights]
    ka.shrink(model, ka.Removal({"up": [1, 2]}))
    assert model.hidden == 2
    first, bias, last, end = weights
    before = x @ first + bias
    inner = before[:, :4] / (1 + np.exp(-before[:, 4:]))
    expected = inner[:, [0, 3]] @ last[[0, 3]] + end
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(x)), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("how", "where"), [("number", "get_item"), ("reshape", "reshape")]
)
def test_numbers_in_the_code_of_a_model_hold_units(how, where):
    group = ka.unit_groups(subclass(how))[0]
    assert not group.removable
    assert f"tells '{where}' sizes or places of them" in group.reason

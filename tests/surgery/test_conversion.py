import keras
import numpy as np
import pytest

from keras_apoptosis import layers
from keras_apoptosis.surgery.conversion import make_prunable, strip_pruning
from tests.processes import output_of

L = keras.layers


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def predict(model, x):
    return model.predict(x, verbose=0)


def sample(model, n=4):
    rng = np.random.default_rng(0)
    shapes = [(n, *tensor.shape[1:]) for tensor in model.inputs]
    x = [rng.normal(size=shape).astype("float32") for shape in shapes]
    return x if len(x) > 1 else x[0]


def shake(model):
    """Gives every weight, moving statistics included, a value of its own."""
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(0.1, 1.0, w.shape) for w in model.get_weights()]
    )


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, use_bias=False, name="conv"),
            L.BatchNormalization(),
            L.Activation("tanh", name="after"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(5, name="dense"),
            L.BatchNormalization(),
            L.ReLU(name="relu"),
            L.Dropout(0.5),
            L.Dense(2, "softmax", name="out"),
        ],
        name="chain",
    )


def functional():
    first, second = keras.Input((6, 2), name="a"), keras.Input((4,), name="b")
    conv = L.Conv1D(3, 2, activation="relu", name="conv")(first)
    pooled = L.GlobalAveragePooling1D()(conv)
    shared = L.Dense(3, "tanh", name="shared")
    both = L.Add()([shared(second), shared(shared(second)[:, :3] @ eye())])
    both = keras.ops.concatenate([pooled, both], axis=-1)
    return keras.Model([first, second], L.Dense(1)(both), name="graph")


def eye():
    return np.eye(3, 4, dtype="float32")


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(4, name="deep"), L.BatchNormalization()],
        name="inner",
    )
    inputs = keras.Input((4,))
    middle = keras.Model(inputs, L.Activation("relu")(inner(inputs)))
    outputs = L.Dense(2)(middle(middle(inputs)))
    return keras.Model(inputs, outputs, name="outer")


def volumes():
    inputs = keras.Input((4, 4, 4, 1))
    x = L.Conv3D(2, 2, dtype="mixed_bfloat16", name="conv")(inputs)
    return keras.Model(inputs, x)


MODELS = pytest.mark.parametrize(
    "build", [sequential, functional, nested, volumes]
)


@MODELS
def test_there_and_back(build):
    model = build()
    shake(model)
    x = sample(model)
    y, weights = predict(model, x), model.get_weights()

    prunable = make_prunable(model)
    np.testing.assert_array_equal(predict(prunable, x), y)
    plain = strip_pruning(prunable)
    np.testing.assert_array_equal(predict(plain, x), y)
    assert type(prunable) is type(plain) is type(model)
    assert prunable.name == plain.name == model.name
    for other in (prunable, plain):
        for old, new in zip(model.layers, other.layers, strict=True):
            assert old is not new
            assert old.name == new.name
    assert plain.count_params() == model.count_params()
    for old, new in zip(weights, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_is_converted():
    assert kinds(make_prunable(sequential())) == [
        "PrunableConv2D",
        "BatchNormalization",
        "PrunableActivation",
        "MaxPooling2D",
        "Flatten",
        "PrunableDense",
        "BatchNormalization",
        "PrunableActivation",
        "Dropout",
        "PrunableDense",
    ]
    graph = make_prunable(functional())
    assert type(graph.get_layer("conv")) is layers.PrunableConv1D
    assert type(graph.get_layer("shared")) is layers.PrunableDense
    assert type(make_prunable(volumes()).layers[-1]) is layers.PrunableConv3D
    outer = make_prunable(nested())
    middle = outer.layers[1]
    assert kinds(middle)[1:] == ["Sequential", "PrunableActivation"]
    assert kinds(middle.get_layer("inner")) == [
        "PrunableDense",
        "BatchNormalization",
    ]


def test_stripping_gives_the_config_back():
    model = sequential()
    config = strip_pruning(
        make_prunable(model, track_statistics=True)
    ).get_config()
    # A default ReLU has become the same as an activation.
    (relu,) = (c for c in config["layers"] if c["config"]["name"] == "relu")
    assert relu["class_name"] == "Activation"
    assert relu["config"]["activation"] == "relu"
    again, first = dict(config), model.get_config()
    again["layers"] = [c for c in config["layers"] if c is not relu]
    first["layers"] = [
        c for c in first["layers"] if c["config"]["name"] != "relu"
    ]
    assert again == first


class MyDense(L.Dense):
    pass


def test_what_is_left_alone():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            MyDense(4),
            L.BatchNormalization(),
            L.LeakyReLU(),
            L.BatchNormalization(),
            L.ReLU(6.0),
            L.Activation("relu"),  # It does not follow a normalization.
            L.TimeDistributed(L.Dense(3)),
            L.Bidirectional(L.LSTM(2)),
            L.Dense(3),
        ]
    )
    model.layers[-1].quantize("int8")
    x = sample(model)
    y = predict(model, x)
    prunable = make_prunable(model)
    assert kinds(prunable) == kinds(model)
    np.testing.assert_array_equal(predict(prunable, x), y)


def test_an_activation_must_follow_a_normalization_in_all_its_calls():
    inputs = keras.Input((3,))
    once, twice = L.Activation("relu"), L.Activation("relu")
    x = twice(L.BatchNormalization()(inputs))
    x = once(L.BatchNormalization()(x))
    model = keras.Model(inputs, twice(x))
    prunable = make_prunable(model)
    assert type(prunable.get_layer(once.name)) is layers.PrunableActivation
    assert type(prunable.get_layer(twice.name)) is L.Activation


def test_the_axis_is_that_of_the_normalization():
    model = keras.Sequential(
        [
            keras.Input((3, 4, 5)),
            L.BatchNormalization(axis=1),
            L.Activation("relu"),
        ]
    )
    prunable = make_prunable(model, track_statistics=True)
    predict(prunable, sample(prunable))
    assert prunable.layers[-1].statistics.total.shape == (3,)
    assert prunable.layers[-1].statistics.count == 4 * 4 * 5


def test_tracking():
    model = make_prunable(
        sequential(), track_statistics=True, activity_tolerance=0.5
    )
    predict(model, sample(model))
    tracked = [layer for layer in model.layers if hasattr(layer, "statistics")]
    assert [layer.name for layer in tracked] == [
        "conv",
        "after",
        "dense",
        "relu",
        "out",
    ]
    for layer in tracked:
        assert layer.activity_tolerance == 0.5
        assert layer.statistics.count >= 4


def test_prunable_models_keep_what_they_have():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.PrunableDense(4, "relu", track_statistics=True),
            layers.PrunableDense(2),
        ]
    )
    mask = np.arange(12).reshape(3, 4) % 2
    model.layers[0].set_mask(mask)
    x = sample(model)
    y = predict(model, x)
    again = make_prunable(model, track_statistics=True, activity_tolerance=0.1)
    first, second = again.layers
    assert first.statistics.count == 4
    assert first.activity_tolerance == 0
    assert second.statistics.count == 0
    assert second.activity_tolerance == 0.1
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(first.kernel_mask.value), mask
    )
    np.testing.assert_array_equal(predict(again, x), y)


def masked_models():
    for build in (sequential, functional, nested, volumes):
        model = make_prunable(build(), track_statistics=True)
        shake(model)
        rng = np.random.default_rng(2)
        for layer in model._flatten_layers():
            if hasattr(layer, "set_mask"):
                layer.set_mask(rng.integers(0, 2, layer.kernel.shape))
                # What has drifted since must not come back.
                layer._kernel.assign_add(np.ones(layer.kernel.shape))
        yield model


def test_stripping_folds_masks_in():
    for model in masked_models():
        x = sample(model)
        y = predict(model, x)
        plain = strip_pruning(model)
        np.testing.assert_array_equal(predict(plain, x), y)
        assert not any(
            "keras_apoptosis" in type(layer).__module__
            for layer in plain._flatten_layers()
        )
        names = {v.name for v in plain.variables}
        assert not any("mask" in n or "statistics" in n for n in names)


def test_stripping_a_masked_layer_with_lora():
    layer = layers.PrunableDense(3, lora_rank=2)
    model = keras.Sequential([keras.Input((4,)), layer])
    layer.set_mask(np.eye(4, 3))
    layer.lora_kernel_b.assign(np.ones((2, 3)))
    x = sample(model)
    plain = strip_pruning(model)
    assert [v.name for v in plain.variables] == ["kernel", "bias"]
    np.testing.assert_allclose(predict(plain, x), predict(model, x), rtol=1e-6)
    # Without a mask there is no need to fold anything.
    layer.set_mask(None)
    assert strip_pruning(model).layers[0].lora_enabled
    again = make_prunable(model).layers[0]
    assert again.lora_enabled
    np.testing.assert_array_equal(
        again.get_weights()[0], layer.get_weights()[0]
    )


LOAD_WITHOUT_US = """
import sys
sys.modules["keras_apoptosis"] = None  # Importing it raises ImportError.
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
np.testing.assert_array_equal(model.predict(data["x"], verbose=0), data["y"])
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(data["x"], np.zeros(len(data["x"])), verbose=0)
"""


def test_stripped_models_load_without_keras_apoptosis(tmp_path):
    model = make_prunable(sequential(), track_statistics=True)
    layer = model.get_layer("dense")
    layer.set_mask(np.arange(36 * 5).reshape(36, 5) % 2)
    plain, x = strip_pruning(model), sample(model)
    plain.save(tmp_path / "plain.keras")
    np.savez(tmp_path / "data.npz", x=x, y=predict(model, x))
    arguments = [tmp_path / "plain.keras", tmp_path / "data.npz"]
    output_of(LOAD_WITHOUT_US, *arguments)


def test_compile_is_kept():
    """The copies train on as the original does, and apart from it."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, name="one"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(3, name="two"),
        ]
    )

    def loss(y, predictions):  # One that Keras could not serialize.
        return keras.ops.mean((predictions - y) ** 2, axis=-1)

    model.compile(
        keras.optimizers.Adam(0.01),
        loss,
        metrics=[keras.metrics.MeanSquaredError(), "mae"],
    )
    x, y = sample(model, 8), np.zeros((8, *model.output_shape[1:]))
    model.fit(x, y, batch_size=8, verbose=0)
    prunable = make_prunable(model)
    plain = strip_pruning(prunable)
    found = []
    for each in (model, prunable, plain):
        assert each.metrics_names == model.metrics_names
        found_metrics = each.evaluate(x, y, verbose=0, return_dict=True)
        assert set(found_metrics) == {"loss", "mean_squared_error", "mae"}
        assert int(each.optimizer.iterations) == 1
        keras.utils.set_random_seed(3)
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        found.append(each.get_weights())
    assert prunable.optimizer is not model.optimizer
    for one, other in zip(*found[::2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(*found[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_model_that_is_not_compiled_stays_so():
    assert not make_prunable(sequential()).compiled


def test_the_original_stays():
    model = sequential()
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = sample(model, 8), np.zeros(8)
    model.fit(x, y, verbose=0)
    weights = model.get_weights()
    prunable = make_prunable(model)
    assert model.compiled
    # Training one leaves the other alone; on JAX a buffer that both shared
    # would be given away.
    prunable.compile("adam", "sparse_categorical_crossentropy")
    prunable.fit(x, y, verbose=0)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    model.fit(x, y, verbose=0)


def test_what_is_frozen_stays_frozen():
    model = nested()
    model.layers[1].get_layer("inner").trainable = False
    bidirectional = L.Bidirectional(L.LSTM(2))
    other = keras.Sequential([keras.Input((3, 4)), bidirectional, L.Dense(2)])
    bidirectional.forward_layer.trainable = False
    for each in (model, other):
        frozen = [v.shape for v in each.non_trainable_variables]
        assert frozen
        for copy in (make_prunable(each), strip_pruning(each)):
            assert [v.shape for v in copy.non_trainable_variables] == frozen


def test_layers_that_keep_more_than_variables():
    normalization = L.Normalization()
    normalization.adapt(np.array([[1.0, 5.0], [3.0, 9.0]]))
    model = keras.Sequential([keras.Input((2,)), normalization, L.Dense(2)])
    x = sample(model)
    np.testing.assert_array_equal(
        predict(make_prunable(model), x), predict(model, x)
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def built_subclass():
    model = Subclassed()
    model(np.ones((1, 3)))
    return model


@pytest.mark.parametrize("function", [make_prunable, strip_pruning])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([L.Dense(2)]), "Build it first.*Received"),
        (built_subclass, "Only Sequential and Functional.*Received"),
        (lambda: L.Dense(2), "Expected a `keras.Model`.*Received"),
        (lambda: None, "Expected a `keras.Model`.*Received: model=None"),
    ],
    ids=["unbuilt", "subclassed", "layer", "none"],
)
def test_bad_models(function, make, message):
    with pytest.raises(ValueError, match=message):
        function(make())


def test_bad_tolerance():
    with pytest.raises(ValueError, match="activity_tolerance=-1"):
        make_prunable(sequential(), activity_tolerance=-1)


class Growing(L.Layer):
    """Makes a variable that its config does not tell of."""

    def call(self, inputs):
        return inputs


def test_layers_whose_config_does_not_make_their_variables():
    layer = Growing()
    layer.extra = keras.Variable(1.0)
    model = keras.Sequential([keras.Input((2,)), layer])
    with pytest.raises(
        ValueError, match=r"'growing'.*0 variables instead of 1"
    ):
        make_prunable(model)

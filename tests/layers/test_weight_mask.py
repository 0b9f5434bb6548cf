import keras
import numpy as np
import pytest

from keras_apoptosis import layers

# Every layer with a mask: class, arguments, shape of one input.
KERNEL_LAYERS = [
    pytest.param(layers.PrunableDense, (3,), (4,), id="Dense"),
    pytest.param(layers.PrunableConv1D, (3, 2), (5, 4), id="Conv1D"),
    pytest.param(layers.PrunableConv2D, (3, 2), (5, 5, 2), id="Conv2D"),
    pytest.param(layers.PrunableConv3D, (3, 2), (3, 3, 3, 2), id="Conv3D"),
]


def some_mask(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 2, shape)


def numpy_kernel(layer):
    return to_numpy(layer.kernel)


def to_numpy(values):
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(values))


def mean_of_outputs(y_true, y_pred):
    return keras.ops.mean(y_pred, axis=-1)


@pytest.mark.parametrize(("kind", "args", "shape"), KERNEL_LAYERS)
def test_masked_is_the_plain_layer_with_zeros_in_its_kernel(kind, args, shape):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    layer = kind(*args, activation="tanh")
    layer.build((None, *shape))
    kernel, bias = layer.get_weights()
    mask = some_mask(kernel.shape)
    layer.set_mask(mask)

    plain = kind.__bases__[1](*args, activation="tanh")
    plain.build((None, *shape))
    plain.set_weights([kernel * mask, bias])
    np.testing.assert_array_equal(
        to_numpy(layer(x)),
        to_numpy(plain(x)),
    )


@pytest.mark.parametrize(("kind", "args", "shape"), KERNEL_LAYERS)
def test_without_a_mask_there_is_nothing(kind, args, shape):
    layer = kind(*args)
    assert layer.kernel_mask is None
    layer.build((None, *shape))
    assert layer.kernel_mask is None
    assert not layer.get_config()["masked"]
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    assert layer.kernel is layer.weights[0]  # Nothing is computed from it.


@pytest.mark.parametrize(("kind", "args", "shape"), KERNEL_LAYERS)
def test_the_mask_is_a_variable_of_the_layer(kind, args, shape):
    layer = kind(*args)
    layer.build((None, *shape))
    layer.set_mask(np.ones(layer.kernel.shape))
    assert layer.kernel_mask in layer.non_trainable_variables
    assert layer.kernel_mask.name == "kernel_mask"
    assert tuple(layer.kernel_mask.shape) == tuple(layer.kernel.shape)
    assert layer.get_config()["masked"]
    # The lock of a built layer is on again.
    with pytest.raises(ValueError, match="cannot add new elements of state"):
        layer.add_weight(shape=(), name="late")


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 0], [0, 1]],
        [[True, False], [False, True]],
        np.array([[1.0, 0.0], [0.0, 1.0]]),
        np.eye(2, dtype="uint8"),
    ],
    ids=["lists", "booleans", "floats", "integers"],
)
def test_masks_may_be_given_as(mask):
    layer = layers.PrunableDense(2, kernel_initializer="ones")
    layer.build((None, 2))
    layer.set_mask(mask)
    np.testing.assert_array_equal(numpy_kernel(layer), np.eye(2))
    layer.set_mask(keras.ops.ones((2, 2)))
    np.testing.assert_array_equal(numpy_kernel(layer), np.eye(2))


def test_the_stored_kernel_is_zeroed_and_starts_from_zero():
    layer = layers.PrunableDense(2, kernel_initializer="ones")
    layer.build((None, 2))
    layer.set_mask([[1, 0], [1, 1]])
    np.testing.assert_array_equal(layer.get_weights()[0], [[1, 0], [1, 1]])
    layer.set_mask([[0, 1], [1, 1]])
    np.testing.assert_array_equal(layer.get_weights()[0], [[0, 0], [1, 1]])
    layer.set_mask(None)
    assert layer.kernel_mask is None
    assert not layer.masked
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    np.testing.assert_array_equal(numpy_kernel(layer), [[0, 0], [1, 1]])


def test_what_has_drifted_never_comes_through():
    layer = layers.PrunableDense(1)
    layer.build((None, 2))
    layer.set_mask([[0], [1]])
    # The stored value of the masked entry, by whatever happened to it.
    _, _, mask = layer.get_weights()
    layer.set_weights([np.array([[np.inf], [2.0]]), np.array([0.5]), mask])
    np.testing.assert_array_equal(numpy_kernel(layer), [[0], [2]])
    y = layer(np.array([[3.0, 4.0]]))
    assert to_numpy(y).item() == 8.5
    layer.apply_mask()
    np.testing.assert_array_equal(layer.get_weights()[0], [[0], [2]])


def test_masked_weights_get_no_gradient():
    # The loss is the output, 1 * 3 + 0 * 5; its gradient is the input. A step
    # of size 1 takes 3 off the first weight and nothing off the second.
    layer = layers.PrunableDense(1, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_mask([[1], [0]])
    model.compile(keras.optimizers.SGD(1.0), mean_of_outputs)
    model.fit(np.array([[3.0, 5.0]]), np.zeros((1, 1)), verbose=0)
    np.testing.assert_allclose(layer.get_weights()[0], [[-2.0], [0.0]])


def test_the_mask_holds_under_momentum_and_weight_decay(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)), rng.normal(size=(64, 2))
    layer = layers.PrunableDense(8, activation="relu")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), "mse")
    model.fit(x, y, batch_size=16, verbose=0)
    mask = some_mask((4, 8)).astype(bool)
    layer.set_mask(mask)
    # As the docstring says, for the first mask of a layer.
    model.make_train_function(force=True)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)

    stored = layer.get_weights()[0]
    assert np.any(stored[~mask])  # By Adam's momentum from before the mask,
    assert not np.any(numpy_kernel(layer)[~mask])  # which does not matter.
    assert np.all(numpy_kernel(layer)[mask])

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kernel = numpy_kernel(loaded.layers[0])
    np.testing.assert_array_equal(kernel, numpy_kernel(layer))
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    loaded.fit(x, y, batch_size=16, verbose=0)
    assert not np.any(numpy_kernel(loaded.layers[0])[~mask])


def test_another_mask_needs_no_compilation():
    layer = layers.PrunableDense(1, kernel_initializer="ones", masked=True)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(0.0), mean_of_outputs)
    x, y = np.array([[3.0, 5.0]]), np.zeros((1, 1))
    assert model.evaluate(x, y, verbose=0) == 8.0
    assert model.fit(x, y, verbose=0).history["loss"] == [8.0]
    layer.set_mask([[1], [0]])
    assert model.evaluate(x, y, verbose=0) == 3.0
    assert model.fit(x, y, verbose=0).history["loss"] == [3.0]


@pytest.mark.parametrize(("kind", "args", "shape"), KERNEL_LAYERS)
def test_the_mask_survives_config_and_weights(kind, args, shape, tmp_path):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), kind(*args)])
    mask = some_mask(model.layers[0].kernel.shape)
    model.layers[0].set_mask(mask)
    model.save_weights(tmp_path / "of.weights.h5")

    again = keras.Sequential.from_config(model.get_config())
    again.load_weights(tmp_path / "of.weights.h5")
    np.testing.assert_array_equal(to_numpy(again.layers[0].kernel_mask), mask)
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(to_numpy(copy.layers[0].kernel_mask), mask)


@pytest.mark.parametrize(
    ("policy", "stored", "computed"),
    [
        ("mixed_float16", "float32", "float16"),
        ("mixed_bfloat16", "float32", "bfloat16"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("float64", "float64", "float64"),
    ],
)
def test_dtype_policies(policy, stored, computed):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless x64 is switched on globally.")
    layer = layers.PrunableDense(2, dtype=policy)
    layer.build((None, 2))
    layer.set_mask(np.eye(2))
    y = layer(np.ones((1, 2)))
    assert keras.backend.standardize_dtype(y.dtype) == computed
    kernel = layer.kernel
    assert keras.backend.standardize_dtype(kernel.dtype) == stored
    # Keras' own float64 layers are that precise on PyTorch, not more.
    np.testing.assert_allclose(
        to_numpy(y)[0].astype("float32"),
        np.diag(to_numpy(keras.ops.cast(kernel, computed))).astype("float32"),
        rtol=1e-6,
    )


def test_lora_is_masked_as_well():
    layer = layers.PrunableDense(3, lora_rank=2)
    layer.build((None, 4))
    layer.set_mask(np.eye(4, 3))
    layer.lora_kernel_b.assign(np.ones((2, 3)))
    kernel = numpy_kernel(layer)
    assert not np.any(kernel[~np.eye(4, 3, dtype=bool)])
    np.testing.assert_allclose(
        np.diag(kernel),
        np.diag(layer.get_weights()[0])
        + to_numpy(layer.lora_kernel_a)[:3].sum(axis=1),
        rtol=1e-6,
    )


class TestBadInput:
    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.ones((2, 3)), r"shape of its kernel.*Received: .*\(2, 3\)"),
            (np.ones(4), r"shape of its kernel"),
            (1, r"shape of its kernel"),
            (np.full((3, 2), 0.5), r"zeros and ones.*Received: 6 .* 0.5"),
            (np.full((3, 2), -1), r"zeros and ones"),
            (np.full((3, 2), np.nan), r"zeros and ones.*nan"),
        ],
    )
    def test_masks(self, mask, message):
        layer = layers.PrunableDense(2)
        layer.build((None, 3))
        layer.set_mask(np.ones((3, 2)))
        before = layer.get_weights()
        with pytest.raises(ValueError, match=message):
            layer.set_mask(mask)
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_layer_that_is_not_built(self):
        layer = layers.PrunableDense(2)
        with pytest.raises(ValueError, match=r"must be built.*Received"):
            layer.set_mask(np.ones((3, 2)))
        assert not layer.masked

    def test_quantized_layer(self):
        layer = layers.PrunableDense(2, dtype="int8_from_float32")
        layer.build((None, 3))
        with pytest.raises(ValueError, match=r"quantized.*Received.*int8"):
            layer.set_mask(np.ones((3, 2)))
        assert not layer.masked

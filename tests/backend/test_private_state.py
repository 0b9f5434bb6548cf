"""What of Keras' private state this package relies on.

Each test fails if a later Keras keeps that state otherwise.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_apoptosis import backend
from keras_apoptosis.backend import as_function, seeds_of
from keras_apoptosis.backend.calls import (
    called_on,
    in_inference,
    mask_of,
    masked,
)
from keras_apoptosis.backend.models import (
    flat_inputs,
    follows_its_graph,
    maker_of,
    ordered_nodes,
)
from keras_apoptosis.graph.reading import read
from tests.processes import output_of


def model_of(*middle):
    return keras.Sequential([keras.Input((4,)), *middle, layers.Dense(2)])


def test_a_variable_takes_another_shape_and_back():
    variable = keras.Variable(np.arange(6.0).reshape(3, 2), name="v")
    path = variable.path
    back = backend.snapshot(variable)
    backend.resize_variable(variable, np.ones((2, 2), "float32"))
    assert tuple(variable.shape) == (2, 2)
    assert variable.path == path
    variable.assign(np.zeros((2, 2)))
    back()
    np.testing.assert_array_equal(
        ops.convert_to_numpy(variable), np.arange(6.0).reshape(3, 2)
    )


def test_a_resized_variable_still_trains_and_is_still_constrained():
    variable = keras.Variable(np.ones(3), trainable=False, dtype="float16")
    backend.resize_variable(variable, np.ones(2, "float16"))
    assert variable.dtype == "float16"
    assert not variable.trainable


def test_the_shape_of_a_graph_tensor_can_be_set():
    tensor = keras.Input((4,))
    backend.set_shape(tensor, (None, 3))
    assert tensor.shape == (None, 3)


def test_build_shapes_are_recorded():
    layer = layers.Dense(3)
    layer.build((None, 4))
    assert backend.build_shapes(layer) == {"input_shape": (None, 4)}
    backend.set_attributes(
        layer, backend.built_with({"input_shape": (None, 2)})
    )
    assert layer.get_build_config() == {"input_shape": (None, 2)}


def test_a_pristine_twin_has_sizes_and_no_values():
    layer = layers.Dense(3, name="same")
    layer.build((None, 4))
    twin, sizes = backend.pristine(
        layer, {("units",): 5}, {"input_shape": (None, 2)}
    )
    assert twin.units == 5
    assert twin.name == "same"
    assert sizes == [(2, 5), (5,)]
    # Keras must not come back to give the twin's variables values.
    with keras.StatelessScope():
        pass
    assert all(v._value is None for v in twin.variables)


def test_plain_attributes_hold_sizes_and_specs():
    layer = layers.Dense(3)
    layer.build((None, 4))
    found = backend.plain_attributes(layer)
    assert found["units"] == 3
    assert any(isinstance(v, keras.InputSpec) for v in found.values())
    assert "_kernel" not in found


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (keras.optimizers.SGD(0.1, momentum=0.9), [(0, 0), (0, 1), (1, 0)]),
        (
            # Adafactor keeps a kernel's velocity by rows and by columns too.
            keras.optimizers.Adafactor(0.1),
            [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0)],
        ),
    ],
)
def test_slots_know_whose_they_are(optimizer, expected):
    layer = layers.Dense(3)
    layer.build((None, 3))  # Square: shapes alone would not tell.
    optimizer.build(layer.trainable_variables)
    found = backend.slots_of(optimizer, layer.trainable_variables)
    assert [axis for _, axes in found for axis in axes] == expected


def test_slots_of_an_unknowable_optimizer():
    class Odd(keras.optimizers.SGD):
        made = 0

        def build(self, variables):
            super().build(variables)
            Odd.made += 1
            for _ in range(Odd.made):
                self.add_variable((), name="odd")

    layer = layers.Dense(3)
    layer.build((None, 3))
    optimizer = Odd(0.1)
    optimizer.build(layer.trainable_variables)
    with pytest.raises(ValueError, match="Cannot tell which variables"):
        backend.slots_of(optimizer, layer.trainable_variables)


def test_an_optimizer_finds_its_variables_again():
    model = model_of()
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)), "mse"
    )
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        backend.resize_variable(variable, ops.convert_to_numpy(variable))
    backend.reindex(optimizer)
    for index, variable in enumerate(model.trainable_variables):
        inner = optimizer.inner_optimizer
        assert inner._get_variable_index(variable) == index


def test_steps_are_counted_where_gradients_accumulate():
    model = model_of()
    model.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse")
    model.fit(np.ones((12, 4)), np.ones((12, 2)), batch_size=4, verbose=0)
    assert int(backend.steps_of(model.optimizer)) == 3
    assert int(model.optimizer.iterations) == 1


def test_seeds_of_layers_are_found():
    # PyTorch draws from a layer's own seed only where one is given.
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dropout(0.5, seed=1)]
    )
    (seed,) = seeds_of(model)
    before = ops.convert_to_numpy(seed.value)
    model(np.ones((2, 8)), training=True)
    assert (ops.convert_to_numpy(seed.value) != before).any()


def test_compiled_steps_are_dropped():
    model = model_of()
    model.compile("sgd", "mse")
    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    old = model.train_function
    backend.forget_compiled(model)
    assert model.train_function is not old
    assert model.train_function is not None
    assert model.predict_function is None
    assert model.test_function is None


def test_pytorch_sees_new_parameters():
    if keras.backend.backend() != "torch":
        pytest.skip("only PyTorch keeps a dictionary of parameters")
    model = model_of()
    before = {id(parameter) for parameter in model.parameters()}
    kernel = model.layers[0]._kernel
    backend.resize_variable(kernel, np.ones((3, 2), "float32"))
    # A loop or optimizer of one's own holds the parameter itself.
    assert before == {id(parameter) for parameter in model.parameters()}
    assert before == {id(v.value) for v in model.variables}
    assert {tuple(p.shape) for p in model.parameters()} == {(3, 2), (2,)}


def test_a_resized_parameter_takes_gradients_while_an_old_loss_lives():
    if keras.backend.backend() != "torch":
        pytest.skip("only PyTorch keeps graphs of gradients")
    variable = keras.Variable(np.ones((4, 3), "float32"))
    loss = (variable.value * 2).sum()
    loss.backward()
    backend.resize_variable(variable, np.ones((2, 3), "float32"))
    (variable.value * 3).sum().backward()
    assert variable.value.grad.tolist() == [[3.0] * 3] * 2
    assert loss.item() == 24


def test_a_replaced_variable_fails_where_it_is_still_used():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow compiles functions around variables")
    import tensorflow as tf

    variable = keras.Variable(np.ones((4, 3), "float32"))
    function = tf.function(lambda x: x @ variable.value)
    function(np.ones((1, 4), "float32"))
    old = backend.held_value(variable)
    backend.resize_variable(variable, np.ones((2, 3), "float32"))
    backend.invalidate(old)
    with pytest.raises(tf.errors.InvalidArgumentError):
        function(np.ones((1, 4), "float32"))
    assert tuple((np.ones((1, 2), "float32") @ variable.value).shape) == (1, 3)


def test_jax_values_come_back_in_the_middle_of_fit():
    model = model_of()
    model.compile("sgd", "mse")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            backend.sync_from_jax(self.model)
            seen.append(ops.convert_to_numpy(self.model.layers[0].kernel).sum())

    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[Look()])
    assert len(set(seen)) == 2


def test_weights_that_devices_split():
    """Slices stay even, and a variable keeps its layout when it is resized."""
    if keras.backend.backend() != "jax":
        pytest.skip("only JAX splits weights over devices")
    found = output_of(
        """
import keras, numpy as np, keras_apoptosis as ka
from keras import distribution as d
mesh = d.DeviceMesh((1, 2), ("batch", "model"), d.list_devices())
layouts = d.LayoutMap(mesh)
layouts[".*one.*"] = ("model",)
layouts[".*two/kernel"] = ("model", None)
d.set_distribution(d.ModelParallel(layout_map=layouts))
model = keras.Sequential([
    keras.Input((4,)),
    keras.layers.Dense(8, name="one", use_bias=False),
    keras.layers.Dense(2, name="two"),
])
before = model.predict(np.eye(4), verbose=0)
snapshot = ka.snapshot(model)
try:
    ka.shrink(model, ka.Removal({"one": [7]}))
except ValueError as error:
    print("refused:", error)
print(model.layers[0].units)
ka.shrink(model, ka.Removal({"one": [5, 7]}))
kernel = model.layers[1].kernel.value
print(kernel.shape, *kernel.sharding.spec, len(kernel.devices()))
snapshot.restore()
model.compile("sgd", "mse")
method = ka.callbacks.NeuronApoptosis(data=np.eye(4))
try:
    model.fit(np.eye(4), np.eye(4)[:, :2], verbose=0, callbacks=[method])
except ValueError as error:
    print("refused to begin:", error)
after = model.predict(np.eye(4), verbose=0)
print(np.array_equal(before, after))
""",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert "refused: Expected sizes that the devices can share evenly" in found
    assert "new shape (7, 2)" in found
    assert "\n8\n(6, 2) model None 2\n" in found
    assert "refused to begin: Expected `round_to` to be a multiple" in found
    assert found.endswith("True\n")


def test_strategies_of_tensorflow():
    """A mirrored variable is resized on all devices; others are refused."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    found = output_of(
        """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
import keras, keras_apoptosis as ka
class Other(tf.distribute.MirroredStrategy):
    pass
for kind in (tf.distribute.MirroredStrategy, Other):
    with kind(["CPU:0", "CPU:1"]).scope():
        model = keras.Sequential([
            keras.Input((4,)),
            keras.layers.Dense(3, name="one"),
            keras.layers.Dense(2),
        ])
    try:
        ka.shrink(model, ka.Removal({"one": [0]}))
    except ValueError as error:
        print("refused:", error)
    for each in model.layers[0].kernel.value.values:
        print(each.device[-5:], each.shape)
"""
    )
    one, other = found.split("refused:")
    for each in "01":
        assert f"CPU:{each} (4, 2)" in one
        assert f"CPU:{each} (4, 3)" in other
    assert "`MirroredStrategy` is supported" in other


def test_graphs_are_recorded_by_depth():
    inner = model_of()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(inner(inputs)))
    graph = read(model)
    assert [step.path for step in graph.steps] == [
        f"{inner.name}/{inner.layers[0]._inbound_nodes[0].input_tensors[0]._keras_history.operation.name}",
        f"{inner.name}/{inner.layers[0].name}",
        inner.name,
        model.layers[-1].name,
    ]
    assert as_function(inner) is not inner
    assert as_function(layers.Dense(1)) is None
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    found = graph.run(x, graph.outputs)[graph.outputs[0]]
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-5)


def test_tensors_carry_masks():
    tensor, mask = ops.ones((2, 3)), ops.ones((2,), "bool")
    assert mask_of(tensor) is None
    assert masked(tensor, None) is tensor
    assert mask_of(masked(tensor, mask)) is mask
    x = layers.Dense(4)(tensor)
    np.testing.assert_array_equal(ops.convert_to_numpy(mask_of(x)), [True] * 2)


def test_training_is_off_wherever_it_is_said():
    dropout = layers.Dropout(0.5)
    assert in_inference(dropout, (1,), {}) == ((1,), {"training": False})
    assert in_inference(dropout, (1, True), {}) == ((1, False), {})
    found = in_inference(dropout, (), {"inputs": 1, "training": True})
    assert found == ((), {"inputs": 1, "training": False})
    assert in_inference(layers.ReLU(), (1,), {}) == (
        (1,),
        {"training": False},
    )


def test_a_nested_call_records_its_masks():
    inputs = keras.Input((3, 2)), keras.Input((3, 2))
    inside = keras.Input((3, 2)), keras.Input((3, 2))
    inner = keras.Model(inside, layers.Add()(inside))
    mask = ops.any(ops.not_equal(inputs[1], 0), axis=-1)
    model = keras.Model(inputs, inner(inputs, mask=[None, mask]))
    (node,) = [n for n in ordered_nodes(model) if n.operation is inner]
    tensors, masks = called_on(node)
    assert [id(each) for each in tensors] == [id(each) for each in inputs]
    assert masks[0] is None
    assert masks[1] is mask


def test_a_class_may_compute_another_thing_than_its_graph():
    class Same(keras.Model):
        def train_step(self, *args):
            return {}

    class Other(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs) * 2

    inputs = keras.Input((2,))
    outputs = layers.Dense(2)(inputs)
    assert follows_its_graph(keras.Model(inputs, outputs))
    assert follows_its_graph(keras.Sequential([inputs, layers.Dense(1)]))
    assert follows_its_graph(Same(inputs, outputs))
    assert not follows_its_graph(Other(inputs, outputs))


def test_makers_and_flat_inputs():
    inputs = keras.Input((2,), name="x"), keras.Input((), name="y")
    add = layers.Add()
    outputs = add([inputs[0], ops.expand_dims(inputs[1], -1)])
    model = keras.Model({"x": inputs[0], "y": inputs[1]}, outputs)
    assert maker_of(outputs) is add
    flat = flat_inputs(model, {"y": np.zeros(3), "x": np.ones((3, 2))})
    assert [tuple(each.shape) for each in flat] == [(3, 2), (3,)]

"""Undo: a snapshot brings back everything, to the last bit."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from keras_apoptosis.graph import read
from keras_apoptosis.training.masking import mask_weights
from tests.architectures import CATALOGUE, randomize
from tests.random_architectures import generate, inputs_of
from tests.surgery.test_shrink import removal_of
from tests.surgery.test_training import OPTIMIZERS, At, data_for, trained

# What is compiled takes long.
FEW = 5 if keras.backend.backend() == "torch" else 1


def eager_outputs(model, inputs):
    """Calls a model uncompiled: states of its layers stay numbers on JAX."""
    found = keras.tree.flatten(model(inputs, training=False))
    return [np.array(ops.convert_to_numpy(each)) for each in found]


def state_of(model):
    """All that a snapshot promises, in a form that can be compared."""
    backend.sync_from_jax(model)
    values = [
        np.array(ops.convert_to_numpy(v))
        for v in (*model.variables, *model.optimizer.variables)
    ]
    shapes = [tuple(each.shape) for each in read(model).tensors]
    return values, shapes, model.get_config(), model.count_params()


def check_same(one, other):
    for mine, theirs in zip(one[0], other[0], strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert one[1:] == other[1:]


def fit(model, x, y, **arguments):
    keras.utils.set_random_seed(7)  # Dropout on PyTorch has no seed to undo.
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, **arguments)


def shake(model, seed):
    """Writes into every float in place, as training does."""
    rng = np.random.default_rng(seed)
    for variable in (*model.variables, *model.optimizer.variables):
        if "float" in variable.dtype:
            variable.assign_add(rng.normal(size=variable.shape))


@pytest.mark.parametrize("seed", range(FEW))
def test_undoes_several_removals_of_any_model(seed):
    model = randomize(generate(seed), seed)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    shake(model, seed)
    before, state = ka.snapshot(model), state_of(model)
    inputs = inputs_of(model, seed)
    outputs = eager_outputs(model, inputs)
    for turn in range(3):
        if removal := removal_of(model, seed + turn):
            ka.shrink(model, removal)
        shake(model, seed + turn)
    assert model.count_params() < state[-1]
    before.restore()
    check_same(state_of(model), state)
    for one, other in zip(eager_outputs(model, inputs), outputs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn_normalized", "nested"])
def test_training_goes_on_as_if_nothing_had_happened(name):
    model, x, y = trained(name)
    before = ka.snapshot(model)
    fit(model, x, y)
    expected = state_of(model)
    ka.shrink(model, removal_of(model, 0))
    before.restore()
    ka.shrink(model, removal_of(model, 1))
    fit(model, x, y)
    before.restore()  # A snapshot is good for more than one undo.
    fit(model, x, y)
    check_same(state_of(model), expected)


@pytest.mark.parametrize("optimizer", ["muon", "adafactor", "loss_scale"])
def test_slots_of_any_optimizer_return(optimizer):
    model, x, y = trained("mlp", optimizer)
    state, before = state_of(model), ka.snapshot(model)
    ka.shrink(model, removal_of(model, seed=2))
    fit(model, x, y)
    before.restore()
    check_same(state_of(model), state)


def of_a_catalogue():
    """Undone in the epoch in which it was taken, after a batch."""
    return (*trained("cnn"), (0, 2))


def random_model(seed, optimizer):
    """Undone at the end of another epoch."""
    model = randomize(generate(seed), seed)
    x = inputs_of(model, seed)
    y = [np.zeros(each.shape) for each in eager_outputs(model, x)]
    model.compile(OPTIMIZERS[optimizer](), ["mse"] * len(y))
    model.fit(x, y, batch_size=8, verbose=0)
    return model, x, y, (1, None)


WITHIN_FIT = {
    "cnn": of_a_catalogue,
    "adam": lambda: random_model(40, "adam"),
    "adadelta": lambda: random_model(1, "adadelta"),
    "schedule_free": lambda: random_model(2, "schedule_free"),
    "muon": lambda: random_model(4, "muon"),
}


@pytest.mark.parametrize("which", list(WITHIN_FIT)[: 1 + FEW])
def test_undoes_within_fit(which):
    model, x, y, when = WITHIN_FIT[which]()
    taken = {}

    def cut(model):
        taken["snapshot"] = ka.snapshot(model)
        taken["state"] = state_of(model)
        ka.shrink(model, removal_of(model, seed=3))

    def undo(model):
        assert model.count_params() < taken["state"][-1]
        taken["snapshot"].restore()
        check_same(state_of(model), taken["state"])

    fit(model, x, y, epochs=2, callbacks=[At(cut, 0, 0), At(undo, *when)])
    assert model.count_params() == taken["state"][-1]
    fit(model, x, y)


def test_undo_at_once_leaves_no_trace_in_fit():
    found = []
    for undo in (False, True):
        model, x, y = trained("cnn")

        def there_and_back(model):
            before = ka.snapshot(model)
            ka.shrink(model, removal_of(model, seed=3))
            before.restore()

        fit(
            model,
            x,
            y,
            epochs=2,
            callbacks=[At(there_and_back, 0, 1)] if undo else [],
        )
        found.append(state_of(model)[0])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_are_copies():
    """Training writes into weights in place; the snapshot must not follow."""
    model, x, y = trained("mlp", "sgd")
    state, before = state_of(model), ka.snapshot(model)
    fit(model, x, y, epochs=3)
    assert (state_of(model)[0][0] != state[0][0]).any()
    before.restore()
    check_same(state_of(model), state)


def test_without_a_change_of_shapes_compiled_steps_are_kept():
    model, x, y = trained("mlp")
    before = ka.snapshot(model)
    fit(model, x, y)
    function = model.train_function
    before.restore()
    assert model.train_function is function


def test_masks_come_and_go():
    model = ka.make_prunable(randomize(CATALOGUE["mlp"](), seed=1))
    model.compile(OPTIMIZERS["adam"](), "mse")
    x, y = data_for(model)
    fit(model, x, y)
    layer = model.get_layer("one")
    bare, state = ka.snapshot(model), state_of(model)
    mask = np.random.default_rng(0).random(layer.kernel.shape) > 0.5
    mask_weights(model, {layer: mask})
    layer._kernel.assign_add(np.ones(mask.shape))  # Drifts behind the mask.
    fit(model, x, y)
    masked, state_masked = ka.snapshot(model), state_of(model)
    ka.shrink(model, removal_of(model, seed=2))
    masked.restore()
    check_same(state_of(model), state_masked)
    bare.restore()
    assert layer.kernel_mask is None
    check_same(state_of(model), state)
    masked.restore()
    kernel = ops.convert_to_numpy(layer._kernel.value)
    expected = state_masked[0][0]
    np.testing.assert_array_equal(kernel, expected)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel_mask), mask)
    fit(model, x, y)


def test_says_how_much_it_holds():
    """Adam (amsgrad): four numbers of 4 bytes a weight, two of its own."""
    model, _, _ = trained("mlp")
    weights = (6 * 8 + 8) + (8 * 7 + 7) + (7 * 3 + 3)
    found = ka.snapshot(model).nbytes - 4 * 4 * weights
    # The optimizer's iterations and rate, and the two numbers of a seed.
    # PyTorch has no unsigned integers of 4 bytes, and takes more.
    assert 4 * 4 <= found <= 4 * 8


def test_another_optimizer_is_an_error():
    model, _, _ = trained("mlp")
    before = ka.snapshot(model)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Expected the model with the optimi"):
        before.restore()


def test_a_model_that_is_not_compiled():
    model = randomize(CATALOGUE["residual"](), seed=1)
    before = ka.snapshot(model)
    values = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    config = model.get_config()
    ka.shrink(model, removal_of(model, seed=2))
    before.restore()
    assert model.get_config() == config
    for variable, value in zip(model.variables, values, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)

"""Demon pruning in `fit`: who dies, who leaves, when, and what is said."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis import backend
from keras_apoptosis.backend import step_hooks
from keras_apoptosis.callbacks import DemonPruning
from keras_apoptosis.callbacks.death_record import overlap

# By hand: units 0 and 1 of four are dead for inputs of 1, the others not.
KERNEL = np.ones((5, 4), "float32")
BIAS = np.array([-9.0, -9.0, 0.0, 1.0], "float32")
ONES = np.ones((32, 5), "float32")
RANDOM = np.random.default_rng(0).uniform(0.5, 1, (32, 5)).astype("float32")
QUIET = {"strength": 0.0, "noise_variance": 0.0, "verbose": False}


def by_hand(layer=layers.Dense, **arguments):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layer(4, activation="relu", name="hidden", **arguments),
            layers.Dense(2, name="out"),
        ]
    )
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(KERNEL)
    hidden.bias.assign(BIAS)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def fit(model, callback, epochs=2, x=RANDOM, **arguments):
    callbacks = callback if isinstance(callback, list) else [callback]
    return model.fit(
        x,
        np.zeros((len(x), 2)),
        **{"batch_size": 4, "epochs": epochs, "verbose": 0, **arguments},
        callbacks=callbacks,
    ).history


class Widths(keras.callbacks.Callback):
    """The width after each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_layer("hidden").units)


def widths(epochs=2, **arguments):
    model, seen = by_hand(), Widths()
    demon = DemonPruning(data=RANDOM, **QUIET, **arguments)
    fit(model, [demon, seen], epochs)
    return seen.seen, demon


class TestWhen:
    """Two epochs of eight steps."""

    def test_after_a_number_of_steps(self):
        seen, demon = widths(schedule=ka.schedules.EverySteps(5))
        assert seen == [4] * 4 + [2] * 12
        # At 5, 10 and 15 steps, and at the end.
        assert [each.steps for each in demon.history] == [5, 10, 15, 16]
        assert demon.retraces == 1

    def test_after_a_fraction_of_the_training(self):
        seen, demon = widths(schedule=ka.schedules.Fixed(0.25, start=0.25))
        assert seen == [4] * 3 + [2] * 13
        assert [each.steps for each in demon.history] == [4, 8, 12, 16]

    def test_not_before_the_start(self):
        seen, demon = widths(
            schedule=ka.schedules.Fixed(0.25, start=0.25), start=0.5
        )
        assert seen == [4] * 7 + [2] * 9
        assert [sum(each.dead.values()) for each in demon.history] == [2] * 4

    def test_at_the_end_alone(self):
        seen, demon = widths(
            schedule=ka.schedules.Fixed(0.25, start=0.25), dynamic=False
        )
        assert seen == [4] * 15 + [2]
        assert demon.retraces == 1
        assert [each.overlap for each in demon.history] == [None, 1, 1, 1]

    def test_few_dead_wait_but_not_beyond_the_end(self):
        # Two of four units are 2 * (5 + 1 + 2) of the 34 parameters: 47 %.
        for min_gain, steps in ((0.48, 15), (0.47, 3)):
            seen, demon = widths(
                schedule=ka.schedules.Fixed(0.25, start=0.25), min_gain=min_gain
            )
            assert seen == [4] * steps + [2] * (16 - steps)
            assert demon.retraces == 1
        seen, demon = widths(
            schedule=ka.schedules.Fixed(0.25, start=0.25), min_gain=0.48
        )
        assert (
            "would remove 47.1% of the parameters" in demon.history[0].skipped
        )

    def test_at_the_end_if_the_interval_is_longer(self):
        seen, _ = widths(schedule=ka.schedules.EverySteps(5000))
        assert seen == [4] * 15 + [2]

    def test_when_training_stops_early(self):
        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = True

        model = by_hand()
        fit(model, [DemonPruning(data=RANDOM, **QUIET), Stop()], epochs=9)
        assert model.get_layer("hidden").units == 2

    def test_data_of_unknown_length_and_several_fits(self):
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices((RANDOM, np.zeros((32, 2))))
        stream = rows.batch(4).filter(lambda x, y: True)
        model = by_hand()
        demon = DemonPruning(
            data=RANDOM,
            schedule=ka.schedules.EverySteps(10),
            total_epochs=2,
            start=0.9,
            **QUIET,
        )
        model.fit(stream, epochs=1, verbose=0, callbacks=[demon])
        assert demon.history == []
        model.fit(stream, epochs=1, verbose=0, callbacks=[demon])
        assert [each.steps for each in demon.history] == [10, 16]
        assert model.get_layer("hidden").units == 2


class TestWhoDies:
    def test_by_the_layers_own_statistics(self):
        """And not by what the validation data wake: its inputs are 9."""
        model = by_hand(ka.layers.PrunableDense, track_statistics=True)
        demon = DemonPruning(
            schedule=ka.schedules.Fixed(0.5, start=0.5), **QUIET
        )
        validation = (9 * ONES, np.zeros((32, 2)))
        fit(model, demon, validation_data=validation)
        assert model.get_layer("hidden").units == 2

    def test_a_unit_that_woke_once_stays(self):
        """One sample in 32 wakes it, and all of them are seen."""
        model = by_hand(ka.layers.PrunableDense, track_statistics=True)
        waking = RANDOM.copy()
        waking[7] = 3.0
        fit(
            model,
            DemonPruning(schedule=ka.schedules.Fixed(0.5, start=0.5), **QUIET),
            x=waking,
        )
        assert model.get_layer("hidden").units == 4

    def test_outputs_stay(self):
        model = by_hand()
        before = ops.convert_to_numpy(model(RANDOM))
        fit(
            model,
            DemonPruning(
                data=RANDOM, schedule=ka.schedules.EverySteps(5), **QUIET
            ),
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(model(RANDOM)), before, rtol=1e-5, atol=1e-6
        )

    def test_a_group_keeps_its_least(self):
        model = by_hand()
        fit(model, DemonPruning(data=-9 * ONES, min_units=2, **QUIET))
        assert model.get_layer("hidden").units == 2

    def test_names_limit_it(self):
        model = by_hand()
        demon = DemonPruning(data=RANDOM, exclude=["hidden"], **QUIET)
        with pytest.raises(ValueError, match="no units that can be pruned"):
            fit(model, demon)


def test_the_dead_get_no_noise_and_symmetric_noise_wakes_them():
    found = {}
    for symmetric in (False, True):
        model = by_hand()
        demon = DemonPruning(
            strength=0.0,
            noise_variance=ka.schedules.Constant(0.01),
            schedule=ka.schedules.EverySteps(4),
            dynamic=False,
            symmetric_noise=symmetric,
            data=RANDOM,
            verbose=False,
        )
        kernels = []

        class Watch(keras.callbacks.Callback):
            def __init__(self, kernels):
                super().__init__()
                self.kernels = kernels

            def on_train_batch_end(self, batch, logs=None):
                if hasattr(self.model, "jax_state_sync"):
                    self.model.jax_state_sync()
                kernel = self.model.get_layer("hidden").kernel
                self.kernels.append(np.array(ops.convert_to_numpy(kernel)))

        fit(model, [demon, Watch(kernels)], epochs=1)
        # Judged after step 4; the steps after it are 5, 6 and 7 of 8.
        found[symmetric] = (kernels[6] - kernels[3]).any(0).tolist()
    assert found[False] == [False, False, True, True]
    assert found[True] == [True] * 4


def test_one_trace_for_each_removal():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch traces nothing")
    model = by_hand()
    counting = Counting()
    ka.register_rule(Counting, ka.rules.Elementwise(homogeneous=True))
    wide = keras.Sequential([keras.Input((5,)), counting, *model.layers])
    wide.compile(keras.optimizers.SGD(0.0), "mse")
    counted = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            counted.append(len(traces))

    demon = DemonPruning(
        data=RANDOM, schedule=ka.schedules.EverySteps(5), **QUIET
    )
    fit(wide, [Count(), demon])
    new = np.flatnonzero(np.diff(counted)).tolist()
    # Once, in the sixth step, after the removal; its data pass counts too.
    judged = {5, 10, 15}
    assert demon.retraces == 1
    assert {step + 1 for step in new} <= judged


class TestPressure:
    def dense(self, normalized):
        keras.utils.set_random_seed(0)
        stack = [keras.Input((8, 8, 1)), layers.Flatten()]
        for _ in range(2):
            stack.append(layers.Dense(64))
            stack += [layers.BatchNormalization()] if normalized else []
            stack.append(layers.ReLU())
        stack.append(layers.Dense(10))
        return self.compiled(keras.Sequential(stack))

    def compiled(self, model):
        model.compile(
            keras.optimizers.Adam(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    def train(self, model, digits, epochs=24, **arguments):
        x, y = digits[0].reshape(-1, 8, 8, 1), digits[1]
        arguments = {
            "schedule": ka.schedules.Fixed(0.1, start=0.1),
            "verbose": False,
            **arguments,
        }
        arguments = {"noise_variance": 5e-6, **arguments}
        demon = DemonPruning(data=x[:512], noise_every=4, **arguments)
        history = model.fit(
            x[:1536],
            y[:1536],
            batch_size=64,
            epochs=epochs,
            verbose=0,
            callbacks=[demon],
        ).history
        return history, demon

    def test_more_strength_is_sparser(self, digits):
        found = []
        for strength in (0.0, 0.1):
            model = self.dense(normalized=True)
            history, _ = self.train(
                model,
                digits,
                epochs=8,
                strength=strength,
                schedule=ka.schedules.Fixed(0.5, start=0.5),
            )
            found.append(history["neuron_sparsity"][-1])
        assert found[1] > found[0] + 0.1

    @pytest.mark.parametrize("normalized", [True, False])
    def test_it_ends_at_the_sparsity_that_was_asked_for(
        self, digits, normalized
    ):
        """80 % of the weights within 2 points, on two kinds of models."""
        model = self.dense(normalized)
        whole = model.count_params()
        history, demon = self.train(
            model,
            digits,
            schedule=ka.schedules.Fixed(1 / 12, start=1 / 12),
            strength=3e-3 if normalized else 3e-4,
            target=ka.targets.Parameters(at_most=0.2),
        )
        sparsity = 1 - model.count_params() / whole
        assert sparsity == pytest.approx(0.8, abs=0.02)
        assert history["weight_sparsity"][-1] == pytest.approx(sparsity)
        # It says what it regularizes.
        names = [path.split("/")[-1] for path in demon.regularized]
        expected = ["gamma"] * 2 if normalized else ["kernel", "bias"] * 3
        assert names == expected

    def test_same_seed_same_result(self, digits):
        weights = []
        for _ in range(2):
            model = self.dense(normalized=False)
            self.train(
                model,
                digits,
                epochs=3,
                strength=1e-3,
                schedule=ka.schedules.Fixed(0.3, start=0.3),
            )
            weights.append([ops.convert_to_numpy(w) for w in model.weights])
        for one, other in zip(*weights, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_nothing_of_it_is_left(self, digits, tmp_path):
        model = self.dense(normalized=True)
        _, demon = self.train(
            model,
            digits,
            epochs=2,
            strength=0.01,
            schedule=ka.schedules.Fixed(0.25, start=0.25),
        )
        assert step_hooks.hooks_of(model.optimizer) == []
        assert len(demon.history) == 4
        model.save(tmp_path / "small.keras")
        loaded = keras.saving.load_model(tmp_path / "small.keras")
        assert loaded.count_params() == model.count_params()


def test_it_says_what_it_regularizes(capsys):
    model = by_hand()
    demon = DemonPruning(data=RANDOM, strength=0.1, verbose=True)
    fit(model, demon, epochs=1)
    said = capsys.readouterr().out
    # 5 * 4 + 4 and 4 * 2 + 2 weights.
    assert "l1 penalty on all weights, since the model has no norm" in said
    assert "(34)" in said


def test_overlap():
    """|X ∩ Y| / min(|X|, |Y|) of {0, 1, 2} and {2, 3}: 1 of 2."""
    one, other = np.array([1, 1, 1, 0], bool), np.array([0, 0, 1, 1], bool)
    assert overlap(one, other) == overlap(other, one) == 0.5
    assert overlap(one, np.zeros(4, bool)) is None


def test_units_that_come_back_lower_the_overlap():
    """Two of three units that were dead at first wake: 1 of 1 stays."""
    model = by_hand()

    class Wake(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4:
                if hasattr(self.model, "jax_state_sync"):
                    self.model.jax_state_sync()
                bias = self.model.get_layer("hidden").bias
                bias.assign(np.array([9.0, -9.0, -9.0, 1.0]))
                backend.sync_to_jax(self.model)

    demon = DemonPruning(
        data=RANDOM,
        schedule=ka.schedules.Fixed(0.5, start=0.5),
        dynamic=False,
        **QUIET,
    )
    fit(model, [demon, Wake()], epochs=1)
    # Dead were {0, 1}, then {1, 2}.
    assert [each.overlap for each in demon.history] == [None, 0.5]


def test_evaluation_does_not_count_as_training():
    """Unit 1 is active on the validation data, and on none of the training."""
    waking = RANDOM.copy()
    waking[0] = 99.0
    model = ka.make_prunable(by_hand())
    model.compile(keras.optimizers.SGD(0.0), "mse")
    demon = DemonPruning(schedule=ka.schedules.EverySteps(10), **QUIET)
    fit(model, demon, validation_data=(waking, np.zeros((32, 2))))
    assert model.get_layer("hidden").units == 2
    assert [sum(event.dead.values()) for event in demon.history] == [2, 2]


def test_strength_can_rise_and_stay():
    """λ of `Warmup` is in the logs: half of it after half of the warmup."""
    model = by_hand()
    rising = ka.schedules.Warmup(0.2, warmup=0.5)
    demon = DemonPruning(rising, data=RANDOM, noise_variance=0.0, verbose=0)
    history = fit(model, demon, epochs=4)
    assert history["demon_strength"] == pytest.approx([0.1, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_of_a_broken_fit_is_left(error):
    """A plain `fit` at a learning rate of zero then changes nothing."""

    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise error("planted")

    model = by_hand()
    demon = DemonPruning(
        0.1, noise_variance=ka.schedules.Constant(1e-2), data=RANDOM, verbose=0
    )
    with pytest.raises(error):
        fit(model, [demon, Breaks()])
    before = model.get_weights()
    fit(model, [])
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_error_names_what_keeps_units_alive():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    x = layers.Dense(8, activation="tanh", name="tanh")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.compile("sgd", "mse")
    x = np.zeros((4, 4, 8), "float32")
    with pytest.raises(ValueError, match="has no units that can die"):
        fit(model, DemonPruning(data=x, **QUIET), x=x)


def test_a_model_that_was_shrunk_by_hand_goes_on():
    model = by_hand()
    demon = DemonPruning(
        data=RANDOM, schedule=ka.schedules.EverySteps(4), **QUIET
    )
    fit(model, demon)
    ka.shrink(model, ka.Removal({"hidden": [0]}))
    fit(model, demon)
    assert model.get_layer("hidden").units == 1


def test_dead_units_get_no_noise_before_they_are_removed():
    """From the first step on: a unit without any gradient is dead."""
    model = by_hand()
    before = model.get_layer("hidden").get_weights()
    demon = DemonPruning(
        0.0,
        noise_variance=ka.schedules.Constant(1e-2),
        schedule=ka.schedules.EverySteps(5000),
        dynamic=False,
        data=RANDOM,
        verbose=0,
    )
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            backend.sync_from_jax(self.model)
            seen.append(self.model.get_layer("hidden").get_weights())

    fit(model, [Looks(), demon], epochs=1)
    for kernel, bias in seen[:7]:
        np.testing.assert_array_equal(kernel[:, :2], before[0][:, :2])
        np.testing.assert_array_equal(bias[:2], before[1][:2])
        assert (kernel[:, 2:] != before[0][:, 2:]).all()

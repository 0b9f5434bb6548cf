"""Synaptic stripping in `fit`: what goes, when, and what stays afterwards."""

import csv

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.callbacks import SynapticStripping
from keras_apoptosis.layers import PrunableConv2D, PrunableDense

schedules = ka.schedules

# By hand: five inputs of 1 make the sum of a column, plus the bias.
# Unit 0: -2.5 with its weights; -4 stripped +1.5, so one weight revives it.
# Unit 1: always dead, by its bias. Unit 2: always active.
KERNEL = np.array(
    [
        [-4.0, 1.0, 1.0],
        [-1.0, 2.0, -1.0],
        [0.5, -3.0, 2.0],
        [1.0, -2.0, 0.0],
        [1.0, -1.0, 0.5],
    ],
    "float32",
)
BIAS = np.array([0.0, -99.0, 0.0], "float32")
ONES = np.ones((8, 5), "float32")


def fill(layer, kernel, bias):
    for variable, value in zip(
        layer.trainable_variables, (kernel, bias), strict=True
    ):
        variable.assign(value)


def by_hand(layer=PrunableDense, **arguments):
    """The units above, that an output reads; nothing is learnt."""
    arguments = {"activation": "relu", **arguments}
    if layer is PrunableDense:
        arguments = {"track_statistics": True, **arguments}
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layer(3, name="hidden", **arguments),
            layers.Dense(2, name="out"),
        ]
    )
    fill(model.get_layer("hidden"), KERNEL, BIAS)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def fit(model, callback, epochs=1, x=ONES, x_val=ONES, **arguments):
    callbacks = callback if isinstance(callback, list) else [callback]
    if x_val is not None:
        arguments["validation_data"] = (x_val, np.zeros((len(x_val), 2)))
    return model.fit(
        x,
        np.zeros((len(x), 2)),
        **{"batch_size": 4, "epochs": epochs, "verbose": 0, **arguments},
        callbacks=callbacks,
    ).history


def masked(model, name="hidden"):
    """For each unit the places of the weights that are masked."""
    layer = model.get_layer(name)
    if layer.kernel_mask is None:
        return [[] for _ in range(layer.units)]
    mask = ops.convert_to_numpy(layer.kernel_mask.value)
    return [np.flatnonzero(~column).tolist() for column in mask.T]


def values(variables):
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def network(width=64, dead=24):
    """A network for digits, of whose first layer some units begin dead."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            PrunableDense(
                width, activation="relu", name="one", track_statistics=True
            ),
            PrunableDense(
                width, activation="relu", name="two", track_statistics=True
            ),
            layers.Dense(10, name="logits"),
        ]
    )
    # Pixels are not negative, so units whose weights are lower are dead.
    one = model.get_layer("one")
    kernel = np.array(ops.convert_to_numpy(one.kernel))
    kernel[:, :dead] -= 0.15
    fill(one, kernel, np.zeros(width))
    compiled(model)
    return model


def compiled(model, optimizer="adam"):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def fit_digits(model, digits, callback, epochs=3, **arguments):
    x, y = digits
    callbacks = callback if isinstance(callback, list) else [callback]
    return model.fit(
        x[:512],
        y[:512],
        **{"batch_size": 64, "epochs": epochs, "verbose": 0, **arguments},
        validation_data=(x[512:768], y[512:768]),
        callbacks=callbacks,
    ).history


class TestByHand:
    def test_the_most_negative_weights_of_dead_units_go(self):
        model = by_hand()
        history = fit(model, SynapticStripping(share=0.2), epochs=2)
        # One of 5: -4 revives unit 0. One of 4 more, of unit 1: -2.
        assert masked(model) == [[0], [2, 3], []]
        assert history["dead_units"] == [2, 1]
        kernel = ops.convert_to_numpy(model.get_layer("hidden").kernel)
        expected = KERNEL.copy()
        expected[0, 0] = expected[2, 1] = expected[3, 1] = 0
        np.testing.assert_array_equal(kernel, expected)

    def test_active_parameters(self):
        """3 units of 5 weights and a bias; 2 outputs of 3 and a bias: 26."""
        model = by_hand()
        callback = SynapticStripping(share=0.2)
        history = fit(model, callback, epochs=2)
        # One unit is active: 6 of 18; 2 * 1 + 2 of 8 outgoing.
        # Then two are, one of them with a weight less: 11; 2 * 2 + 2.
        assert history["active_parameters/hidden"] == [6 / 18, 11 / 18]
        assert history["active_parameters"] == [10 / 26, 17 / 26]
        assert history["dead_units/hidden"] == [2, 1]
        assert callback.dead["hidden"].tolist() == [False, True, False]
        assert [event.dead for event in callback.history] == [
            {"hidden": 2},
            {"hidden": 1},
        ]
        stripped = [event.stripped["hidden"] for event in callback.history]
        assert stripped == [2, 1]
        assert [event.epoch for event in callback.history] == [0, 1]

    def test_never_the_last_weight(self):
        model = by_hand()
        fit(model, SynapticStripping(share=0.5), epochs=8)
        assert masked(model)[1] == [0, 2, 3, 4]

    def test_a_threshold_takes_mostly_dead_units_in(self):
        """Unit 2 adds up to 2.5 on each of 8 samples: 20."""
        for threshold, dead in ((19.0, 2), (20.0, 3)):
            history = fit(by_hand(), SynapticStripping(threshold=threshold))
            assert history["dead_units"] == [dead]

    def test_a_share_of_zero_only_counts(self):
        model = by_hand()
        callback = SynapticStripping(share=0)
        history = fit(model, callback, epochs=2)
        assert history["dead_units"] == [2, 2]
        assert model.get_layer("hidden").kernel_mask is None
        assert all(event.skipped for event in callback.history)

    def test_plain_layers_are_counted_on_data(self):
        model = by_hand(layers.Dense)
        callback = SynapticStripping(share=0, data=(ONES, None))
        history = fit(model, callback, x_val=None)
        assert history["dead_units"] == [2]
        assert history["active_parameters"] == [10 / 26]

    def test_a_relu_that_stands_apart(self):
        model = keras.Sequential(
            [
                keras.Input((5,)),
                PrunableDense(3, name="hidden"),
                ka.layers.PrunableActivation("relu", track_statistics=True),
                layers.Dense(2),
            ]
        )
        fill(model.get_layer("hidden"), KERNEL, BIAS)
        model.compile(keras.optimizers.SGD(0.0), "mse")
        fit(model, SynapticStripping(share=0.2), epochs=2)
        assert masked(model) == [[0], [2, 3], []]


class TestWhichData:
    """Unit 0 is dead for ones and active for `WAKES`; unit 2 the reverse."""

    WAKES = -np.ones((8, 5), "float32")

    def dead(self, data, **arguments):
        callback = SynapticStripping(share=0, data=data)
        history = fit(by_hand(), callback, **arguments)
        return history["dead_units"], callback.dead["hidden"].tolist()

    def test_validation_data_alone(self):
        found = self.dead("validation", x=self.WAKES, epochs=2)
        assert found == ([2, 2], [True, True, False])

    def test_training_data_alone(self):
        found = self.dead("training", x=self.WAKES, epochs=2)
        assert found == ([2, 2], [False, True, True])

    def test_training_data_without_validation(self):
        found = self.dead("training", x=self.WAKES, x_val=None, epochs=2)
        assert found == ([2, 2], [False, True, True])

    def test_data_of_its_own(self):
        found = self.dead(self.WAKES, epochs=2)
        assert found == ([2, 2], [False, True, True])

    @pytest.mark.parametrize("data", ["validation", "training", ONES])
    @pytest.mark.parametrize("known", [True, False])
    def test_each_strips_and_training_goes_on_with_it(self, data, known):
        """With data whose length is known, and with a stream."""
        import tensorflow as tf

        stream = tf.data.Dataset.from_tensor_slices((ONES, np.zeros((8, 2))))
        if not known:
            stream = stream.filter(lambda x, y: True)
        model = by_hand()
        model.fit(
            stream.batch(4),
            epochs=3,
            verbose=0,
            validation_data=(
                stream.batch(4) if isinstance(data, str) else None
            ),
            callbacks=[SynapticStripping(0.2, data=data)],
        )
        # Unit 1 goes on to be dead: one of 5, 4 and 3.
        assert masked(model) == [[0], [2, 3, 4], []]

    def test_what_others_run_in_between_does_not_count(self):
        wakes = self.WAKES

        class Other(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.predict(wakes, verbose=0)

            def on_epoch_begin(self, epoch, logs=None):
                self.model.evaluate(wakes, np.zeros((8, 2)), verbose=0)

        callback = SynapticStripping(share=0)
        fit(by_hand(), [Other(), callback], epochs=2)
        assert callback.dead["hidden"].tolist() == [True, True, False]

    def test_evaluating_afterwards_is_no_business_of_it(self):
        model, callback = by_hand(), SynapticStripping(share=0.2)
        fit(model, callback)
        before = masked(model)
        model.evaluate(
            self.WAKES, np.zeros((8, 2)), callbacks=[callback], verbose=0
        )
        assert masked(model) == before
        # 8 samples of validation, and 8 of this.
        assert model.get_layer("hidden").statistics.count == 16


class TestSchedules:
    def masked_after(self, epochs=4, share=0.2, **arguments):
        """How many weights of unit 1, which stays dead, are masked."""
        found = []

        class Watch(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                found.append(len(masked(self.model)[1]))

        callback = SynapticStripping(share, **arguments)
        fit(by_hand(), [callback, Watch()], epochs=epochs)
        return found

    def test_every_epoch(self):
        assert self.masked_after() == [1, 2, 3, 4]

    def test_every_other_epoch(self):
        found = self.masked_after(schedule=schedules.EveryEpoch(2))
        assert found == [0, 1, 1, 2]

    def test_at_epochs_says_how_much(self):
        # 40 % of 5, then 67 % of 3.
        found = self.masked_after(
            schedule=schedules.AtEpochs({2: 0.4, 3: 0.67})
        )
        assert found == [0, 2, 4, 4]

    def test_a_schedule_of_the_share(self):
        # Shares 0.6 and, at the last event, 0: 3 of 5, then none.
        found = self.masked_after(
            2, share=schedules.LinearDegree(first=0.6, last=0.0)
        )
        assert found == [3, 3]

    def test_moments_within_an_epoch_wait_for_its_end(self):
        found = self.masked_after(schedule=schedules.Logarithmic(0.3))
        assert found == [0, 1, 2, 2]  # At 0.3 and 0.6 of 4 epochs.

    def test_a_validation_now_and_then(self):
        history = fit(
            by_hand(),
            SynapticStripping(schedule=schedules.EveryEpoch(2)),
            epochs=4,
            validation_freq=2,
        )
        # Epochs without validation repeat what the last one told.
        dead = history["dead_units"]
        assert np.isnan(dead[0])
        assert dead[1] == dead[2] == 2
        assert len(dead) == 4

    def test_several_calls_of_fit(self):
        model = by_hand()
        callback = SynapticStripping(
            0.2, schedule=schedules.EveryEpoch(2), total_epochs=4
        )
        for expected in (0, 1, 1, 2):
            fit(model, callback, epochs=1)
            assert len(masked(model)[1]) == expected
        assert [event.epoch for event in callback.history] == [1, 3]


def test_units_come_back_to_life(digits):
    """And the network is as good as the plain one that keeps them dead."""
    found = {}
    for share in (0.0, 0.2):
        keras.utils.set_random_seed(0)
        model = network()
        history = fit_digits(model, digits, SynapticStripping(share), epochs=12)
        found[share] = history
    assert found[0.0]["dead_units/one"][0] == found[0.2]["dead_units/one"][0]
    assert found[0.0]["dead_units/one"][-1] > 15
    assert found[0.2]["dead_units/one"][-1] < 5
    for history in found.values():
        assert history["val_accuracy"][-1] > 0.7


def test_only_a_first_mask_is_traced_anew(digits):
    """Later masks of the layer only change values."""
    traces = []

    class Counting(PrunableDense):
        def call(self, inputs, training=None):
            traces.append(training)
            return super().call(inputs, training=training)

    # A subclass has no rule, and so is not stripped: it only counts.
    model = keras.Sequential(
        [
            keras.Input((64,)),
            PrunableDense(
                16, activation="relu", name="one", track_statistics=True
            ),
            Counting(10),
        ]
    )
    model.get_layer("one").bias.assign(np.repeat([-9.0, 0.0], 8))
    compiled(model)
    counts = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(len(traces))

    callback = SynapticStripping()
    fit_digits(model, digits, [callback, Watch()], epochs=4)
    assert sum(event.stripped["one"] for event in callback.history) > 0
    if keras.backend.backend() == "torch":
        assert np.ptp(np.diff(counts)) == 0  # Every step runs as written.
    else:
        assert counts[1] > counts[0]
        assert counts[1:] == [counts[1]] * 3
    # A model that has steps already takes the masks into account.
    model = network()
    fit_digits(model, digits, SynapticStripping(share=0), epochs=1)
    fit_digits(model, digits, SynapticStripping(share=0.5), epochs=3)
    layer = model.get_layer("one")
    stored, mask = values([layer.trainable_variables[0], layer.kernel_mask])
    assert not mask.all()
    assert not stored[~mask].any()


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.optimizers.RMSprop(),
        keras.optimizers.Adam(),
        keras.optimizers.AdamW(),
        keras.optimizers.Adagrad(0.1),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_slots_of_masked_weights_are_cleared(optimizer, digits):
    model = network()
    compiled(model, type(optimizer).from_config(optimizer.get_config()))
    fit_digits(model, digits, SynapticStripping(share=0.3), epochs=2)
    layer = model.get_layer("one")
    kernel, mask = values([layer.trainable_variables[0], layer.kernel_mask])
    assert not mask.all()
    assert not kernel[~mask].any()
    slots = [v for v in model.optimizer.variables if v.shape == (64, 64)]
    of_first_layer = slots[: len(slots) // 2]
    assert of_first_layer
    start = getattr(optimizer, "initial_accumulator_value", 0.0)
    for slot in values(of_first_layer):
        np.testing.assert_array_equal(slot[~mask], np.float32(start))
        assert (slot[mask] != np.float32(start)).any()


def test_a_resumed_training_is_an_uninterrupted_one(digits, tmp_path):
    path = tmp_path / "model.keras"

    def train(model, **arguments):
        callback = SynapticStripping(
            schedules.LinearDegree(0.3, 0.1), schedule=schedules.EveryEpoch(2)
        )
        return fit_digits(
            model, digits, callback, epochs=6, shuffle=False, **arguments
        )

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    whole = network()
    start = whole.get_weights()
    expected = train(whole)

    part = network()
    part.set_weights(start)
    callback = SynapticStripping(
        schedules.LinearDegree(0.3, 0.1), schedule=schedules.EveryEpoch(2)
    )
    fit_digits(part, digits, [callback, Stop()], epochs=6, shuffle=False)
    part.save(path)
    resumed = keras.models.load_model(path)
    mask = ops.convert_to_numpy(resumed.get_layer("one").kernel_mask.value)
    assert not mask.all()
    np.testing.assert_array_equal(
        mask, ops.convert_to_numpy(part.get_layer("one").kernel_mask.value)
    )
    history = train(resumed, initial_epoch=3)
    for name in ("loss", "val_loss", "dead_units", "active_parameters"):
        assert history[name] == expected[name][3:]
    for one, other in zip(
        values([*whole.variables, *whole.optimizer.variables]),
        values([*resumed.variables, *resumed.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_same_seed_gives_the_same(digits):
    found = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        model = network()
        fit_digits(model, digits, SynapticStripping())
        found.append(values(model.variables))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


MEASURES = {
    f"{measure}{layer}"
    for measure in ("dead_units", "active_parameters")
    for layer in ("", "/one", "/two")
}


def test_logs_reach_history_and_csv(digits, tmp_path):
    writer = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit_digits(network(), digits, [SynapticStripping(), writer])
    assert set(history) >= MEASURES
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for name in MEASURES:
        written = [float(row[name]) for row in rows]
        assert written == pytest.approx(history[name])


def test_logs_reach_tensorboard(digits, tmp_path):
    pytest.importorskip("tensorboard")
    writer = keras.callbacks.TensorBoard(tmp_path)
    fit_digits(network(), digits, [SynapticStripping(), writer], epochs=1)
    (board,) = (tmp_path / "train").glob("*.tfevents.*.v2")
    for name in MEASURES:  # Tags stand in the file as they are.
        assert f"epoch_{name}".encode() in board.read_bytes()


def test_dead_units_leave_afterwards(digits):
    x, _ = digits
    model = network()
    history = fit_digits(model, digits, SynapticStripping(share=0.02))
    dead = history["dead_units"][-1]
    assert dead > 0
    expected = model.predict(x[512:768], verbose=0)
    # Judged before the last weights were stripped; so judge again.
    removal = ka.selection.dead_units(model, x[512:768])
    units = sum(len(removal[name]) for name in removal)
    assert 0 < units <= dead
    ka.shrink(model, removal)
    plain = ka.strip_pruning(model)
    assert {type(layer) for layer in plain.layers} == {layers.Dense}
    one, two = (plain.get_layer(name).units for name in ("one", "two"))
    assert one + two == 128 - units
    assert plain.count_params() == 65 * one + (one + 1) * two + (two + 1) * 10
    np.testing.assert_allclose(
        plain.predict(x[512:768], verbose=0), expected, atol=1e-5
    )


def test_layers_and_exclude(digits):
    for arguments in ({"layers": ["two"]}, {"exclude": ["one"]}):
        model = network()
        history = fit_digits(
            model, digits, SynapticStripping(**arguments), epochs=1
        )
        assert "dead_units/two" in history
        assert "dead_units/one" not in history
        assert model.get_layer("one").kernel_mask is None


@pytest.mark.parametrize("convolutions", [False, True])
def test_convolutions_on_request(convolutions):
    """Two filters, one dead; 10 % of 9 weights is 1."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            PrunableConv2D(
                2, 3, activation="relu", name="conv", track_statistics=True
            ),
            layers.Flatten(),
            PrunableDense(
                4, activation="relu", name="hidden", track_statistics=True
            ),
            layers.Dense(2),
        ]
    )
    kernel = ops.convert_to_numpy(model.get_layer("conv").kernel)
    fill(model.get_layer("conv"), kernel, np.array([-99.0, 99.0]))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 1))
    history = fit(
        model, SynapticStripping(convolutions=convolutions), x=x, x_val=x
    )
    mask = model.get_layer("conv").kernel_mask
    if not convolutions:
        assert mask is None
        assert "dead_units/conv" not in history
        return
    assert history["dead_units/conv"] == [1]
    gone = np.argwhere(~ops.convert_to_numpy(mask.value))
    assert gone.tolist() == [
        [*np.unravel_index(kernel[..., 0].argmin(), (3, 3, 1)), 0]
    ]


def test_with_apoptosis_in_the_same_fit(digits):
    x, _ = digits
    model = network()
    removing = ka.callbacks.NeuronApoptosis(
        data=x[:256], schedule=schedules.HalfLife()
    )
    history = fit_digits(
        model, digits, [removing, SynapticStripping()], epochs=4
    )
    width = model.get_layer("one").units
    assert width < 64
    assert model.get_layer("one").kernel_mask.shape == (64, width)
    assert history["dead_units/one"][-1] < width
    assert np.isfinite(history["loss"]).all()


def test_mixed_precision():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="bfloat16"),
            PrunableDense(
                3,
                activation="relu",
                name="hidden",
                track_statistics=True,
                dtype="bfloat16",
            ),
            layers.Dense(2, dtype="bfloat16"),
        ]
    )
    fill(model.get_layer("hidden"), KERNEL, BIAS)
    model.compile(keras.optimizers.SGD(0.0, momentum=0.5), "mse")
    fit(model, SynapticStripping(share=0.2), epochs=2)
    assert masked(model) == [[0], [2, 3], []]

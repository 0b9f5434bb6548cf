"""A limit on the price of events: kept, spent, halved, and undone."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from tests.cases import RUN_EAGERLY

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X @ RNG.normal(size=(6, 3))).argmax(1)
HALF = ka.schedules.OneShot(0.5, at=0.5)
AT_HALF = ka.schedules.Fixed(0.5, start=0.5)

METHODS = {
    "apoptosis": lambda **options: ka.callbacks.NeuronApoptosis(
        tolerance=0.5, schedule=AT_HALF, data=X, **options
    ),
    "merging": lambda **options: ka.callbacks.NeuronApoptosis(
        metric="weights", factor=1.05, schedule=AT_HALF, min_gain=0, **options
    ),
    "units": lambda **options: ka.callbacks.SaliencyPruning(
        "l1_norm", schedule=HALF, data=(X, Y), **options
    ),
    "weights": lambda **options: ka.callbacks.SaliencyPruning(
        "magnitude", granularity="weights", schedule=HALF, **options
    ),
    "stripping": lambda **options: ka.callbacks.SynapticStripping(
        0.9, data=X, schedule=AT_HALF, threshold=1e3, **options
    ),
    "demon": lambda **options: ka.callbacks.DemonPruning(
        1e-9,
        noise_variance=0,
        schedule=AT_HALF,
        data=X,
        threshold=1e3,
        **options,
    ),
}


class Priced(ka.Limit):
    """A limit whose metric is a function of the model."""

    def __init__(self, price, worse_by):
        super().__init__("loss", worse_by, data=(X, Y))
        object.__setattr__(self, "price", price)

    def measure(self, model):
        return self.price(model)


def remaining(model):
    """The share of the weights that was removed or masked."""
    whole = 6 * 24 + 24 + 24 * 3 + 3
    masked = sum(
        int((1 - ops.convert_to_numpy(layer.kernel_mask)).sum())
        for layer in model.layers
        if getattr(layer, "kernel_mask", None) is not None
    )
    return 1 - (ka.accounting.parameters(model) - masked) / whole


def train(callbacks, epochs=4):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            ka.layers.PrunableDense(24, activation="relu", name="hidden"),
            ka.layers.PrunableDense(3, name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=RUN_EAGERLY,
    )
    keras.utils.set_random_seed(1)
    model.fit(
        X, Y, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks
    )
    state = [*model.weights, *model.optimizer.variables]
    return model, [np.array(ops.convert_to_numpy(each)) for each in state]


@pytest.mark.parametrize("method", METHODS)
def test_what_nothing_is_allowed_of_trains_as_if_there_were_no_event(method):
    # Every measurement is worse than the one before it.
    steps = iter(range(100))
    callback = METHODS[method](limit=Priced(lambda _: next(steps), 0.5))
    model, state = train([callback])
    events = [event for event in callback.history if event.attempts]
    assert events
    for event in events:
        assert "worse than the limit allows" in event.skipped
        assert event.parameters[0] == event.parameters[1]
        assert not any(each.kept for each in event.attempts)
    if method == "demon":  # Its penalty changes the training.
        assert model.layers[0].units == 24
        return
    plain, expected = train([])
    del plain
    for one, other in zip(state, expected, strict=False):
        np.testing.assert_array_equal(one, other)


# Of 24 units in 6 dimensions none are as parallel as half the tolerance asks.
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"merging"}))
def test_half_of_it_is_tried_and_half_again(method):
    free = METHODS[method]()
    model, _ = train([free])
    wanted = remaining(model)
    assert wanted > 0.1
    limit = Priced(remaining, wanted / 3)
    callback = METHODS[method](limit=limit)
    model, _ = train([callback])
    spent = remaining(model)
    assert 0 < spent <= wanted / 3
    assert callback._spent == pytest.approx(spent)
    (event, *_) = callback.history
    shares = [each.share for each in event.attempts]
    assert shares == [0.5**n for n in range(len(shares))]
    assert [each.kept for each in event.attempts][:-1] == [False] * (
        len(shares) - 1
    )
    assert len(shares) > 1
    assert event.attempts[-1].kept


def test_half_the_tolerance_of_merging_is_twice_the_factor(monkeypatch):
    callback = METHODS["merging"]()
    asked = []
    monkeypatch.setattr(
        callback, "prune", lambda _, amount: asked.append(amount)
    )
    callback.prune_less(None, 1.5, 0.25)
    assert asked == [6.0]


def test_half_of_a_reconstruction_is_half_its_tolerance(monkeypatch):
    callback = METHODS["apoptosis"]()
    asked = []
    monkeypatch.setattr(
        callback, "prune", lambda _, amount: asked.append(amount)
    )
    callback.prune_less(None, 0.2, 0.25)
    assert asked == [pytest.approx(0.05)]


def test_what_events_cost_adds_up():
    callback = ka.callbacks.SaliencyPruning(
        "l1_norm",
        schedule=ka.schedules.AtEpochs({1: 0.25, 2: 0.5, 3: 0.75}),
        data=(X, Y),
        limit=Priced(lambda model: 24 - model.layers[0].units, 15),
    )
    model, _ = train([callback])
    # 6 and 6 are spent; of the 6 that follow half fits.
    assert model.layers[0].units == 24 - 6 - 6 - 3
    found = [
        [(each.share, each.kept) for each in event.attempts]
        for event in callback.history
    ]
    assert found == [
        [(1.0, True)],
        [(1.0, True)],
        [(1.0, False), (0.5, True)],
    ]
    again = ka.callbacks.SaliencyPruning(
        "l1_norm",
        schedule=ka.schedules.AtEpochs({1: 0.25, 2: 0.5, 3: 0.75}),
        data=(X, Y),
    )
    again.set_state(callback.get_state())
    assert again.history == callback.history
    assert again._spent == 15


def test_what_makes_units_die_rests_while_it_costs_too_much():
    """Nothing dies here: what the penalty costs is seen between events."""
    losses = iter([1.0, 2.0, 1.4, 1.6, 0.5])
    callback = ka.callbacks.DemonPruning(
        ka.schedules.Constant(0.01),
        schedule=ka.schedules.EveryEpoch(),
        data=X,
        threshold=0,
        limit=Priced(lambda _: next(losses), 0.5),
    )
    model, _ = train([callback], epochs=5)
    assert model.layers[0].units == 24
    logs = model.history.history["demon_strength"]
    assert logs == pytest.approx([0.01, 0, 0.005, 0, 0.0025])
    notes = [" ".join(event.notes) for event in callback.history]
    assert [("rest" in note) for note in notes] == [
        False,
        True,
        False,
        True,
        False,
    ]
    again = ka.callbacks.DemonPruning(data=X)
    again.set_state(callback.get_state())
    assert again.amount_at(0, 0.5) == callback._factor * again._strength(0.5)


def normalized():
    """Its moving statistics stay at 0 and 1, unless they are computed anew."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, name="hidden"),
            keras.layers.BatchNormalization(momentum=1.0, name="norm"),
            keras.layers.ReLU(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def units_and_staleness(model):
    mean = ops.convert_to_numpy(model.get_layer("norm").moving_mean)
    return 24 - model.get_layer("hidden").units + 100 * (not mean.any())


@pytest.mark.parametrize("call", ["prune", "fit"])
def test_what_new_moving_statistics_win_back_is_no_price(call):
    """Half of the units is 12, and a sixteenth still 1."""
    model, limit = normalized(), Priced(units_and_staleness, 0.5)
    if call == "fit":
        callback = METHODS["units"](limit=limit)
        model.fit(X, Y, epochs=4, verbose=0, callbacks=[callback])
        (event,) = callback.history
        assert event.attempts
        assert event.skipped
    else:
        report = ka.prune(model, ka.targets.Units(0.5), X, limit=limit)
        assert report.metric_before == 0
        assert not report.met
    assert units_and_staleness(model) == 100  # As if nothing had happened.


def test_a_real_limit_is_kept():
    limit = ka.Limit("accuracy", 0.02, data=(X[:48], Y[:48]))
    callback = METHODS["units"](limit=limit)
    train([callback])
    (event,) = callback.history
    assert event.attempts[-1].kept == (not event.skipped)
    assert "the limit's metric is" in str(event) or event.skipped


def test_a_limit_serializes_without_its_data():
    limit = ka.Limit("val_accuracy", 0.01, data=(X, Y), batch_size=7)
    callback = METHODS["merging"](limit=limit)
    again = type(callback).from_config(callback.get_config())
    assert again.limit.get_config() == limit.get_config()
    with pytest.raises(ValueError, match="made from a config"):
        train([again])
    again.limit = limit
    train([again])


def test_only_limits_are_limits():
    assert len(repr(ka.Limit("loss", 1.0, data=(X, Y)))) < 120  # No data.
    with pytest.raises(ValueError, match=r"`limit` to be a `ka.Limit`"):
        METHODS["units"](limit=0.01)
    limit = ka.Limit("auc", 0.01, data=(X, Y))
    with pytest.raises(ValueError, match="one of the model's metrics"):
        train([METHODS["units"](limit=limit)])

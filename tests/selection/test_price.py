"""A limit on the price: measured without a trace, undone to the last bit."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_apoptosis as ka
from tests.surgery.test_training import At


def model_and_data(seed=0):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(128, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 3))).argmax(1)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, activation="relu", name="one"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(16, activation="relu", name="two"),
            keras.layers.Dense(3, activation="softmax", name="probabilities"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model, x, y


def fit(model, x, y, **arguments):
    keras.utils.set_random_seed(7)
    return model.fit(
        x, y, batch_size=32, verbose=0, shuffle=False, **arguments
    ).history


def state_of(model):
    return [
        np.array(ops.convert_to_numpy(v))
        for v in (*model.variables, *model.optimizer.variables)
    ]


def test_measures_what_evaluate_returns():
    model, x, y = model_and_data()
    fit(model, x, y)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    for name, value in expected.items():
        limit = ka.Limit(f"val_{name}", 0.01, (x, y))
        assert limit.measure(model) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("batch", [1, None])
def test_measuring_within_fit_leaves_no_trace(batch):
    found = []
    for measure in (False, True):
        model, x, y = model_and_data()
        limit = ka.Limit("accuracy", 0.01, (x[:50], y[:50]))
        callbacks = [At(limit.measure, 0, batch)] if measure else []
        history = fit(model, x, y, epochs=2, callbacks=callbacks)
        found.append((history, state_of(model)))
    assert found[0][0] == found[1][0]
    for one, other in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_worse_in_both_directions():
    data = np.ones((2, 2)), np.ones(2)
    up, down = ka.Limit("accuracy", 0.5, data), ka.Limit("loss", 0.5, data)
    assert up.worse(0.9, 0.7) == pytest.approx(0.2)
    assert down.worse(0.9, 0.7) == pytest.approx(-0.2)
    assert up.allows(0.9, 0.4)
    assert not up.allows(0.9, 0.3)
    assert not down.allows(0.1, float("nan"))


def test_what_cannot_be_judged_is_an_error():
    data = np.ones((2, 2)), np.ones(2)
    with pytest.raises(ValueError, match="Expected `mode`"):
        ka.Limit("mine", 0.1, data)
    assert ka.Limit("mine", 0.1, data, mode="max").mode == "max"
    with pytest.raises(ValueError, match="Received: data=None"):
        ka.Limit("loss", 0.1, None)
    with pytest.raises(ValueError, match="Received: worse_by=-1"):
        ka.Limit("loss", -1, data)
    model, x, y = model_and_data()
    with pytest.raises(ValueError, match="one of the model's metrics: acc"):
        ka.Limit("auc", 0.1, (x, y)).measure(model)


def test_beyond_the_limit_all_is_undone_to_the_last_bit():
    model, x, y = model_and_data()
    fit(model, x, y, epochs=5)
    before, config = state_of(model), model.get_config()
    limit = ka.Limit("loss", worse_by=0.0, data=(x, y), attempts=3)
    report = ka.prune(
        model,
        ka.targets.Parameters(0.1),
        x,
        criterion="random",
        replacement="zero",
        limit=limit,
    )
    assert [each.share for each in report.attempts] == [1, 0.5, 0.25]
    assert not any(each.kept for each in report.attempts)
    assert not report.met
    assert report.parameters_after == report.parameters_before
    assert model.get_config() == config
    for one, other in zip(state_of(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_half_as_much_where_that_is_within_the_limit():
    model, x, y = model_and_data()
    fit(model, x, y, epochs=20)
    limit = ka.Limit("accuracy", worse_by=0.03, data=(x, y))
    report = ka.prune(model, ka.targets.Parameters(0.05), (x, y), limit=limit)
    *undone, kept = report.attempts
    assert undone
    assert kept.kept
    assert kept.value >= report.metric_before - 0.03 - 1e-6
    assert limit.measure(model) == pytest.approx(kept.value)
    # Half of the way from all to 5 %, and so on.
    share = 1 - 0.95 * kept.share
    (result,) = report.targets
    assert 0.9 * share < result.after / result.before <= share


def test_what_was_spent_counts_in_later_steps():
    model, x, y = model_and_data()
    fit(model, x, y, epochs=20)
    limit = ka.Limit("loss", worse_by=0.05, data=(x, y))
    report = ka.prune(
        model, ka.targets.Parameters(0.05), (x, y), limit=limit, steps=4
    )
    for each in report.attempts:
        assert each.kept == (each.value <= report.metric_before + 0.05 + 1e-6)
    assert limit.measure(model) <= report.metric_before + 0.05 + 1e-6
    fit(model, x, y)

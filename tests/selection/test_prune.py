"""One call: targets are met closely, and the model goes on as it was."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka
from keras_apoptosis.accounting.costs import widths_of
from keras_apoptosis.graph import analyse
from tests.architectures import randomize, sample
from tests.cases import combinations
from tests.random_architectures import generate
from tests.surgery.test_training import data_for


def wide_mlp():
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(192, activation="relu"),
            layers.Dense(128, activation="gelu"),
            layers.Dense(3),
        ]
    )


def wide_cnn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            layers.Conv2D(24, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(40, activation="relu"),
            layers.Dense(3),
        ]
    )


def wide_residual():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    for _ in range(2):
        y = layers.Conv2D(64, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(48, 3, padding="same")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


MODELS = {"mlp": wide_mlp, "cnn": wide_cnn, "residual": wide_residual}
COUNTS = {
    "Parameters": ka.accounting.parameters,
    "Flops": ka.flops,
}


@pytest.mark.parametrize(
    ("kind", "name", "criterion"),
    combinations(
        COUNTS,
        MODELS,
        ["reconstruction", "mean_replacement_saliency", "squared_norm"],
    ),
)
def test_targets_are_met_within_two_percent(kind, name, criterion):
    model = randomize(MODELS[name](), seed=1)
    model.compile("adam", "mse")
    data = data_for(model, 48)
    target = getattr(ka.targets, kind)(at_most=0.4)
    wanted = 0.4 * COUNTS[kind](model)
    report = ka.prune(model, target, data, criterion=criterion)
    assert report.met
    assert 0.98 * wanted <= COUNTS[kind](model) <= wanted
    assert report.targets[0].after == COUNTS[kind](model)
    assert str(report.parameters_after) in str(report).replace(",", "")


@pytest.mark.parametrize("seed", range(4))
def test_of_random_models_no_unit_more_would_do(seed):
    """Whatever the model: a target is met, within a unit of each group."""
    model = generate(900 + seed)
    rng = np.random.default_rng(seed)
    kind = ka.targets.Parameters if seed % 2 else ka.targets.Flops
    target = kind(at_most=float(rng.uniform(0.6, 0.9)))
    limit = target.limit(target.measure(model))
    before = {group.name: group.size for group in ka.unit_groups(model)}
    criterion = ("squared_norm", "random", all_alike)[seed % 3]
    report = ka.prune(model, target, criterion=criterion)
    assert report.met
    assert target.measure(model) <= limit
    analysis = analyse(model)
    cost, widths = target.cost(analysis), widths_of(analysis)
    narrower = [
        number
        for number, group in enumerate(analysis.groups)
        if group.size < before[group.name]
    ]
    assert narrower
    for number in narrower:
        wider = widths + (np.arange(widths.size) == number)
        assert cost(wider) > limit


def test_keeps_compile_and_optimizer():
    model = randomize(wide_cnn(), seed=1)
    model.compile("adam", "mse", metrics=["mae"])
    x, y = data_for(model, 32)
    model.fit(x, y, batch_size=8, verbose=0)
    optimizer, steps = model.optimizer, int(model.optimizer.iterations)
    ka.prune(model, ka.targets.Flops(0.5), x)
    assert model.optimizer is optimizer
    assert int(model.optimizer.iterations) == steps
    assert len(model.evaluate(x, y, verbose=0)) == 2
    model.fit(x, y, batch_size=8, verbose=0)


def test_several_targets_are_all_met():
    model = randomize(wide_cnn(), seed=1)
    x = sample(model, 32)
    flops, parameters = ka.flops(model), ka.accounting.parameters(model)
    report = ka.prune(
        model, [ka.targets.Flops(0.5), ka.targets.Parameters(0.3)], x
    )
    assert report.met
    assert ka.flops(model) <= 0.5 * flops
    assert ka.accounting.parameters(model) <= 0.3 * parameters


def all_alike(model, data=None):
    """Every unit matters as much as any other of its group."""
    return {
        group.name: np.full(group.size, 1 / group.size)
        for group in ka.unit_groups(model)
        if group.removable
    }


class Clockwork(ka.targets.Latency):
    """A machine that takes a second, and one for each 1,000 FLOPs."""

    def measure(self, model):
        assert not model.jit_compile
        return 1 + ka.flops(model) / 1000


def test_a_measured_target_is_met_closely():
    model = randomize(wide_cnn(), seed=1)
    model.compile("adam", "mse", jit_compile=False)  # As copies must be.
    target = Clockwork(at_most=0.5)
    wanted = 0.5 * target.measure(model)
    report = ka.prune(model, target, sample(model, 32))
    assert report.met
    assert 0.9 * wanted < target.measure(model) <= wanted


def test_a_latency_out_of_reach_is_an_error():
    model = randomize(wide_cnn(), seed=1)
    model.jit_compile = False
    # One unit each: 2 x (18 x 100 + 9 x 9 + 9 + 3) FLOPs.
    with pytest.raises(ValueError, match=r"as it may be it is 4\.79 s"):
        ka.prune(model, Clockwork(at_most="900 ms"), sample(model, 32))


def test_a_latency_that_turns_out_longer_is_told():
    class Slowing(Clockwork):
        def measure(self, model):
            return super().measure(model) * (1.2 if model is pruned else 1)

    model = randomize(wide_mlp(), seed=1)
    model.jit_compile = False
    target = Slowing(at_most=0.5)
    pruned = model
    with pytest.warns(UserWarning, match="missed its target: slowing"):
        report = ka.prune(model, target, criterion="squared_norm")
    assert not report.met
    assert "%" in str(report)


def test_costs_steer_the_choice():
    """FLOPs go where feature maps are large, parameters where dense layers."""
    kept = {}
    for kind in ("Flops", "Parameters"):
        model = randomize(wide_cnn(), seed=1)
        target = getattr(ka.targets, kind)(0.2)
        ka.prune(model, target, criterion=all_alike, replacement="zero")
        kept[kind] = [
            group.size for group in ka.unit_groups(model) if group.removable
        ]
    first, *_, last = range(3)
    assert kept["Flops"][last] > kept["Parameters"][last]
    assert kept["Flops"][first] < kept["Parameters"][first]


def test_a_residual_stream_counts_as_often_as_it_is_read():
    """With equal scores, it is left about as wide as what is inside."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="s")(x)
    for number in range(4):
        y = layers.Conv2D(
            32, 3, padding="same", activation="relu", name=f"inside{number}"
        )(x)
        y = layers.Conv2D(32, 3, padding="same")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    target = ka.targets.Flops(at_most=0.25)
    ka.prune(model, target, criterion=all_alike, replacement="zero")
    sizes = {group.name: group.size for group in ka.unit_groups(model)}
    assert 12 <= sizes["s"] <= 20, sizes
    for number in range(4):
        assert 12 <= sizes[f"inside{number}"] <= 20, sizes


def test_steps_with_fine_tuning_end_where_one_step_does():
    model = randomize(wide_mlp(), seed=1)
    model.compile("adam", "mse")
    x, y = data_for(model, 32)
    whole, seen = ka.accounting.parameters(model), []

    def fine_tune(model):
        seen.append(ka.accounting.parameters(model) / whole)
        model.fit(x, y, verbose=0)

    report = ka.prune(
        model, ka.targets.Parameters(0.25), x, steps=2, fine_tune=fine_tune
    )
    assert report.met
    assert seen == pytest.approx([0.5, 0.25], abs=0.02)
    ka.prune(
        model,
        ka.targets.Parameters(0.5),
        x,
        fine_tune={"x": x, "y": y, "verbose": 0},
    )


def test_least_squares_for_the_choice_of_any_criterion():
    """The same units, but the kept ones stand in for them: less is lost."""
    lost = {}
    for replacement in ("least_squares", "zero"):
        model = randomize(wide_mlp(), seed=1)
        x = sample(model, 512)
        before = model.predict(x, verbose=0)
        ka.prune(
            model,
            ka.targets.Units(0.6),
            x,
            criterion="squared_norm",
            replacement=replacement,
        )
        lost[replacement] = np.mean((model.predict(x, verbose=0) - before) ** 2)
    assert lost["least_squares"] < 0.5 * lost["zero"]


def test_means_are_those_of_what_groups_before_have_become():
    """By hand, at ±1: relu(a − b) is 0 and 1; with b at its mean 0 and 0.5."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(2, activation="relu", name="one"),
            layers.Dense(2, activation="relu", name="two"),
            layers.Dense(1),
        ]
    )
    model.set_weights(
        [
            np.array([[1.0, -1.0]]),
            np.zeros(2),
            np.array([[1.0, 1.0], [-1.0, 0.0]]),
            np.zeros(2),
            np.array([[1.0], [0.0]]),
            np.zeros(1),
        ]
    )
    x = np.array([[-1.0], [1.0]], "float32")
    ka.prune(
        model,
        ka.targets.Units(2),
        x,
        criterion=lambda model, data=None: {
            "one": np.array([1.0, 0.0]),
            "two": np.array([0.0, 1.0]),
        },
        replacement="mean",
    )
    np.testing.assert_allclose(model.predict(x, verbose=0), 0.25, rtol=1e-6)


def test_by_default_units_inside_layers_go_without_a_combination():
    def model():
        x = inputs = keras.Input((4, 8))
        x = layers.MultiHeadAttention(4, 4, name="attention")(x, x)
        return randomize(keras.Model(inputs, x), seed=1)

    small, x = model(), sample(model(), 32)
    ka.prune(small, ka.targets.Units(0.5), x, criterion="squared_norm")
    assert small.count_params() < model().count_params()
    with pytest.raises(ValueError, match="activations cannot be measured"):
        ka.prune(model(), ka.targets.Units(0.5), x)


def test_the_choice_of_reconstruction_with_any_replacement():
    kept = []
    for replacement in ("least_squares", "zero"):
        model = randomize(wide_mlp(), seed=1)
        ka.prune(
            model,
            ka.targets.Units(0.6),
            sample(model, 64),
            replacement=replacement,
        )
        kept.append([group.size for group in ka.unit_groups(model)])
    assert kept[0] == kept[1]


def test_recalibrates_normalizations():
    model = randomize(wide_cnn(), seed=1)
    x = sample(model, 32)
    ka.prune(model, ka.targets.Parameters(0.5), x)
    values = [
        np.array(ops.convert_to_numpy(v)) for v in model.non_trainable_variables
    ]
    ka.recalibrate(model, x)
    for value, variable in zip(
        values, model.non_trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(value, ops.convert_to_numpy(variable))


def test_a_criterion_of_ones_own():
    def first_units(model, data=None):
        return {
            group.name: -np.arange(group.size)
            for group in ka.unit_groups(model)
            if group.removable
        }

    model = randomize(wide_mlp(), seed=1)
    ka.prune(model, ka.targets.Units(80), criterion=first_units)
    assert sum(g.size for g in ka.unit_groups(model) if g.removable) == 80


def test_rounds_and_leaves_alone():
    model = randomize(wide_mlp(), seed=1)
    x = sample(model, 32)
    first, second, _ = (group.name for group in ka.unit_groups(model))
    ka.prune(model, ka.targets.Units(0.7), x, round_to=8, exclude=second)
    sizes = {group.name: group.size for group in ka.unit_groups(model)}
    assert sizes[second] == 128
    assert sizes[first] == 96


def test_works_within_fit():
    model = randomize(wide_mlp(), seed=1)
    model.compile("adam", "mse")
    x, y = data_for(model, 32)
    prune = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            ka.prune(model, ka.targets.Parameters(0.5), x)
            if batch == 1
            else None
        )
    )
    whole = model.count_params()
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[prune])
    assert model.count_params() <= 0.5 * whole


def state_of(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.5}, "Received: target=0.5"),
        ({"target": ka.targets.Parameters(2)}, "cannot be reached"),
        ({"data": None}, "Received: data=None"),
        ({"criterion": "none"}, "Expected a criterion of units"),
        ({"criterion": "cropit"}, "labels"),
        ({"replacement": "one"}, "`replacement`"),
        ({"steps": 0}, "`steps`"),
        ({"layers": "none"}, "Expected a name"),
        ({"limit": 0.5}, "a `ka.Limit` or None"),
    ],
)
def test_errors_come_before_anything_changes(arguments, message):
    model = randomize(wide_mlp(), seed=1)
    model.compile("adam", "mse")
    before = state_of(model)
    given = {
        "target": ka.targets.Parameters(0.5),
        "data": sample(model, 32),
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        ka.prune(model, **given)
    for one, other in zip(state_of(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_prunable_units_says_why():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="the model returns them"):
        ka.prune(model, ka.targets.Parameters(0.5), np.ones((8, 4)))

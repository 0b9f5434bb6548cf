"""Checks that bad input raises a clear error and changes nothing."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_apoptosis as ka


def network(outputs=2):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="relu", name="one"),
            layers.Dense(outputs, name="out"),
        ]
    )
    model.compile("adam", "mse")
    return model


def fit(callback, model=None, prepare=None):
    model = model or network()
    if prepare is not None:
        prepare(model)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model.fit(x, x[:, :2], epochs=4, verbose=0, callbacks=[callback()])


def poisoned(model):
    kernel = np.array(model.get_layer("one").get_weights()[0])
    kernel[0, 0] = np.nan
    model.get_layer("one").kernel.assign(kernel)


def unbuilt():
    return keras.Sequential([layers.Dense(4), layers.Dense(2)])


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def bent():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, activation="tanh", name="one"),
            layers.Dense(2, name="out"),
        ]
    )
    return _compiled(model)


def only_frozen():
    return keras.Sequential([keras.Input((3,)), layers.Dense(2, name="out")])


X = np.zeros((16, 3), "float32")
ONE = ka.Removal({"one": [0]})
NEURONS = ka.callbacks.NeuronApoptosis
STRIPPING = ka.callbacks.SynapticStripping
APOPTOSIS = ka.callbacks.NeuronApoptosis
HALF = ka.targets.Parameters(at_most=0.5)
SALIENCY = ka.callbacks.SaliencyPruning
MONITOR = ka.callbacks.UnitMonitor
LABELLED = X, np.zeros((16, 2), "float32")
DEMON = ka.callbacks.DemonPruning


def prunable(track=True, **arguments):
    model = network()
    for name, value in arguments.items():
        setattr(model.get_layer("one"), name, value)
    return _compiled(ka.make_prunable(model, track_statistics=track))


def quantized():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            ka.layers.PrunableDense(
                4, "relu", name="one", dtype="int8_from_float32"
            ),
            layers.Dense(2, name="out"),
        ]
    )
    return _compiled(model)


def distributed(optimizer=None, **options):
    optimizer = optimizer or keras.optimizers.SGD()
    return ka.distributed.DistributedOptimizer(optimizer, **options)


def restored(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.keras"
        model.save(path)
        ka.callbacks.Checkpoint(path).restore()


def restored_with_others(model):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.keras"
        fit(lambda: ka.callbacks.Checkpoint(path), model)
        ka.callbacks.Checkpoint(path, [NEURONS(data=X)]).restore()


# What was tried: (what is done with a model, part of the error's text).
TABLE = {
    "unknown group": (
        lambda m: ka.shrink(m, ka.Removal({"two": [0]})),
        "no unit group 'two'. Its groups: one, out",
    ),
    "output layer": (
        lambda m: ka.shrink(m, ka.Removal({"out": [0]})),
        "'out' cannot be removed: the model returns them",
    ),
    "index out of range": (
        lambda m: ka.shrink(m, ka.Removal({"one": [4]})),
        "has 4 units. Received: an index of 4",
    ),
    "negative index": (
        lambda m: ka.shrink(m, ka.Removal({"one": [-1]})),
        "to count from 0. Received: [-1]",
    ),
    "index twice": (
        lambda m: ka.shrink(m, ka.Removal({"one": [1, 1]})),
        "every removed unit of group 'one' once. Received: [1, 1]",
    ),
    "no integers": (
        lambda m: ka.shrink(m, ka.Removal({"one": [0.5]})),
        "as a list of integers. Received: [0.5]",
    ),
    "mask for indices": (
        lambda m: ka.shrink(m, ka.Removal({"one": [True, False]})),
        "as a list of integers",
    ),
    "all units": (
        lambda m: ka.shrink(m, ka.Removal({"one": range(4)})),
        "would be left without units",
    ),
    "list for a removal": (
        lambda m: ka.shrink(m, [0, 1]),
        "Expected a `ka.Removal`. Received: removal=[0, 1]",
    ),
    "list in a removal": (
        lambda m: ka.Removal([0, 1]),
        "a dictionary from group names to indices. Received: removed=[0, 1]",
    ),
    "mixing of a wrong shape": (
        lambda m: ka.shrink(
            m,
            ka.Removal(
                {"one": [0]}, {"one": ka.Replacement(mixing=[[1.0, 2.0]])}
            ),
        ),
        "`mixing` of group 'one' to have shape (1, 3). Received: shape (1, 2)",
    ),
    "constants of a wrong number": (
        lambda m: ka.Removal({"one": [0]}, {"one": ka.Replacement([1.0, 2.0])}),
        "1 rows, one for each removed unit. Received: constant of shape (2,)",
    ),
    "a list of replacements": (
        lambda m: ka.Removal({"one": [0]}, [ka.Replacement([1.0])]),
        "`replacements` to be a dictionary from group names to",
    ),
    "a list as a replacement": (
        lambda m: ka.Removal({"one": [0]}, {"one": [1.0]}),
        "Expected a `ka.Replacement` for group 'one'. Received: [1.0]",
    ),
    "a complex constant": (
        lambda m: ka.Removal({"one": [0]}, {"one": ka.Replacement([1j])}),
        "`constant` of group 'one' to be an array of real numbers. Received",
    ),
    "a complex array": (
        lambda m: ka.Removal(
            {"one": [0]}, {"one": ka.Replacement(np.array([1j]))}
        ),
        "array of real numbers. Received: constant=array([0.+1.j])",
    ),
    "words instead of numbers": (
        lambda m: ka.Removal({"one": [0]}, {"one": ka.Replacement(["a"])}),
        "array of real numbers. Received: constant=['a']",
    ),
    "a single number": (
        lambda m: ka.Removal({"one": [0]}, {"one": ka.Replacement(1.0)}),
        "array of real numbers. Received: constant=1.0",
    ),
    "a constant beyond float32": (
        lambda m: ka.shrink(
            m, ka.Removal({"one": [0]}, {"one": ka.Replacement([1e300])})
        ),
        "beyond float32",
    ),
    "combinations beyond float32": (
        lambda m: ka.shrink(
            m,
            ka.Removal(
                {"one": [0]}, {"one": ka.Replacement(mixing=[[1e300, 0, 0]])}
            ),
        ),
        "as large as",
    ),
    "replacement that is not finite": (
        lambda m: ka.Removal({"one": [0]}, {"one": ka.Replacement([np.nan])}),
        "`constant` of group 'one' to be finite. Received",
    ),
    "replacement of nothing": (
        lambda m: ka.Removal({}, {"one": ka.Replacement([1.0])}),
        "group 'one', from which nothing is removed",
    ),
    "replacement at an unknown point": (
        lambda m: ka.shrink(
            m, ka.Removal({"one": [0]}, {"one": {"out": ka.Replacement()}})
        ),
        "is not observed at 'out' but at: one",
    ),
    "unbuilt model": (
        lambda m: ka.shrink(unbuilt(), ONE),
        "Build it first",
    ),
    "subclassed model": (
        lambda m: ka.unit_groups(Subclassed()),
        "Only Sequential and Functional models record their graph",
    ),
    "no model": (
        lambda m: ka.rebuild("model", ONE),
        "Expected a `keras.Model`. Received: model=model",
    ),
    "not an optimizer": (
        lambda m: ka.distributed.DistributedOptimizer("sgd"),
        "Expected `optimizer` to be a Keras optimizer. Received: optimizer=sgd",
    ),
    "unknown compression": (
        lambda m: distributed(compression="zip"),
        "to be 'none' or 'fp16'. Received: compression='zip'",
    ),
    "no backward pass": (
        lambda m: distributed(backward_passes_per_step=0),
        "of at least 1. Received: backward_passes_per_step=0",
    ),
    "passes of an optimizer that scales the loss": (
        lambda m: distributed(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            backward_passes_per_step=2,
        ),
        "Received: 2 passes, LossScaleOptimizer with",
    ),
    "timeout of 0": (
        lambda m: ka.distributed.init(timeout=0),
        "a number of seconds above 0. Received: timeout=0",
    ),
    "warmup below 0": (
        lambda m: ka.distributed.LearningRateScaling(warmup_epochs=-1),
        "at least 0. Received: warmup_epochs=-1",
    ),
    "factor of 0 for the rate": (
        lambda m: ka.distributed.LearningRateScaling(factor=0),
        "`factor` to be a number above 0. Received: factor=0",
    ),
    "parts of uneven arrays": (
        lambda m: ka.distributed.shard((X, X[:3])),
        "the same number of rows, one per sample. Received: [3, ",
    ),
    "no whole batch": (
        lambda m: ka.distributed.shuffled_batches(X[:3], batch_size=4),
        "at least one batch: 4 samples. Received: 3 samples",
    ),
    "batch size of 2.5": (
        lambda m: ka.distributed.shuffled_batches(X, batch_size=2.5),
        "multiple of the number of workers, 1. Received: batch_size=2.5",
    ),
    "checkpoint without a suffix": (
        lambda m: ka.callbacks.Checkpoint("run"),
        "ends in '.keras'. Received: path=run",
    ),
    "checkpoint of a callback without state": (
        lambda m: ka.callbacks.Checkpoint(
            "run.keras", [keras.callbacks.History()]
        ),
        "with `get_state` and `set_state`. Received: History",
    ),
    "checkpoint every 0 epochs": (
        lambda m: ka.callbacks.Checkpoint("run.keras", every=0),
        "at least 1. Received: every=0",
    ),
    "checkpoint of a plain model": (
        lambda m: restored(m),
        "which holds no state of a training",
    ),
    "checkpoint of other callbacks": (
        lambda m: restored_with_others(m),
        "that were saved: (none). Received: NeuronApoptosis",
    ),
    "unknown level": (
        lambda m: NEURONS("extreme", data=X),
        "Received: level='extreme'",
    ),
    "unknown metric": (
        lambda m: NEURONS(metric="distance"),
        "'reconstruction' or 'weights'. Received: metric='distance'",
    ),
    "factor of 1": (
        lambda m: NEURONS(metric="weights", factor=1.0),
        "above 1 and below inf, or a schedule. Received: factor=1.0",
    ),
    "tolerance above 1": (
        lambda m: NEURONS(data=X, tolerance=2),
        "Received: tolerance=2",
    ),
    "factor for reconstruction": (
        lambda m: NEURONS(data=X, factor=1.75),
        "belong to `metric='weights'`",
    ),
    "tolerance for weights": (
        lambda m: NEURONS(metric="weights", tolerance=0.05),
        "belongs to `metric='reconstruction'`",
    ),
    "unknown synapses": (
        lambda m: NEURONS(metric="weights", synapses="both"),
        "Received: synapses='both'",
    ),
    "no data": (
        lambda m: NEURONS("normal"),
        "callbacks do not see the data of `fit`. Pass some, as",
    ),
    "min_units of 0": (
        lambda m: NEURONS(data=X, min_units=0),
        "Received: min_units=0",
    ),
    "round_to of 2.5": (
        lambda m: NEURONS(data=X, round_to=2.5),
        "Received: round_to=2.5",
    ),
    "min_gain of 1": (
        lambda m: NEURONS(data=X, min_gain=1.0),
        "Received: min_gain=1.0",
    ),
    "unknown layer": (
        lambda m: fit(lambda: NEURONS(data=X, layers=["three"]), m),
        "one, out. Received: 'three'",
    ),
    "nothing that may leave": (
        lambda m: fit(lambda: NEURONS(data=X), _compiled(only_frozen())),
        "has no units that can be pruned",
    ),
    "weights that are not finite": (
        lambda m: fit(lambda: NEURONS(metric="weights"), prepare=poisoned),
        "Weights of layer 'one' are not finite",
    ),
    "activations that are not finite": (
        lambda m: fit(lambda: NEURONS(data=X), prepare=poisoned),
        "finite",
    ),
    "data of another rank": (
        lambda m: fit(lambda: NEURONS(data=np.zeros((8, 5, 3))), m),
        "Invalid input shape",
    ),
    "empty data": (
        lambda m: fit(lambda: NEURONS(data=X[:0]), m),
        "Received",
    ),
    "share of 1": (
        lambda m: STRIPPING(share=1),
        "`share` to be a number from 0 to below 1, or a schedule. Received",
    ),
    "number for a schedule": (
        lambda m: STRIPPING(schedule=2),
        "such as `ka.schedules.Logarithmic()`. Received: schedule=2",
    ),
    "threshold below 0": (
        lambda m: STRIPPING(threshold=-1.0),
        "`threshold` to be a finite number of at least 0. Received",
    ),
    "threshold that is not a number": (
        lambda m: ka.selection.dead_units(m, X, threshold="low"),
        "Received: threshold='low'",
    ),
    "unknown word for data": (
        lambda m: STRIPPING(data="test"),
        "'validation', 'training' or a sample. Received: data=test",
    ),
    "stripping of plain layers": (
        lambda m: fit(STRIPPING, m),
        "Prunable layers only. Convert the model by `ka.make_prunable(model",
    ),
    "stripping of quantized layers": (
        lambda m: fit(lambda: STRIPPING(data=X), quantized()),
        "quantized layers cannot be masked. Received: layer 'one'",
    ),
    "stripping without statistics": (
        lambda m: fit(lambda: STRIPPING(share=0), m),
        "Layer 'one' keeps no statistics",
    ),
    "stripping without a ReLU": (
        lambda m: fit(
            STRIPPING, prunable(activation=keras.activations.get("tanh"))
        ),
        "a model with a dense layer whose units a ReLU follows directly",
    ),
    "stripping of an unknown layer": (
        lambda m: fit(lambda: STRIPPING(layers=["out"]), prunable()),
        "units a ReLU follows of the model: one. Received: 'out'",
    ),
    "stripping without validation": (
        lambda m: fit(STRIPPING, prunable()),
        "Stripping is due, but `fit` made no pass over validation data",
    ),
    "criterion of another structure": (
        lambda m: SALIENCY("magnitude", data=LABELLED),
        "Expected a criterion of units: a function of a model and a sample",
    ),
    "unknown structure": (
        lambda m: SALIENCY(granularity="layers", data=LABELLED),
        "'units' or 'weights'. Received: granularity='layers'",
    ),
    "schedule that says no amount": (
        lambda m: SALIENCY(schedule=ka.schedules.Logarithmic(), data=X),
        "Expected `schedule` to be one that says the sparsity",
    ),
    "unknown budget": (
        lambda m: SALIENCY(scope="both", data=LABELLED),
        "'local' or 'global'. Received: scope='both'",
    ),
    "unknown replacement": (
        lambda m: SALIENCY(replacement="mode", data=LABELLED),
        "'mean', 'median', 'minimum', 'maximum' or 'zero'. Received: "
        "replacement='mode'",
    ),
    "rounds with a target": (
        lambda m: SALIENCY(target=HALF, rounds=2, data=LABELLED),
        "Expected `rounds` to be 1 with a `target`",
    ),
    "saliency without data": (
        lambda m: SALIENCY(),
        "Pass some, as `data=(x_train[:1000], y_train[:1000])`",
    ),
    "saliency without labels": (
        lambda m: fit(lambda: SALIENCY(data=X), m),
        "Expected `data` with labels, `(x, y)` or",
    ),
    "scores of another shape": (
        lambda m: fit(
            lambda: SALIENCY(lambda m, d: {"one": np.ones(3)}, data=X), m
        ),
        "to score the 4 units of group 'one'. Received: shape (3,)",
    ),
    "scores that are not numbers": (
        lambda m: fit(
            lambda: SALIENCY(
                lambda m, d: {"one": np.array([1, np.nan, 2, 3])}, data=X
            ),
            m,
        ),
        "to score group 'one' by numbers. Received: NaN for 1 of 4 entries",
    ),
    "weight pruning of plain layers": (
        lambda m: fit(lambda: SALIENCY("magnitude", granularity="weights"), m),
        "Weights can be masked in Prunable layers only. Convert the model",
    ),
    "weight pruning of an unknown layer": (
        lambda m: fit(
            lambda: SALIENCY(
                "magnitude", granularity="weights", layers=["three"]
            ),
            prunable(),
        ),
        "Received: 'three'",
    ),
    "a criterion without data": (
        lambda m: ka.criteria.taylor(m, None),
        "judges by the loss on a sample. Pass one, as `data=(x",
    ),
    "a criterion without a loss": (
        lambda m: ka.criteria.taylor(only_frozen(), LABELLED),
        "Expected a model that is compiled with a loss, or `loss=`",
    ),
    "a loss that is one number": (
        lambda m: ka.criteria.taylor(
            m, LABELLED, loss=lambda y, p: ops.mean(ops.square(y - p))
        ),
        "Expected a loss that returns one number for each sample",
    ),
    "unknown perturbation": (
        lambda m: ka.criteria.hessian(m, LABELLED, perturbation="half"),
        "'weights' or 'signs'. Received: perturbation='half'",
    ),
    "negative Hessian weight": (
        lambda m: ka.criteria.taylor2(m, LABELLED, hessian_weight=-1),
        "at least 0. Received: hessian_weight=-1",
    ),
    "score of a group that may not leave": (
        lambda m: ka.criteria.mean_replacement_saliency(
            m, LABELLED, layers=["out"]
        ),
        "Received: 'out', which is not prunable ('out': the model returns",
    ),
    "share of non-zero weights of 1": (
        lambda m: ka.selection.sparse_units(m, share=1.0),
        "`share` to be a number from 0 to below 1. Received: share=1.0",
    ),
    "monitor of an unknown group": (
        lambda m: fit(lambda: MONITOR(LABELLED, layers=["three"]), m),
        "unit groups of the model: one, out. Received: 'three'",
    ),
    "monitor every 0 steps": (
        lambda m: MONITOR(LABELLED, every=0),
        "an integer of at least 1. Received: every=0",
    ),
    "strength below 0": (
        lambda m: DEMON(strength=-1.0),
        "`strength` to be a finite number of at least 0, or a schedule",
    ),
    "noise that is not a number": (
        lambda m: DEMON(noise_variance=np.nan),
        "`noise_variance` to be a finite number of at least 0, or a schedule",
    ),
    "number for a schedule of demon pruning": (
        lambda m: DEMON(schedule=100),
        "that fires events, such as `ka.schedules.Logarithmic()`. Received: "
        "schedule=100",
    ),
    "schedule with sparsities for demon pruning": (
        lambda m: DEMON(schedule=ka.schedules.OneShot(0.5)),
        "one that only says when",
    ),
    "schedule with sparsities for apoptosis": (
        lambda m: NEURONS(data=X, schedule=ka.schedules.OneShot(0.5)),
        "one that only says when",
    ),
    "loud": (
        lambda m: NEURONS(data=X, verbose="loud"),
        "`verbose` to be 0, 1, 2 or 'auto'. Received: verbose='loud'",
    ),
    "no samples": (
        lambda m: NEURONS(data=X, samples=0),
        "`samples` to be an integer of at least 1. Received: samples=0",
    ),
    "layers by a number": (
        lambda m: NEURONS(data=X, layers=3),
        "or a list of those. Received: layers=3",
    ),
    "epochs as text": (
        lambda m: NEURONS(data=X, total_epochs="3"),
        "`total_epochs` to be an integer of at least 1. Received: "
        "total_epochs='3'",
    ),
    "sparsities that fall": (
        lambda m: ka.schedules.AtEpochs({1: 0.5, 2: 0.4}),
        "sparsities that do not fall",
    ),
    "epochs that the training does not have": (
        lambda m: fit(
            lambda: SALIENCY(
                schedule=ka.schedules.AtEpochs({9: 0.5}), data=LABELLED
            ),
            m,
        ),
        "Received: epochs [9]",
    ),
    "start below 0": (
        lambda m: DEMON(start=-1),
        "a number from 0 to below 1. Received: start=-1",
    ),
    "target of 1": (
        lambda m: DEMON(target=0.2),
        "one of `ka.targets`, or several that count different things",
    ),
    "a measured target of demon pruning": (
        lambda m: DEMON(target=ka.targets.Latency(at_most=0.5)),
        "`target` to be a target that is counted. Received: target=Latency",
    ),
    "a target besides a tolerance": (
        lambda m: APOPTOSIS(data=X, tolerance=0.1, target=HALF),
        "without a `tolerance`. Received: target=Parameters(at_most=0.5)",
    ),
    "a target besides sparsities": (
        lambda m: SALIENCY(
            data=LABELLED, target=HALF, schedule=ka.schedules.OneShot(0.5)
        ),
        "or with a `target` one that does not",
    ),
    "a norm without data for means": (
        lambda m: SALIENCY("l1_norm", data=None),
        "Received: data=None, criterion='l1_norm', replacement='mean'",
    ),
    "a loss without data": (
        lambda m: SALIENCY(data=None, replacement="zero"),
        "replacement='zero'",
    ),
    "a share of stripping beyond 1": (
        lambda m: ka.callbacks.SynapticStripping(1.5),
        "`share` to be a number from 0 to below 1, or a schedule",
    ),
    "a factor for reconstruction": (
        lambda m: APOPTOSIS(data=X, factor=2.0),
        "`factor` and `synapses` belong to `metric='weights'`",
    ),
    "a target of masks": (
        lambda m: SALIENCY("magnitude", granularity="weights", target=HALF),
        "`target` to be None, since weights that are masked save nothing",
    ),
    "a target out of reach": (
        lambda m: fit(
            lambda: APOPTOSIS(data=X, target=ka.targets.Parameters(at_most=2)),
            m,
        ),
        "cannot be reached",
    ),
    "a target without a last event": (
        lambda m: fit(
            lambda: APOPTOSIS(
                data=X, target=HALF, schedule=ka.schedules.EverySteps(2)
            ),
            m,
        ),
        "one whose number of events is known",
    ),
    "threshold of demon pruning below 0": (
        lambda m: DEMON(threshold=-0.1),
        "`threshold` to be a finite number of at least 0. Received",
    ),
    "unknown penalty": (
        lambda m: DEMON(penalty="l0"),
        "`penalty` to be 'l1' or 'l2'. Received: penalty='l0'",
    ),
    "unknown weights to regularize": (
        lambda m: DEMON(regularize="biases"),
        "`regularize` to be 'auto', 'scales' or 'all'. Received",
    ),
    "scales of a model without any": (
        lambda m: fit(lambda: DEMON(data=X, regularize="scales"), m),
        "normalizations whose scales are trained, for `regularize='scales'`",
    ),
    "dead units that wait for ever": (
        lambda m: DEMON(min_gain=1.0),
        "`min_gain` to be a number from 0 to below 1. Received: min_gain=1.0",
    ),
    "noise_every of 0": (
        lambda m: DEMON(noise_every=0),
        "`noise_every` to be an integer of at least 1. Received: noise_every=0",
    ),
    "units that cannot die": (
        lambda m: fit(lambda: DEMON(data=X), bent()),
        "has no units that can die: they need a ReLU, ReLU6, leaky ReLU",
    ),
    "death without statistics": (
        lambda m: fit(DEMON, m),
        "Pass some, as `data=x_train[:512]`, or convert the model",
    ),
    "batches of no samples": (
        lambda m: ka.callbacks.TrainingCost(0),
        "`batch_size` to be an integer of at least 1. Received: batch_size=0",
    ),
    "statistics at an unknown place": (
        lambda m: ka.unit_statistics(m, X, at="middle"),
        "'pre' or 'post'. Received: at='middle'",
    ),
}


def _compiled(model):
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize("case", TABLE)
def test_bad_input(case):
    act, message = TABLE[case]
    model = network()
    config, before = model.get_config(), model.get_weights()
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        act(model)
    assert message in str(caught.value)
    assert model.get_config() == config
    if int(model.optimizer.iterations) == 0:  # Else it trained until then.
        for one, other in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_uncompiled_model_shrinks_too():
    """It needs no optimizer, so this is no error."""
    model = only_frozen()
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="one"), layers.Dense(2)]
    )
    ka.shrink(model, ONE)
    assert model.get_layer("one").units == 3


def test_an_empty_removal_changes_nothing():
    model = network()
    before = model.get_weights()
    report = ka.shrink(model, ka.Removal({"one": []}))
    assert report.groups == ()
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_removals_are_compared_by_what_they_hold():
    one = ka.Removal({"a": [2, 0]}, {"a": ka.Replacement([1.0, 2.0])})
    same = ka.Removal({"a": [0, 2]}, {"a": ka.Replacement([2.0, 1.0])})
    other = ka.Removal({"a": [0, 2]}, {"a": ka.Replacement([1.0, 2.0])})
    assert one == same
    assert hash(one) == hash(same)
    assert one.digest() == same.digest()
    assert one != other
    assert ops.shape(one["a"]) == (2,)

"""Scores of weights against finite differences and a dense Hessian."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_apoptosis as ka
from keras_apoptosis.statistics import WeightDerivatives

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype("float32")
Y = RNG.integers(0, 2, size=20)


def smooth():
    """17 weights, and no kink anywhere."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, activation="tanh", bias_initializer="normal"),
            layers.Dense(2, use_bias=False, kernel_initializer="normal"),
        ]
    )
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def loss_by_hand(vector):
    """The same network in NumPy, in double precision."""
    first, bias, second = (
        vector[:9].reshape(3, 3),
        vector[9:12],
        vector[12:].reshape(3, 2),
    )
    logits = np.tanh(X.astype("float64") @ first + bias) @ second
    logits -= logits.max(1, keepdims=True)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log[np.arange(Y.size), Y].mean()


def gradient_by_hand(vector, eps=1e-5):
    steps = eps * np.eye(vector.size)
    return np.array(
        [
            (loss_by_hand(vector + s) - loss_by_hand(vector - s)) / (2 * eps)
            for s in steps
        ]
    )


def hessian_by_hand(vector, eps=1e-4):
    steps = eps * np.eye(vector.size)
    return np.array(
        [
            (gradient_by_hand(vector + s) - gradient_by_hand(vector - s))
            / (2 * eps)
            for s in steps
        ]
    )


def flat(arrays):
    return np.concatenate([np.ravel(each) for each in arrays]).astype("float64")


MODEL = smooth()
WEIGHTS = flat(MODEL.get_weights())
GRADIENT = gradient_by_hand(WEIGHTS)
HESSIAN = hessian_by_hand(WEIGHTS)
REMOVAL = -WEIGHTS
TOWARDS_ZERO = -np.sign(WEIGHTS)


def test_the_network_by_hand_is_the_model():
    assert MODEL.evaluate(X, Y, verbose=0) == pytest.approx(
        loss_by_hand(WEIGHTS), rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("magnitude", {}, abs(WEIGHTS)),
        ("taylor", {}, REMOVAL * GRADIENT),
        ("taylor", {"absolute": True}, abs(REMOVAL * GRADIENT)),
        ("taylor", {"perturbation": "signs"}, TOWARDS_ZERO * GRADIENT),
        ("taylor2", {}, REMOVAL * (GRADIENT + HESSIAN @ REMOVAL)),
        (
            "taylor2",
            {"hessian_weight": 0.1, "perturbation": "signs"},
            TOWARDS_ZERO * (GRADIENT + 0.1 * HESSIAN @ TOWARDS_ZERO),
        ),
        (
            "taylor2",
            {"absolute": True},
            abs(REMOVAL * (GRADIENT + HESSIAN @ REMOVAL)),
        ),
        (
            "taylor2",  # Exact from 32 probes on, for 18 weights.
            {"diagonal": True, "probes": 40},
            REMOVAL * (GRADIENT + np.diag(HESSIAN) * REMOVAL),
        ),
        ("hessian", {}, REMOVAL * (HESSIAN @ REMOVAL)),
        ("hessian", {"absolute": True}, abs(REMOVAL * (HESSIAN @ REMOVAL))),
        (
            "loss_change",
            {},
            np.array(
                [
                    loss_by_hand(np.where(np.arange(18) == i, 0, WEIGHTS))
                    - loss_by_hand(WEIGHTS)
                    for i in range(18)
                ]
            ),
        ),
    ],
)
def test_against_another_route(name, options, expected):
    function = getattr(ka.criteria, name)
    scores = function(MODEL, (X, Y), **options)
    assert [each.shape for each in scores] == [(3, 3), (3,), (3, 2)]
    np.testing.assert_allclose(flat(scores), expected, rtol=2e-3, atol=2e-5)


def test_a_sample_may_come_in_batches_of_any_size():
    whole = ka.criteria.taylor2(MODEL, (X, Y))
    batches = [(X[:7], Y[:7]), (X[7:8], Y[7:8]), (X[8:], Y[8:])]
    for data, size in (((X, Y), 6), (iter(batches), 512)):
        parts = ka.criteria.taylor2(MODEL, data, batch_size=size)
        np.testing.assert_allclose(flat(parts), flat(whole), atol=1e-5)


def test_sample_weights_and_other_losses_count():
    weights = RNG.uniform(size=20).astype("float32")
    seen = ka.criteria.taylor(MODEL, (X, Y, weights))

    def weighted(labels, predictions):
        loss = keras.losses.sparse_categorical_crossentropy
        # Labels carry the weight: Keras has no other way to hand it over.
        kept = keras.ops.floor(labels)
        weight = 2 * (labels - kept)
        return loss(kept, predictions, from_logits=True) * weight

    labels = (Y + weights / 2).astype("float32")
    given = ka.criteria.taylor(MODEL, (X, labels), loss=weighted)
    np.testing.assert_allclose(flat(given), flat(seen), rtol=1e-3, atol=1e-5)


def test_masked_weights_have_no_gradient():
    model = ka.make_prunable(smooth())
    model.compile("sgd", MODEL.loss)
    mask = np.ones((3, 3))
    mask[1] = 0
    model.layers[0].set_mask(mask)
    gradients = WeightDerivatives(model).gradients((X, Y))
    np.testing.assert_array_equal(gradients[0] != 0, mask)
    assert not ka.criteria.magnitude(model)[0][1].any()


def test_the_model_and_its_statistics_are_untouched():
    model = ka.make_prunable(
        keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(4, activation="relu"),
                layers.BatchNormalization(),
                layers.Dense(2),
            ]
        ),
        track_statistics=True,
    )
    model.compile("sgd", MODEL.loss)
    before = model.get_weights()
    for name in ka.criteria.names("weights"):
        ka.criteria.get(name, "weights").score(model, (X, Y))
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_is_random_by_seed():
    first, again = (ka.criteria.random(MODEL, seed=3) for _ in range(2))
    other = ka.criteria.random(MODEL, seed=4)
    np.testing.assert_array_equal(flat(first), flat(again))
    assert (flat(first) != flat(other)).all()

"""Schedules: one contract for all, numbers worked out by hand, properties."""

import copy
import math
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_apoptosis.schedules import (
    AtEpochs,
    Constant,
    EndOfTraining,
    EveryEpoch,
    Fixed,
    HalfLife,
    LinearDegree,
    Logarithmic,
    OneCycle,
    OneShot,
    Polynomial,
    QuarterLife,
    Random,
    WhenSettled,
)

# A schedule, and what `times(total_epochs=8)` must give, by hand.
EVENTS = [
    (QuarterLife(), (0.25,)),
    (HalfLife(), (0.5,)),
    (EndOfTraining(), (1.0,)),
    (Logarithmic(), (0.25, 0.5)),
    (Logarithmic(0.125), (0.125, 0.25, 0.5)),
    (Logarithmic(0.1, 3.0), (0.1, 0.3, 0.9)),
    (Logarithmic(QuarterLife(), 1.5), (0.25, 0.375, 0.5625, 0.84375)),
    (Logarithmic(0.0625, end=0.25), (0.0625, 0.125)),
    (Logarithmic(EndOfTraining()), (1.0,)),
    (Fixed(0.25), (0.25, 0.5, 0.75)),
    (Fixed(0.2, start=HalfLife()), (0.5, 0.7, 0.9)),
    # 0.3 + 7 * 0.1 is just below 1 in floating point.
    (Fixed(0.1, start=0.3), (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    (Fixed(0.1, start=0.4, end=0.6), (0.4, 0.5)),
    (EveryEpoch(), (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)),
    (EveryEpoch(3), (0.375, 0.75)),
    (AtEpochs({2: 0.1, 3: 0.2, 6: 0.3}), (0.25, 0.375, 0.75)),
    (AtEpochs({8: 0.2, 1: 0.1}), (0.125, 1.0)),
    (OneShot(0.5), (0.5,)),
    (OneShot(0.5, at=QuarterLife()), (0.25,)),
    # It may fire at these: the third epoch is the first to compare.
    (WhenSettled(0.5), (0.375, 0.5)),
    (WhenSettled(0.5, latest=0.51), (0.375, 0.5, 0.625)),
    (WhenSettled(0.5, latest=0.01), (0.125,)),
    (Polynomial(0.8, count=4), (0.125, 0.25, 0.375, 0.5)),
    (Polynomial(0.8, start=0.5, end=1.0, count=2), (0.75, 1.0)),
    # Drawn, so no numbers by hand: the properties below bound them.
    (Random(), None),
    (Random(0.1, 0.5, count=4, seed=3), None),
    (Random(count=3, start=QuarterLife()), None),
    (Logarithmic(Random(0.1, 0.3)), None),
]

# A schedule, and its values at 0, 1/4, 1/2, 3/4 and 1, by hand.
VALUES = [
    (Constant(1.75), (1.75, 1.75, 1.75, 1.75, 1.75)),
    (LinearDegree(2.5, 1.5), (2.5, 2.25, 2.0, 1.75, 1.5)),
    (LinearDegree(0.02, 0.1), (0.02, 0.04, 0.06, 0.08, 0.1)),
    (OneCycle(2.0, warmup=0.5), (0.0, 1.0, 2.0, 1.0, 0.0)),
    # A third into the decay the cosine is that of 60 degrees.
    (OneCycle(1.0, warmup=0.25), (0.0, 1.0, 0.75, 0.25, 0.0)),
    (
        OneCycle(1.0, warmup=0.0),
        (1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0.0),
    ),
    (OneCycle(4.0, warmup=1.0), (0.0, 1.0, 2.0, 3.0, 4.0)),
]
ANY = [schedule for schedule, _ in EVENTS + VALUES]


@pytest.mark.parametrize("schedule", ANY, ids=str)
class TestEverySchedule:
    def test_is_a_plain_value(self, schedule):
        twins = (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule))
        for twin in twins:
            assert twin == schedule
            assert hash(twin) == hash(schedule)
            assert repr(twin) == repr(schedule)

    def test_its_repr_makes_it_again(self, schedule):
        assert eval(repr(schedule)) == schedule

    def test_is_frozen(self, schedule):
        with pytest.raises(AttributeError):
            schedule.start = 0.5


@pytest.mark.parametrize(("schedule", "expected"), EVENTS, ids=str)
def test_events(schedule, expected):
    times = schedule.times(total_epochs=8)
    assert isinstance(times, tuple)
    assert times == schedule.times(total_epochs=8)
    assert len(times) >= 1
    assert all(a < b for a, b in zip((0, *times), (*times, 2), strict=True))
    assert times[-1] <= 1
    if expected is not None:
        assert times == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "expected"), VALUES, ids=str)
def test_values(schedule, expected):
    progress = np.linspace(0, 1, 5)
    assert [schedule(p) for p in progress] == pytest.approx(expected)
    np.testing.assert_allclose(schedule(progress), expected, atol=1e-12)
    tensor = keras.ops.convert_to_tensor(progress, "float32")
    values = schedule(tensor)
    assert keras.ops.is_tensor(values)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(values), expected, atol=1e-6
    )


def test_one_cycle_stays_at_its_ends_outside_of_the_training():
    assert OneCycle(1.0)(-0.5) == 0
    assert OneCycle(1.0)(1.5) == pytest.approx(0)


def test_amounts_of_a_polynomial():
    """By hand: 0.8 (1 − (1/2)³) and 0.8 (1 − 0)."""
    schedule = Polynomial(0.8, count=2)
    amounts = [schedule.sparsity_at(event) for event in range(2)]
    assert amounts == pytest.approx([0.7, 0.8])
    amounts = [
        Polynomial(0.9, count=9).sparsity_at(event) for event in range(9)
    ]
    assert amounts == sorted(amounts)
    assert amounts[-1] == 0.9


def test_weights_have_settled_when_they_move_little_beside_the_first_time():
    # 0.9 − 0.5 is the part that a move has to be below.
    assert not WhenSettled(0.5).settled([])
    assert not WhenSettled(0.5).settled([0.0])
    assert not WhenSettled(0.5).settled([10.0, 4.1])
    assert WhenSettled(0.5).settled([10.0, 4.1, 3.9])
    assert not WhenSettled(0.5).settled([10.0, 3.9, 4.1])
    assert WhenSettled(0.5, threshold=0.42).settled([10.0, 4.1])
    # The more is to go the more settled, but never is nothing.
    assert WhenSettled(0.95).settled([1.0, 0.009])
    assert not WhenSettled(0.95).settled([1.0, 0.011])


def test_amounts_stay_with_their_epochs():
    schedule = AtEpochs({5: 0.4, 2: 0.1})
    assert schedule.times(10) == (0.2, 0.5)
    assert [schedule.sparsity_at(event) for event in range(2)] == [0.1, 0.4]
    with pytest.raises(ValueError, match=r"among the 4 .* epochs \[5\]"):
        schedule.times(4)
    assert Logarithmic().sparsity_at(0) is None


def test_random_moments_depend_on_the_seed_alone():
    assert Random(count=5, seed=1).times() == Random(count=5, seed=1).times()
    assert Random(count=5, seed=1).times() != Random(count=5, seed=2).times()
    keras.utils.set_random_seed(0)
    first = Random(seed=7).times()
    keras.utils.set_random_seed(1)
    assert Random(seed=7).times() == first


def test_random_moments_are_uniform():
    times = Random(low=0.2, high=0.6, count=4000).times()
    # Mean 0.4; the standard error is 0.4 / sqrt(12 * 4000) = 0.0018.
    assert np.mean(times) == pytest.approx(0.4, abs=0.01)
    assert np.mean(np.array(times) < 0.3) == pytest.approx(0.25, abs=0.04)


fractions = st.floats(0.001, 1)


@given(start=fractions, ratio=st.floats(1.1, 10), end=fractions)
def test_logarithmic_times_grow_by_the_ratio(start, ratio, end):
    if end < start:
        start, end = end, start
    times = Logarithmic(start, ratio, end).times()
    assert times[0] == start
    assert all(time < end for time in times[1:])
    assert times[-1] * ratio >= end * (1 - 1e-5)
    np.testing.assert_allclose(np.diff(np.log(times)), math.log(ratio))


@given(start=fractions, interval=fractions)
def test_fixed_times_are_an_interval_apart(start, interval):
    times = Fixed(interval, start).times()
    assert times[0] == start
    assert all(time < 1 for time in times[1:])
    assert times[-1] + interval >= 1 - 1e-6
    np.testing.assert_allclose(np.diff(times), interval, rtol=1e-9)


@given(
    low=st.floats(0, 0.9),
    width=st.floats(0.001, 1),
    count=st.integers(1, 20),
    start=st.none() | st.floats(0.001, 0.9),
    seed=st.integers(),
)
def test_random_times_keep_to_their_range(low, width, count, start, seed):
    high = min(max(low, start or 0) + width, 1)
    times = Random(low, high, count, start, seed).times()
    later = times if start is None else times[1:]
    assert start is None or times[0] == start
    assert len(later) == count
    assert list(times) == sorted(set(times))
    assert all(max(low, start or 0) < time <= high for time in later)


@given(epochs=st.integers(1, 500))
def test_every_epoch_comes_once_and_ends_with_the_training(epochs):
    times = EveryEpoch().times(epochs)
    assert len(times) == epochs
    assert times[-1] == 1
    assert (
        AtEpochs(dict.fromkeys(range(1, epochs + 1), 0.5)).times(epochs)
        == times
    )


@given(peak=st.floats(0, 1e6), warmup=st.floats(0, 1), at=st.floats(0, 1))
def test_one_cycle_rises_then_falls(peak, warmup, at):
    schedule = OneCycle(peak, warmup)
    before, after = schedule(at), schedule(min(at + 0.01, 1))
    assert 0 <= before <= peak
    if at + 0.01 <= warmup:
        assert before <= after
    elif at >= warmup:
        assert before >= after - 1e-9 * peak


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda: Logarithmic(start=1.5), "start=1.5"),
        (lambda: Logarithmic(start=0.0), "start=0.0"),
        (lambda: Logarithmic(start=math.nan), "start=nan"),
        (lambda: Logarithmic(ratio=1.0), "ratio=1.0"),
        (lambda: Logarithmic(ratio=math.inf), "ratio=inf"),
        (lambda: Logarithmic(start=0.5, end=0.4), "end=0.4"),
        (lambda: Logarithmic(end=1.1), "end=1.1"),
        (lambda: Logarithmic(start=EveryEpoch()), "total_epochs=None"),
        (lambda: Fixed(interval=0.0), "interval=0.0"),
        (lambda: Fixed(interval=-0.1), "interval=-0.1"),
        (lambda: Fixed(start=2), "start=2"),
        (lambda: Random(low=-0.1), "low=-0.1"),
        (lambda: Random(low=0.5, high=0.5), "high=0.5"),
        (lambda: Random(high=1.5), "high=1.5"),
        (lambda: Random(start=HalfLife(), high=0.4), "high=0.4"),
        (lambda: Random(start=EndOfTraining()), "high=1.0"),
        (lambda: Random(count=0), "count=0"),
        (lambda: Random(count=1.5), "count=1.5"),
        (lambda: EveryEpoch(0), "n=0"),
        (lambda: EveryEpoch().times(), "total_epochs=None"),
        (lambda: EveryEpoch().times(0), "total_epochs=0"),
        (lambda: AtEpochs({2: 0.1}).times(), "total_epochs=None"),
        (lambda: AtEpochs({}), "sparsities={}"),
        (lambda: OneShot(1.0), "sparsity=1.0"),
        (lambda: OneShot(0.5, at=0.0), "start=0.0"),
        (lambda: WhenSettled(0), "sparsity=0"),
        (lambda: WhenSettled(0.5, threshold=0.0), "threshold=0.0"),
        (lambda: WhenSettled(0.5, latest=0.0), "latest=0.0"),
        (lambda: WhenSettled(0.5).times(), "total_epochs=None"),
        (lambda: Polynomial(0.0), "final_sparsity=0.0"),
        (lambda: Polynomial(0.5, start=-0.1), "start=-0.1"),
        (lambda: Polynomial(0.5, start=0.5, end=0.5), "end=0.5"),
        (lambda: Polynomial(0.5, count=0), "count=0"),
        (lambda: Polynomial(0.5, power=0), "power=0"),
        (lambda: AtEpochs({0: 0.1}), "epoch=0"),
        (lambda: AtEpochs({2.5: 0.1}), "epoch=2.5"),
        (lambda: AtEpochs({2: 1.0}), "sparsity=1.0"),
        (lambda: AtEpochs({2: 0.0}), "sparsity=0.0"),
        (lambda: Constant(math.nan), "value=nan"),
        (lambda: LinearDegree(math.inf, 1.0), "first=inf"),
        (lambda: OneCycle(-1.0), "peak=-1.0"),
        (lambda: OneCycle(math.inf), "peak=inf"),
        (lambda: OneCycle(1.0, warmup=1.5), "warmup=1.5"),
    ],
)
def test_errors_say_what_was_received(make, received):
    with pytest.raises(ValueError, match=r"Expected .*Received: ") as caught:
        make()
    assert str(caught.value).endswith(received)

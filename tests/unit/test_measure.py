"""Ratios and quantiles: what is claimed of them holds on data whose truth is known."""

import math
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.measure import latency, machine, overhead_ratio, paired_ratio, quantile, ratio
from aiinfra_lab.seeding import stream


class Timer:
    """A clock that moves only when a call says how long it took."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


def test_a_ratio_is_ours_over_peers():
    timer = Timer()

    found = ratio(lambda: timer.spend(3e-4), lambda: timer.spend(2e-4), timer=timer)

    assert found.value == pytest.approx(1.5)
    assert (found.ours_s, found.peer_s) == (pytest.approx(3e-4), pytest.approx(2e-4))
    assert found.pairs == 30
    assert str(found) == "1.50 [1.50, 1.50]"


def test_a_machine_that_slows_down_for_everybody_leaves_the_ratio_alone():
    timer = Timer()

    def slowed(seconds):
        return lambda: timer.spend(seconds * (3 if int(timer.now * 2) % 2 else 1))

    found = ratio(slowed(3e-4), slowed(2e-4), timer=timer, pairs=40)

    assert found.value == pytest.approx(1.5, rel=0.02)


def test_the_order_within_a_pair_is_turned_round():
    timer, calls = Timer(), []

    def noted(name):
        def call():
            calls.append(name)
            timer.spend(1.0)

        return call

    ratio(noted("ours"), noted("peer"), timer=timer, pairs=6, block_s=0.5)

    measured = calls[-12:]
    assert measured == ["ours", "peer", "peer", "ours"] * 3


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        generator = stream(trial, "trial")
        noise = generator.lognormal(0, 0.2, size=(40, 2))
        found = paired_ratio([(2 * a, b) for a, b in noise], seed=trial)
        covered += found.low <= 2 <= found.high
    # 95 % of 200 is 190; a percentile bootstrap of a median covers a little less or more.
    assert 180 <= covered <= 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": [(1, 1)] * 4}, "pairs"),
        ({"measured": [(1, 1)] * 5, "level": 1.0}, "level"),
        ({"measured": [(1, 0)] * 5}, "above zero"),
        ({"measured": [(math.nan, 1)] * 5}, "above zero"),
        ({"measured": [(math.inf, 1)] * 5}, "above zero"),
    ],
)
def test_a_ratio_of_nothing_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        paired_ratio(**arguments)


def test_an_overhead_ratio_divides_the_overheads_and_not_the_times():
    found = overhead_ratio([(10e-7, 13e-7, 12e-7)] * 5)

    assert found.value == pytest.approx(1.5)
    assert (found.low, found.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert (found.ours_s, found.peer_s) == (pytest.approx(3e-7), pytest.approx(2e-7))
    assert found.pairs == 5


def test_a_round_in_which_the_peer_seems_to_cost_nothing_does_not_decide():
    rounds = [(10.0, 13.0, 12.0)] * 30 + [(10.0, 13.0, 9.0), (10.0, 9.0, 10.0)]

    found = overhead_ratio(rounds)

    assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)


def test_the_resamples_keep_a_round_whole():
    # The machine's speed changes from round to round, and for everybody alike.
    rounds = [(10 * s, 13 * s, 12 * s) for s in stream(0, "speed").uniform(0.5, 5, size=60)]

    found = overhead_ratio(rounds)

    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)


def test_the_interval_covers_the_true_overhead_ratio_about_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        noise = stream(trial, "trial").lognormal(0, 0.1, size=(60, 3))
        found = overhead_ratio([(a, 3 * b, 2 * c) for a, b, c in noise], seed=trial)
        covered += found.low <= 2 <= found.high
    assert 180 <= covered <= 200


def test_an_interval_is_open_where_the_peer_may_cost_nothing():
    rounds = [(10.0, 13.0, 12.0)] * 6 + [(10.0, 13.0, 9.0)] * 5

    found = overhead_ratio(rounds)

    assert found.value == 1.5
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measured": [(1, 2, 3)] * 4}, "pairs"),
        ({"measured": [(1, 2, 3)] * 5, "level": 0.0}, "level"),
        ({"measured": [(0, 2, 3)] * 5}, "above zero"),
        ({"measured": [(1, math.nan, 3)] * 5}, "above zero"),
        ({"measured": [(1, 2, 1)] * 5}, "no more than the bare call"),
        ({"measured": [(2, 3, 1)] * 5}, "no more than the bare call"),
    ],
)
def test_an_overhead_ratio_of_nothing_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        overhead_ratio(**arguments)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@law(deadline=None)
@given(numbers, st.floats(0.01, 0.99))
def test_a_quantile_is_a_measured_value_of_its_rank(values, q):
    found = quantile(values, q).value

    assert found in values
    assert sum(v <= found for v in values) >= q * len(values)
    assert sum(v < found for v in values) < q * len(values)


@law(deadline=None)
@given(numbers, st.floats(0.01, 0.99), st.floats(0.5, 0.99))
def test_a_quantile_lies_in_its_interval_which_grows_with_the_level(values, q, level):
    narrow, wide = quantile(values, q, level=level), quantile(values, q, level=0.999)

    assert narrow.low <= narrow.value <= narrow.high
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_the_interval_of_a_quantile_covers_the_truth(q):
    truth = -math.log(1 - q)  # of an exponential distribution with mean 1
    covered = 0
    for trial in range(400):
        values = list(stream(trial, "exponential").exponential(size=200))
        found = quantile(values, q)
        covered += found.low <= truth <= found.high
    assert covered >= 372  # 95 % of 400 is 380, three standard errors are 13; never much less


def test_too_few_values_leave_the_interval_open():
    assert quantile([1.0] * 50, 0.99).high == math.inf
    assert quantile([1.0] * 50, 0.01).low == -math.inf
    assert quantile([1.0] * 500, 0.99).high == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(([], 0.5), "values"), (([1.0], 0.0), "q"), (([1.0], 1.0), "q"), (([1.0], math.nan), "q")],
)
def test_a_quantile_of_nothing_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        quantile(*arguments)


def test_the_warm_up_is_not_in_a_latency():
    timer, spent = Timer(), []

    def call():
        spent.append(1)
        timer.spend(0.5 if len(spent) <= 40 else 0.01)

    found = latency(call, calls=200, timer=timer)

    assert found.steady
    assert found.warm_up >= 60 - 20
    assert found.calls == 200
    assert found.p50.value == pytest.approx(0.01)


def test_a_call_that_never_settles_says_so():
    timer, spent = Timer(), []

    def call():
        spent.append(1)
        timer.spend(1.1 ** (len(spent) // 10))

    found = latency(call, calls=5, most_warm_up=100, timer=timer)

    assert (found.steady, found.warm_up) == (False, 100)


def test_the_machine_is_described_without_names_and_paths():

    found = machine()

    assert found["cores"] > 0
    assert found["memory_gib"] > 0
    text = str(found)
    assert platform.node() not in text or not platform.node()
    assert str(Path.home()) not in text

"""The law of the waits: bounds, growth, spread, and Retry-After as a floor under the jitter."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import Reopening

FLOOR = {"full": 0.0, "equal": 0.5, "none": 1.0}


@law(deadline=None)
@given(
    st.sampled_from(["full", "equal", "none"]),
    st.integers(0, 5000),
    st.floats(1, 10),
    st.floats(0, 5000),
    st.randoms(use_true_random=False),
)
def test_a_wait_lies_between_its_bounds(jitter, attempt, multiplier, asked, rng):
    policy = Reopening(first_wait=2.0, multiplier=multiplier, max_wait=300.0, jitter=jitter)
    bound = policy.bound(attempt)
    assert 2.0 <= bound <= 300.0
    if attempt < 8:
        assert bound == pytest.approx(min(300.0, 2.0 * multiplier**attempt))
    low, spread = FLOOR[jitter] * bound, (1 - FLOOR[jitter]) * bound
    assert low <= policy.wait(attempt, rng) <= bound
    assert max(low, asked) <= policy.wait(attempt, rng, asked) <= max(low, asked) + spread


@pytest.mark.parametrize(("jitter", "mean"), [("full", 5.0), ("equal", 7.5)])
def test_a_thousand_clients_spread_over_the_whole_range(jitter, mean):
    policy, rng = Reopening(first_wait=10.0, jitter=jitter), random.Random(7)
    for asked in (0.0, 100.0):
        waits = [policy.wait(0, rng, asked) for _ in range(1000)]
        low = max(asked, 10.0 * FLOOR[jitter])
        spread = 10.0 * (1 - FLOOR[jitter])
        # Five standard errors of a uniform law.
        assert statistics.mean(waits) == pytest.approx(
            low + spread / 2, abs=5 * spread / (12 * 1000) ** 0.5
        )
        if not asked:
            assert low + spread / 2 == mean
        tenths = {int((w - low) / spread * 10) for w in waits}
        assert tenths == set(range(10))


def test_without_jitter_nothing_is_random():
    policy = Reopening(first_wait=1.0, multiplier=3.0, max_wait=20.0, jitter="none")
    assert [policy.wait(k, random.Random()) for k in range(5)] == [1.0, 3.0, 9.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("first_wait", 0),
        ("first_wait", float("nan")),
        ("first_wait", float("inf")),
        ("multiplier", 0.9),
        ("multiplier", float("inf")),
        ("max_wait", 59.0),
        ("max_wait", float("inf")),
        ("jitter", "some"),
    ],
)
def test_a_policy_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        Reopening(**{name: value})

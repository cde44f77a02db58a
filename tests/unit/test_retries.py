"""The retry budget's law for every sequence of calls, and the options' limits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import Backoff, Hedge, Reopening, Retry, RetryBudget

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["request", "retry"]),
        st.one_of(st.just(0.0), st.floats(0, 5)),  # seconds before it
    ),
    max_size=200,
)


@given(
    steps=STEPS,
    ratio=st.floats(0, 1),
    per_second=st.floats(0, 3),
    capacity=st.floats(0, 8),
)
def test_in_every_stretch_of_time_the_retries_stay_within_the_budget(
    steps, ratio, per_second, capacity
):
    budget = RetryBudget(ratio, per_second=per_second, capacity=capacity)
    now, history = 0.0, []
    for what, wait in steps:
        now += wait
        if what == "request":
            budget.deposit(now)
        history.append((now, what == "request", what == "retry" and budget.withdraw(now)))
        assert 0 <= budget.balance(now) <= capacity
    for start in range(0, len(history), 7):
        stretch = history[start:]
        requests = sum(request for _, request, _ in stretch)
        retries = sum(retry for _, _, retry in stretch)
        seconds = stretch[-1][0] - stretch[0][0]
        # Time runs from the event before the stretch: its first wait brings tokens too.
        seconds += stretch[0][0] - (history[start - 1][0] if start else 0.0)
        assert retries <= ratio * requests + per_second * seconds + capacity + 1e-6


def test_when_everything_fails_the_share_is_the_ratio():
    budget = RetryBudget(0.1, per_second=0, capacity=5)
    granted = 0
    for _ in range(1000):
        budget.deposit(0.0)
        granted += sum(budget.withdraw(0.0) for _ in range(4))
    assert granted == pytest.approx(1000 * 0.1 + 5, abs=1)


def test_ten_requests_at_a_tenth_are_one_retry():
    budget = RetryBudget(0.1, per_second=0, capacity=1)
    assert budget.withdraw(0.0)
    granted = []
    for _ in range(30):
        budget.deposit(0.0)
        granted.append(budget.withdraw(0.0))
    assert [place for place, given in enumerate(granted, 1) if given] == [10, 20, 30]


def test_a_quiet_client_may_retry_again_after_some_time():
    budget = RetryBudget(0, per_second=0.5, capacity=2)
    assert [budget.withdraw(100.0) for _ in range(3)] == [True, True, False]
    assert not budget.withdraw(101.0)
    assert budget.withdraw(102.0)
    assert not budget.withdraw(102.0)
    assert budget.balance(1e6) == 2
    assert budget.balance(0.0) == 2  # a clock that steps back takes nothing and gives nothing


def test_a_budget_of_nothing_grants_nothing():
    budget = RetryBudget(0, per_second=0, capacity=0)
    budget.deposit(0.0)
    assert not budget.withdraw(1e9)


def test_backoff_is_full_jitter_with_the_numbers_of_a_call():
    rng = random.Random(3)
    waits = [Backoff().wait(2, rng) for _ in range(2000)]
    assert 0 <= min(waits) < 0.005
    assert 0.095 < max(waits) <= 0.1
    assert isinstance(Backoff(), Reopening)


def test_each_retry_has_a_budget_of_its_own():
    assert Retry().budget is not Retry().budget


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: RetryBudget(-0.1), "ratio"),
        (lambda: RetryBudget(1.1), "ratio"),
        (lambda: RetryBudget(float("nan")), "ratio"),
        (lambda: RetryBudget("0.1"), "ratio"),
        (lambda: RetryBudget(True), "ratio"),
        (lambda: RetryBudget(per_second=-1), "per_second"),
        (lambda: RetryBudget(capacity=float("inf")), "capacity"),
        (lambda: Retry(attempts=0), "attempts"),
        (lambda: Retry(attempts=101), "attempts"),
        (lambda: Retry(attempts=2.0), "attempts"),
        (lambda: Retry(budget=0.1), "budget"),
        (lambda: Retry(backoff=1.0), "backoff"),
        (lambda: Backoff(first_wait=0), "first_wait"),
        (lambda: Hedge(0), "hedge.after"),
        (lambda: Hedge(float("inf")), "hedge.after"),
        (lambda: Hedge("soon"), "hedge.after"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(make, word):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(word)
    assert "\n" not in str(caught.value)

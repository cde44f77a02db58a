"""Both windows against the plain way: keep every call and count again."""

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.resilience import CountWindow, Tally, TimeWindow

QUICKLY = 4  # a quick success by the short way, where the window takes it
steps = st.integers(0, QUICKLY)


def put(window: CountWindow | TimeWindow, step: int, now: float = 0.0) -> int:
    """Record a step; the code that it stands for."""
    code = 0 if step == QUICKLY else step
    if step != QUICKLY or not window.add_quick(now):
        window.record(code, now)
    return code


def counted(calls: list[int]) -> Tally:
    return Tally(len(calls), sum(c & 1 for c in calls), sum(c >> 1 for c in calls))


@law(deadline=None)
@given(st.integers(1, 7), st.lists(steps, max_size=40))
def test_a_count_window_holds_the_last_calls(size, path):
    window, calls = CountWindow(size), []
    for step in path:
        calls.append(put(window, step))
        assert window.tally() == counted(calls[-size:])
    assert window.count == len(calls)
    assert window.marked[1:] == [calls.count(code) for code in (1, 2, 3)]


@law(deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0, 3.7]), steps), max_size=40),
    st.floats(0, 12),
)
def test_a_time_window_holds_the_calls_of_the_last_buckets(size, bucket, path, silence):
    window, now, kept = TimeWindow(size, bucket), 0.0, []

    def expected() -> Tally:
        oldest = now // bucket - size
        return counted([code for at, code in kept if at // bucket > oldest])

    for pause, step in path:
        now += pause
        assert window.tally(now) == expected()
        kept.append((now, put(window, step, now)))
        assert window.tally(now) == expected()
    now += silence
    assert window.tally(now) == expected()
    assert window.tally(now) == expected(), "looking twice must not forget twice"


def test_a_call_from_a_clock_that_stepped_back_counts_in_the_newest_bucket():
    window = TimeWindow(2)
    window.record(0, 10.0)
    window.record(1, 3.0)
    assert window.tally(11.0) == (2, 1, 0)
    assert window.tally(12.0) == (0, 0, 0)


def test_a_long_silence_costs_one_turn_of_the_ring():
    window = TimeWindow(3)
    window.record(1, 0.0)
    assert len(list(window._expired(10**12))) == 3


def test_rates_of_nothing_are_zero():
    assert (Tally(0, 0, 0).failure_rate, Tally(0, 0, 0).slow_call_rate) == (0.0, 0.0)
    assert Tally(4, 1, 2).failure_rate == pytest.approx(0.25)
    assert Tally(4, 1, 2).slow_call_rate == pytest.approx(0.5)

"""A manual clock moves only when told, wakes whom it must and nobody else."""

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import settings as law
from hypothesis import strategies as st

from aiinfra_lab.clock import ManualClock, SystemClock

seconds = st.floats(min_value=0, max_value=1e6)


def woken(sleeps: list[float], advances: list[float]) -> list[list[int]]:
    """Which sleepers (by index) have woken, in order, after each advance."""

    async def run() -> list[list[int]]:
        clock, awake, history = ManualClock(), [], []

        async def sleeper(index: int, length: float) -> None:
            await clock.sleep(length)
            awake.append(index)

        tasks = [asyncio.create_task(sleeper(*pair)) for pair in enumerate(sleeps)]
        await asyncio.sleep(0)
        for length in advances:
            clock.advance(length)
            for _ in range(3):
                await asyncio.sleep(0)
            history.append(list(awake))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return history

    return asyncio.run(run())


@law(deadline=None)
@given(st.lists(seconds, max_size=20))
def test_both_faces_of_the_clock_move_by_the_same_amount(steps):
    clock = ManualClock()
    began, shown = clock.monotonic(), clock.now()
    for step in steps:
        clock.advance(step)
    assert clock.monotonic() - began == pytest.approx(math.fsum(steps), abs=1e-7)
    moved = (clock.now() - shown).total_seconds()
    assert moved == pytest.approx(clock.monotonic() - began, abs=2e-6)


@law(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60))
def test_sleepers_wake_in_the_order_of_their_moments_and_none_early(sleeps, moved):
    due = sorted((i for i, s in enumerate(sleeps) if s <= moved), key=lambda i: (sleeps[i], i))
    assert woken(list(map(float, sleeps)), [float(moved)]) == [due]


def test_small_steps_reach_the_moment_that_they_add_up_to():
    assert math.fsum([0.1] * 8) == 0.8  # while 0.1 + 0.1 + ... in floats is less
    history = woken([0.8], [0.1] * 8)
    assert history[6] == []
    assert history[7] == [0]


def test_nothing_moves_by_itself():
    clock = ManualClock()
    assert (clock.monotonic(), clock.now()) == (clock.monotonic(), clock.now())
    assert woken([0.001], [0.0]) == [[]]


def test_a_sleep_of_no_length_returns_and_one_for_ever_does_not():
    assert woken([0.0, -1.0, math.inf], [1e6])[-1] == [0, 1]


def test_a_cancelled_sleeper_does_not_stand_in_the_way():
    async def run() -> bool:
        clock = ManualClock()
        first, second = (asyncio.create_task(clock.sleep(1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        clock.advance(1)
        await second
        return first.cancelled()

    assert asyncio.run(run())


@pytest.mark.parametrize("step", [-1e-9, math.nan, math.inf])
def test_time_goes_forward_by_finite_steps(step):
    clock = ManualClock()
    with pytest.raises(ValueError, match="time goes forward"):
        clock.advance(step)
    assert clock.monotonic() == 0


def test_the_start_is_aware_and_shown_in_utc():
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))
    tokyo = timezone(timedelta(hours=9))
    now = ManualClock(datetime(2026, 1, 1, 9, tzinfo=tokyo)).now()
    assert now == datetime(2026, 1, 1, tzinfo=UTC)
    assert now.utcoffset() == timedelta(0)


def test_the_system_clock_is_aware_and_in_utc():
    assert SystemClock().now().utcoffset() == timedelta(0)

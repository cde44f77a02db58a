"""Ten thousand concurrent calls with faults, cancellations and a clock that steps: no permit is
given twice, and none is lost."""

import asyncio
import random

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.resilience import CircuitBreaker, CircuitOpen, Reopening, Rules, State, Verdicts

PERMITTED = 5


class Ignored(Exception):
    pass


@pytest.mark.parametrize("kind", ["count", "time"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_permits_are_never_exceeded_and_never_leaked(kind, seed):
    rng, clock = random.Random(seed), ManualClock()
    breaker = CircuitBreaker(
        "storm",
        Rules(
            sliding_window_type=kind,
            sliding_window_size=20,
            minimum_number_of_calls=10,
            permitted_calls_in_half_open=PERMITTED,
            slow_call_duration_threshold=3.0,
            max_wait_in_half_open=8.0,
            verdicts=Verdicts(ignore=Ignored),
            reopening=Reopening(first_wait=2.0, max_wait=8.0, jitter="full"),
        ),
        clock=clock,
        rng=random.Random(seed),
    )
    out: dict[int, int] = {}  # half-open generation: probes under way or counted
    most = refused = 0

    async def work():
        nonlocal most
        generation, probing = breaker._generation, breaker.state is State.HALF_OPEN
        if probing:
            out[generation] = out.get(generation, 0) + 1
            most = max(most, out[generation])
        counts = True
        try:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            if (dice := rng.random()) < 0.45:
                raise ConnectionResetError
            if dice < 0.6:
                raise Ignored
        except Ignored:
            counts = False
            raise
        except asyncio.CancelledError:
            counts = False  # unless it was slow; then the breaker allows less than is said here
            raise
        finally:
            if probing and not counts:
                out[generation] -= 1

    async def caller():
        nonlocal refused
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        try:
            await breaker.call(work)
        except CircuitOpen:
            refused += 1
        except (ConnectionResetError, Ignored):
            pass

    done, finished = 0, {"cancelled": 0}
    for _ in range(100):
        tasks = [asyncio.create_task(caller()) for _ in range(100)]
        for _ in range(8):
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
            clock.advance(rng.choice([0.0, 0.25, 1.0]))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        done += len(results)
        finished["cancelled"] += sum(isinstance(r, asyncio.CancelledError) for r in results)
        assert {type(r) for r in results} <= {type(None), asyncio.CancelledError}
        # All calls are over: what is not counted as a result is a permit again.
        seen = breaker.snapshot()
        if seen.state is State.HALF_OPEN:
            assert seen.permits + seen.window.calls == PERMITTED
    assert done == 10_000
    assert most == PERMITTED
    assert refused > 100
    assert finished["cancelled"] > 100
    assert breaker.snapshot().transitions[State.HALF_OPEN] > 10
    # Every call is in one drawer: refused, counted or not, late; or cancelled before it came.
    assert sum(breaker.snapshot().calls.values()) <= done
    assert breaker.snapshot().calls["refused"] == refused
    clock.advance(1000.0)
    breaker.reset()
    assert await breaker.call(asyncio.sleep, 0) is None

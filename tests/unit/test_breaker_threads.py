"""The breaker between threads: the same promises, kept by a lock."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience import CircuitOpen, Reopening, Rules, State, SyncCircuitBreaker

RULES = Rules(
    sliding_window_size=4,
    permitted_calls_in_half_open=2,
    reopening=Reopening(first_wait=10.0, jitter="none"),
)


def refuse():
    raise ConnectionRefusedError


def opened():
    clock = ManualClock()
    breaker = SyncCircuitBreaker("sync", RULES, clock=clock)
    for _ in range(4):
        with pytest.raises(ConnectionRefusedError):
            breaker.call(refuse)
    with pytest.raises(CircuitOpen):
        breaker.call(int)
    return breaker, clock


def test_call_decorator_and_guard_count_alike():
    breaker = SyncCircuitBreaker("sync", Rules(sliding_window_size=10))

    @breaker
    def double(x):
        return 2 * x

    assert (double(2), double.__name__, breaker.call(int, "7")) == (4, "double", 7)
    with breaker.guard() as call:
        call.result(1)
    with pytest.raises(ConnectionRefusedError), breaker.guard():
        refuse()
    assert breaker.snapshot().window == (4, 1, 0)


def test_of_many_threads_half_open_lets_the_permitted_ones_through():
    breaker, clock = opened()
    clock.advance(10.0)
    gate, start = threading.Event(), threading.Barrier(32)
    begun = []

    def one():
        start.wait()
        try:
            breaker.call(lambda: (begun.append(1), gate.wait(30)))
        except CircuitOpen:
            with refused:
                counts[0] += 1
                if counts[0] == 30:
                    gate.set()

    refused, counts = threading.Lock(), [0]
    with ThreadPoolExecutor(32) as pool:
        for future in [pool.submit(one) for _ in range(32)]:
            future.result()
    assert (len(begun), counts[0], breaker.state) == (2, 30, State.CLOSED)


def test_no_count_is_lost_between_threads():
    breaker = SyncCircuitBreaker("sync", Rules(sliding_window_size=1000))
    with ThreadPoolExecutor(8) as pool:
        for future in [
            pool.submit(lambda: [breaker.call(int) for _ in range(500)]) for _ in range(8)
        ]:
            future.result()
    assert breaker.snapshot().calls["success"] == 4000
    assert breaker.snapshot().window == (1000, 0, 0)


@pytest.mark.parametrize("method", ["_admit", "_record", "_release", "_move", "_look"])
def test_each_step_of_the_circuit_holds_the_lock(method, monkeypatch):
    # CPython switches threads so seldom inside these that a race would not show by itself.
    breaker, held = SyncCircuitBreaker("sync", RULES), []
    step = getattr(breaker, method)

    def watched(*args, **kwargs):
        held.append(breaker._step.locked())
        return step(*args, **kwargs)

    monkeypatch.setattr(breaker, method, watched)
    breaker.call(int)
    with pytest.raises(SystemExit):
        breaker.call(sys.exit)
    breaker.reset()
    breaker.snapshot()
    assert held
    assert all(held)


def test_a_listener_runs_outside_the_lock():
    breaker, clock = opened()
    seen = []
    breaker.listen(lambda change: seen.append(breaker.snapshot().state))
    clock.advance(10.0)
    breaker.call(int)
    breaker.call(int)
    assert seen == [State.HALF_OPEN, State.CLOSED]


def test_what_begins_its_work_later_is_not_decorated():
    async def coroutine(): ...

    def generator():
        yield

    for wrong in (coroutine, generator, 3):
        with pytest.raises(InputError, match="plain functions"):
            SyncCircuitBreaker("sync")(wrong)

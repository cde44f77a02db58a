"""The breaker's promises one at a time, as a reader of the specification would try them."""

import asyncio
import functools
import inspect
import logging
import pickle
import random
import threading

import pytest

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.resilience import (
    CircuitBreaker,
    CircuitOpen,
    ForeignLoop,
    Reopening,
    Rules,
    State,
    SyncCircuitBreaker,
    Verdict,
    Verdicts,
)

STEADY = Reopening(first_wait=10.0, max_wait=40.0, jitter="none")


async def succeed(value="fine"):
    return value


async def fail(error=ConnectionRefusedError):
    raise error


def make(clock=None, **options):
    options = {"sliding_window_size": 4, "reopening": STEADY, **options}
    return CircuitBreaker("digits/3", Rules(**options), clock=clock or ManualClock())


async def failures(breaker, number):
    for _ in range(number):
        with pytest.raises(ConnectionRefusedError):
            await breaker.call(fail)


async def opened(clock, **options):
    breaker = make(clock, **options)
    await failures(breaker, breaker.rules.minimum_calls)
    assert breaker.state is State.OPEN
    return breaker


async def test_what_a_call_gives_and_raises_comes_through_unchanged():
    breaker = make()

    @breaker
    async def double(x, *, plus=0):
        """Twice x."""
        if x < 0:
            raise ValueError(x)
        return 2 * x + plus

    assert await double(3, plus=1) == 7
    assert await breaker.call(double, 4) == 8
    with pytest.raises(ValueError, match="-1") as caught:
        await double(-1)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert inspect.iscoroutinefunction(double)


async def test_a_decorated_method_gets_its_object():
    breaker = make()

    class Client:
        @breaker
        async def ask(self, question):
            return self, question

    client = Client()
    assert await client.ask("?") == (client, "?")


async def test_half_of_the_calls_failing_in_turn_opens_the_circuit():
    breaker = make(sliding_window_size=10)
    for i in range(10):
        assert breaker.state is State.CLOSED
        with pytest.raises(ConnectionRefusedError) if i % 2 else _nothing():
            await breaker.call(fail if i % 2 else succeed)
    assert breaker.state is State.OPEN


async def test_the_call_that_fills_the_minimum_may_open_though_it_succeeds():
    breaker = make(sliding_window_size=4)
    await failures(breaker, 3)
    assert breaker.state is State.CLOSED
    await breaker.call(succeed)
    assert breaker.state is State.OPEN


async def test_a_window_that_time_has_emptied_waits_for_its_minimum_again():
    clock = ManualClock()
    breaker = make(
        clock, sliding_window_type="time", sliding_window_size=1, minimum_number_of_calls=3
    )
    for _ in range(5):
        await breaker.call(succeed)
    clock.advance(1.0)
    await failures(breaker, 2)
    assert breaker.state is State.CLOSED
    await breaker.call(succeed)  # a quick one, and yet the call that fills the minimum
    assert breaker.state is State.OPEN


async def test_slow_successes_open_the_circuit():
    clock = ManualClock()
    breaker = make(clock, slow_call_duration_threshold=2.0, slow_call_rate_threshold=0.5)

    async def take(seconds):
        clock.advance(seconds)

    for seconds in (2.0, 2.25, 1.0, 2.25):  # exactly the threshold is not slow
        await breaker.call(take, seconds)
    assert breaker.state is State.OPEN
    assert breaker.snapshot().calls["slow_success"] == 2


async def test_retry_after_counts_down_and_is_never_negative():
    clock = ManualClock()
    breaker = await opened(clock)
    clock.advance(4.0)
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(succeed)
    assert (caught.value.retry_after, caught.value.name, caught.value.state) == (
        6.0,
        "digits/3",
        State.OPEN,
    )
    assert str(caught.value) == "circuit 'digits/3' is open. Retry in 6 s."
    clock.advance(100.0)
    assert breaker.snapshot().retry_after == 0.0
    assert CircuitOpen(-1e-9, "x", State.OPEN).retry_after == 0.0


def test_refusals_survive_pickling():
    for error in (CircuitOpen(2.5, "digits/3", State.HALF_OPEN), ForeignLoop("digits/3")):
        copy = pickle.loads(pickle.dumps(error))
        assert isinstance(copy, AIInfraLabError)
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


async def test_of_two_hundred_callers_half_open_lets_the_permitted_ones_through():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=3)
    clock.advance(10.0)
    gate, begun = asyncio.Event(), 0

    async def probe():
        nonlocal begun
        begun += 1
        await gate.wait()

    calls = [asyncio.create_task(breaker.call(probe)) for _ in range(200)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (begun, breaker.state, breaker.snapshot().permits) == (3, State.HALF_OPEN, 0)
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, CircuitOpen)]
    assert len(refused) == 197
    assert {r.state for r in refused} == {State.HALF_OPEN}
    assert breaker.state is State.CLOSED


async def test_waits_grow_with_each_opening_in_a_row_and_start_again_after_closing():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=1)
    waits = []
    for _ in range(4):
        waits.append(breaker.snapshot().retry_after)
        clock.advance(waits[-1])
        await failures(breaker, 1)
    assert waits == [10.0, 20.0, 40.0, 40.0]
    clock.advance(40.0)
    await breaker.call(succeed)
    assert breaker.state is State.CLOSED
    await failures(breaker, 4)
    assert breaker.snapshot().retry_after == 10.0


async def test_a_late_answer_changes_no_newer_state():
    clock = ManualClock()
    breaker = make(clock, permitted_calls_in_half_open=1)
    gate = asyncio.Event()

    async def hang():
        await gate.wait()
        raise ConnectionResetError

    late = asyncio.create_task(breaker.call(hang))
    await asyncio.sleep(0)
    await failures(breaker, 4)
    clock.advance(10.0)
    await breaker.call(succeed)
    assert breaker.state is State.CLOSED
    gate.set()
    with pytest.raises(ConnectionResetError):
        await late
    seen = breaker.snapshot()
    assert (seen.window.calls, seen.calls["late"]) == (0, 1)


@pytest.mark.parametrize("decorated", [False, True])
async def test_a_late_quick_success_changes_no_newer_state(decorated):
    breaker, gate = make(), asyncio.Event()
    call = breaker(gate.wait) if decorated else functools.partial(breaker.call, gate.wait)
    late = asyncio.create_task(call())
    await asyncio.sleep(0)
    breaker.reset()
    for _ in range(8):
        await breaker.call(succeed)
    gate.set()
    assert await late is True
    calls = breaker.snapshot().calls
    assert (calls["success"], calls["late"]) == (8, 1)


async def test_a_probe_that_hangs_does_not_keep_the_circuit_half_open_for_ever():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=1, max_wait_in_half_open=5.0)
    clock.advance(10.0)
    hung = asyncio.create_task(breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    clock.advance(7.0)
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(succeed)
    # Open since the patience ended, 2 s ago, and for the second wait of 20 s.
    assert (caught.value.state, caught.value.retry_after) == (State.OPEN, 18.0)
    clock.advance(18.0)
    await breaker.call(succeed)
    assert breaker.state is State.CLOSED
    hung.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hung
    assert breaker.snapshot().calls["late"] == 1


async def test_a_probe_that_answers_after_the_patience_is_late():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=1, max_wait_in_half_open=5.0)
    clock.advance(10.0)
    async with breaker.guard():
        clock.advance(5.0)
    seen = breaker.snapshot()
    assert (seen.state, seen.retry_after, seen.calls["late"]) == (State.OPEN, 20.0, 1)


async def test_want_of_traffic_in_half_open_does_not_lengthen_the_wait():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=2, max_wait_in_half_open=5.0)
    clock.advance(10.0)
    await breaker.call(succeed)
    clock.advance(6.0)
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(succeed)
    assert caught.value.retry_after == 9.0


@pytest.mark.parametrize(("limit", "counted"), [(0.02, 0), (0.2, 1)])
async def test_an_outer_timeout_counts_once_the_call_was_slow(limit, counted):
    clock = ManualClock()
    breaker = make(clock, slow_call_duration_threshold=0.1)

    async def hang():
        clock.advance(limit)
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(breaker.call(hang), 0.001)
    calls = breaker.snapshot().calls
    assert (calls["slow_failure"], calls["cancelled"]) == (counted, 1 - counted)


async def test_a_cancelled_probe_gives_its_permit_back():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=1)
    clock.advance(10.0)
    for _ in range(3):
        probe = asyncio.create_task(breaker.call(asyncio.Event().wait))
        await asyncio.sleep(0)
        assert breaker.snapshot().permits == 0
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert breaker.snapshot().permits == 1


class Busy(Exception):
    pass


@pytest.mark.parametrize(("asked", "waits"), [(25.0, 25.0), (3.0, 10.0), (1e9, 600.0)])
async def test_retry_after_prolongs_the_wait_within_reason(asked, waits):
    breaker = make(verdicts=Verdicts(retry_after=lambda found: asked), sliding_window_size=1)
    with pytest.raises(Busy):
        await breaker.call(fail, Busy)
    assert breaker.snapshot().retry_after == waits


async def test_the_longest_retry_after_of_the_generation_that_opens_holds():
    clock = ManualClock()
    asked = iter([100.0, 30.0, 1.0, 20.0, 15.0])
    breaker = make(
        clock, verdicts=Verdicts(retry_after=lambda found: next(asked)), sliding_window_size=2
    )
    await failures(breaker, 1)
    breaker.reset()  # what was asked for before no longer matters
    await failures(breaker, 1)
    clock.advance(3.0)
    await failures(breaker, 1)
    assert breaker.snapshot().retry_after == 27.0
    clock.advance(27.0)
    await failures(breaker, 2)
    assert breaker.snapshot().retry_after == 20.0


async def test_probes_are_counted_however_far_apart_they_are():
    clock = ManualClock()
    breaker = await opened(
        clock,
        sliding_window_type="time",
        sliding_window_size=1,
        minimum_number_of_calls=1,
        permitted_calls_in_half_open=2,
    )
    clock.advance(10.0)
    await failures(breaker, 1)
    clock.advance(3.0)
    await breaker.call(succeed)
    assert breaker.state is State.OPEN, "one failure of two probes is half"


@pytest.mark.parametrize("decorated", [False, True])
async def test_a_bad_result_counts_also_after_a_row_of_quick_successes(decorated):
    breaker = make(verdicts=Verdicts(result=lambda found: found == "bad"))
    call = breaker(succeed) if decorated else functools.partial(breaker.call, succeed)
    for _ in range(8):
        await call("good")
    for number in (1, 2):
        assert await call("bad") == "bad"
        assert breaker.snapshot().calls["failure"] == number
    assert breaker.state is State.OPEN


async def test_operators_force_disable_and_rehearse():
    breaker = make()
    breaker.force_open()
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(succeed)
    assert (caught.value.state, caught.value.retry_after) == (State.FORCED_OPEN, 40.0)
    breaker.disable()
    await failures(breaker, 20)
    assert breaker.snapshot().calls["failure"] == 0
    breaker.only_measure()
    await failures(breaker, 20)
    seen = breaker.snapshot()
    assert (seen.state, seen.window, seen.enough) == (State.METRICS_ONLY, (4, 4, 0), True)
    breaker.reset()
    assert breaker.snapshot().window == (0, 0, 0)
    assert breaker.snapshot().transitions == {
        State.CLOSED: 1,
        State.OPEN: 0,
        State.HALF_OPEN: 0,
        State.FORCED_OPEN: 1,
        State.DISABLED: 1,
        State.METRICS_ONLY: 1,
    }


async def test_reset_starts_the_waits_again():
    clock = ManualClock()
    breaker = await opened(clock, permitted_calls_in_half_open=1)
    clock.advance(10.0)
    await failures(breaker, 1)
    assert breaker.snapshot().retry_after == 20.0
    breaker.reset()
    await failures(breaker, 4)
    assert breaker.snapshot().retry_after == 10.0


async def test_listeners_hear_every_change_and_their_errors_go_to_the_log(caplog):
    clock = ManualClock()
    breaker = make(clock, permitted_calls_in_half_open=1)
    heard = []

    def broken(change):
        raise RuntimeError("listener")

    breaker.listen(broken)
    stop = breaker.listen(heard.append)
    with caplog.at_level(logging.ERROR, logger="aiinfra_lab.resilience"):
        await failures(breaker, 4)
        clock.advance(10.0)
        await breaker.call(succeed)
    assert len(caplog.records) == 3
    assert [(c.before, c.after, c.generation, c.reason) for c in heard] == [
        (State.CLOSED, State.OPEN, 1, "failure rate"),
        (State.OPEN, State.HALF_OPEN, 2, "the wait is over"),
        (State.HALF_OPEN, State.CLOSED, 3, "the probes passed"),
    ]
    assert (heard[0].tally, heard[0].at, heard[0].name) == ((4, 4, 0), 0.0, "digits/3")
    stop()
    stop()
    breaker.reset()
    assert len(heard) == 3


async def test_a_listener_may_use_the_breaker_and_all_hear_in_order():
    breaker, heard = make(), []
    breaker.listen(lambda change: breaker.reset() if change.after is State.OPEN else None)
    breaker.listen(lambda change: heard.append((change.after, breaker.state)))
    await failures(breaker, 4)
    assert heard == [(State.OPEN, State.CLOSED), (State.CLOSED, State.CLOSED)]


async def test_a_guard_is_for_one_call_and_shows_results():
    breaker = make(verdicts=Verdicts(result=lambda found: found == "bad"))
    async with breaker.guard() as call:
        assert call.result("bad") == "bad"
    with breaker.guard():
        pass
    with pytest.raises(ConnectionRefusedError):
        async with breaker.guard():
            await fail()
    assert breaker.snapshot().window == (3, 2, 0)
    used = breaker.guard()
    with used:
        pass
    with pytest.raises(InputError, match="one call"), used:
        pass


async def test_ignored_results_and_errors_are_not_counted():
    breaker = make(verdicts=Verdicts(ignore=KeyError, result=lambda found: Verdict.IGNORE))
    await breaker.call(succeed)
    with pytest.raises(KeyError):
        await breaker.call(fail, KeyError)
    seen = breaker.snapshot()
    assert (seen.window.calls, seen.calls["ignored"]) == (0, 2)


def test_loops_in_one_thread_may_follow_one_another_and_a_second_thread_is_refused():
    breaker, caught = make(), []

    def elsewhere():
        for start in (lambda: breaker.call(succeed), lambda: _guarded(breaker), decorated):
            try:
                asyncio.run(start())
            except ForeignLoop as error:
                caught.append(error.name)

    decorated = breaker(succeed)
    for _ in range(2):
        assert asyncio.run(breaker.call(succeed)) == "fine"
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == ["digits/3"] * 3
    assert breaker.snapshot().window.calls == 2


def test_a_breaker_outlives_the_thread_that_had_it():
    breaker = make()
    thread = threading.Thread(target=lambda: asyncio.run(breaker.call(succeed)))
    thread.start()
    thread.join()
    assert asyncio.run(breaker.call(succeed)) == "fine"


async def test_a_quick_success_is_counted_like_any_other():
    breaker = make(sliding_window_size=5)
    await failures(breaker, 2)
    for number in range(1, 20):
        await breaker.call(succeed)
        if breaker.state is not State.CLOSED:  # 2 of 4 is not reached: the minimum is 5
            pytest.fail("opened")
        assert breaker.snapshot().calls["success"] == number
        assert breaker.snapshot().window == (min(5, number + 2), max(0, 2 - max(0, number - 3)), 0)


BAD = {
    "failure_rate_threshold": [0, -0.1, 1.01, 50, float("nan"), "0.5", None, True],
    "slow_call_rate_threshold": [0, 1.5, float("inf")],
    "slow_call_duration_threshold": [0, -1.0, float("nan"), None],
    "sliding_window_type": ["calls", None],
    "sliding_window_size": [0, -1, 2.5, True, 10**9, "9"],
    "minimum_number_of_calls": [0, 101, 1.0],
    "permitted_calls_in_half_open": [0, -3, 101, 2.0],
    "max_wait_in_half_open": [0, -1.0, "5"],
    "max_retry_after": [0, float("inf")],
    "verdicts": [None, Exception],
    "reopening": [None, 60.0],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in BAD.items() for v in vs])
def test_a_rule_outside_its_range_is_refused_by_name(name, value):
    if value is None and "calls" in name:
        pytest.skip("None asks for the default")
    with pytest.raises(InputError, match=name):
        Rules(**{name: value})


@pytest.mark.parametrize("kind", [CircuitBreaker, SyncCircuitBreaker])
def test_a_breaker_of_something_else_is_refused(kind):
    with pytest.raises(InputError, match="name"):
        kind("")
    with pytest.raises(InputError, match="rules"):
        kind("x", {"failure_rate_threshold": 0.5})
    with pytest.raises(InputError, match="listener"):
        kind("x").listen(3)


def test_defaults_fit_themselves_into_a_small_window():
    rules = Rules(sliding_window_size=3)
    assert (rules.minimum_calls, rules.permitted_calls) == (3, 3)
    rules = Rules(sliding_window_size=3, sliding_window_type="time")
    assert (rules.minimum_calls, rules.permitted_calls) == (10, 10)
    assert pickle.loads(pickle.dumps(rules)) == rules


def test_only_coroutine_functions_are_decorated():
    for wrong in (len, functools.partial(print), lambda: succeed(), 3):
        with pytest.raises(InputError, match="coroutine functions"):
            make()(wrong)


async def test_jitter_comes_from_the_generator_that_was_given():
    def waits(seed):
        breaker = CircuitBreaker(
            "x", Rules(sliding_window_size=1), clock=ManualClock(), rng=random.Random(seed)
        )
        breaker._open(0.0, "test")
        return breaker.snapshot().retry_after

    assert waits(1) == waits(1) == 30.0 + 30.0 * random.Random(1).random()
    assert waits(1) != waits(2)


async def _guarded(breaker):
    async with breaker.guard():
        return await succeed()


def _nothing():
    import contextlib

    return contextlib.nullcontext()

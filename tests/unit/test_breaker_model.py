"""The breaker against a slow model of its specification that keeps every call in a list.

No event loop: a coroutine is driven by hand, so that any number of calls are under way at once
and end in any order. The model reads ``aiinfra_lab.resilience.breaker``'s docstring, not its code.
"""

import asyncio
import math
import random
import types

import pytest
from hypothesis import settings as law
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.resilience import (
    CircuitBreaker,
    CircuitOpen,
    Reopening,
    Rules,
    State,
    Verdict,
    Verdicts,
)

SLOW = 2.0
LONGEST_PAUSE = 30.0


class Ignored(Exception):
    pass


class Answered(Exception):
    """Neither recorded nor ignored: a success."""


class Busy(Exception):
    def __init__(self, pause):
        super().__init__(pause)
        self.pause = pause


VERDICTS = {
    "record": (Busy, OSError),
    "ignore": Ignored,
    "retry_after": lambda found: getattr(found, "pause", None),
}
ENDS = {
    "ok": lambda: "ok",
    "refused": lambda: ConnectionRefusedError(),
    "answered": lambda: Answered(),
    "ignored": lambda: Ignored(),
    "busy 5": lambda: Busy(5.0),
    "busy 1000": lambda: Busy(1000.0),
    "bad result": lambda: Verdict.FAILURE,
    "ignored result": lambda: Verdict.IGNORE,
    "cancelled": lambda: asyncio.CancelledError(),
    "closed": lambda: GeneratorExit(),
}


class Model:
    """The specification, told slowly."""

    def __init__(self, rules, clock, seed, judges_results):
        self.rules, self.clock, self.rng = rules, clock, random.Random(seed)
        self.judges_results = judges_results
        self.state, self.generation, self.until = State.CLOSED, 0, math.inf
        self.attempt = 0
        recorded = ["success", "failure", "slow_success", "slow_failure"]
        others = ["ignored", "cancelled", "late", "refused"]
        self.counts = dict.fromkeys(recorded + others, 0)
        self.fresh()

    def fresh(self):
        self.history = []  # (second, failed, slow)
        self.probes_out = 0
        self.asked_until = -math.inf

    def now(self):
        return self.clock.monotonic()

    def enter(self, state, until=math.inf):
        self.state, self.until = state, until
        self.generation += 1
        self.fresh()

    def open(self, at):
        policy = self.rules.reopening
        bound = min(policy.max_wait, policy.first_wait * policy.multiplier**self.attempt)
        random_part = {"none": 0, "equal": bound / 2, "full": bound}[policy.jitter]
        wait = max(bound - random_part, self.asked_until - at) + random_part * self.rng.random()
        self.attempt += 1
        self.enter(State.OPEN, at + wait)

    def give_up_waiting(self):
        if self.probes_out == 0:
            self.attempt -= 1
        self.open(self.until)

    def counted(self):
        if self.state is State.HALF_OPEN:
            return self.history
        if self.rules.sliding_window_type == "count":
            return self.history[-self.rules.sliding_window_size :]
        oldest = math.floor(self.now()) - self.rules.sliding_window_size
        return [call for call in self.history if math.floor(call[0]) > oldest]

    def tally(self):
        calls = self.counted()
        return len(calls), sum(c[1] for c in calls), sum(c[2] for c in calls)

    def begin(self):
        """The generation of an admitted call, or the state that refuses."""
        if self.state is State.HALF_OPEN and self.now() >= self.until:
            self.give_up_waiting()
        if self.state is State.OPEN and self.now() >= self.until:
            self.enter(State.HALF_OPEN, self.now() + self.rules.max_wait_in_half_open)
        if self.state in (State.OPEN, State.FORCED_OPEN):
            self.counts["refused"] += 1
            return self.state
        if self.state is State.HALF_OPEN:
            if self.probes_out + len(self.history) >= self.rules.permitted_calls:
                self.counts["refused"] += 1
                return self.state
            self.probes_out += 1
        return self.generation

    def end(self, generation, took, how):
        at = self.now()
        if generation == self.generation and self.state is State.HALF_OPEN and at >= self.until:
            self.give_up_waiting()
        if generation != self.generation:
            self.counts["late"] += 1
            return
        if self.state is State.DISABLED:
            return
        if self.state is State.HALF_OPEN:
            self.probes_out -= 1
        slow = took > SLOW
        failed = how in ("refused", "busy 5", "busy 1000") or (how == "cancelled" and slow)
        if self.judges_results:
            failed = failed or how == "bad result"
        if how == "closed" or how == "ignored" or (how == "ignored result" and self.judges_results):
            self.counts["ignored"] += 1
            return
        if how == "cancelled" and not slow:
            self.counts["cancelled"] += 1
            return
        self.counts[("slow_" if slow else "") + ("failure" if failed else "success")] += 1
        self.history.append((at, failed, slow))
        if how.startswith("busy"):
            self.asked_until = max(self.asked_until, at + min(float(how[5:]), LONGEST_PAUSE))
        calls, failures, slows = self.tally()
        if self.state is State.CLOSED and calls < self.rules.minimum_calls:
            return
        if self.state is State.HALF_OPEN and calls < self.rules.permitted_calls:
            return
        broken = calls and (
            failures / calls >= self.rules.failure_rate_threshold
            or slows / calls >= self.rules.slow_call_rate_threshold
        )
        if self.state in (State.CLOSED, State.HALF_OPEN) and broken:
            self.open(at)
        elif self.state is State.HALF_OPEN:
            self.attempt = 0
            self.enter(State.CLOSED)

    def order(self, state):
        self.attempt = 0
        self.enter(state)


@types.coroutine
def pause():
    """Hand control to whoever drives the coroutine; what it sends is how the work ends."""
    return (yield)


async def work():
    ending = await pause()
    if isinstance(ending, BaseException):
        raise ending
    return ending


class Drill(RuleBasedStateMachine):
    """Random calls, endings, times and operators; after each step both must agree."""

    @initialize(
        kind=st.sampled_from(["count", "time"]),
        size=st.integers(1, 6),
        minimum=st.integers(1, 6),
        permitted=st.integers(1, 4),
        failure_rate=st.sampled_from([0.1, 0.3, 0.5, 2 / 3, 1.0]),
        slow_rate=st.sampled_from([0.3, 0.5, 1.0]),
        patience=st.sampled_from([3.0, 20.0, math.inf]),
        jitter=st.sampled_from(["none", "equal", "full"]),
        seed=st.integers(0, 3),
        judges_results=st.booleans(),
    )
    def start(
        self,
        kind,
        size,
        minimum,
        permitted,
        failure_rate,
        slow_rate,
        patience,
        jitter,
        seed,
        judges_results,
    ):
        def predicate(found):
            return found if isinstance(found, Verdict) else False

        self.rules_ = Rules(
            failure_rate_threshold=failure_rate,
            slow_call_rate_threshold=slow_rate,
            slow_call_duration_threshold=SLOW,
            sliding_window_type=kind,
            sliding_window_size=size,
            minimum_number_of_calls=min(minimum, size) if kind == "count" else minimum,
            permitted_calls_in_half_open=min(permitted, size) if kind == "count" else permitted,
            max_wait_in_half_open=patience,
            max_retry_after=LONGEST_PAUSE,
            verdicts=Verdicts(**VERDICTS, result=predicate if judges_results else None),
            reopening=Reopening(first_wait=4.0, multiplier=2.0, max_wait=10.0, jitter=jitter),
        )
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(
            "drill", self.rules_, clock=self.clock, rng=random.Random(seed)
        )
        self.model = Model(self.rules_, self.clock, seed, judges_results)
        self.decorated = self.breaker(work)
        self.under_way = []
        self.told = []
        self.breaker.listen(self.told.append)

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 2.25, 4.0, 10.0, 40.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @precondition(lambda self: len(self.under_way) < 12)
    @rule(way=st.sampled_from(["call", "decorated", "guard"]))
    def begin(self, way):
        self._begin(way)

    def _begin(self, way):
        async def guarded():
            async with self.breaker.guard() as call:
                return call.result(await work())

        call = {
            "call": lambda: self.breaker.call(work),
            "decorated": self.decorated,
            "guard": guarded,
        }[way]()
        expected = self.model.begin()
        if isinstance(expected, State):
            with pytest.raises(CircuitOpen) as caught:
                call.send(None)
            assert caught.value.state is expected
            assert caught.value.name == "drill"
            longest = 10.0
            left = {
                State.OPEN: self.model.until - self.clock.monotonic(),
                State.HALF_OPEN: min(self.model.until - self.clock.monotonic(), longest),
                State.FORCED_OPEN: longest,
            }[expected]
            assert caught.value.retry_after == pytest.approx(left)
            assert 0 <= caught.value.retry_after < math.inf
            return False
        call.send(None)
        self.under_way.append((call, expected, self.clock.monotonic()))
        return True

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 11), how=st.sampled_from(sorted(ENDS)))
    def end(self, which, how):
        self._end(which, how)

    def _end(self, which, how):
        call, generation, began = self.under_way.pop(which % len(self.under_way))
        ending = ENDS[how]()
        self.model.end(generation, self.clock.monotonic() - began, how)
        if how == "closed":
            call.close()
        elif isinstance(ending, BaseException):
            with pytest.raises(type(ending)):
                call.throw(ending)
        else:
            with pytest.raises(StopIteration) as done:
                call.send(ending)
            assert done.value.value is ending

    @rule(endings=st.lists(st.sampled_from(["ok", "ok", "bad result", "refused"]), max_size=8))
    def burst(self, endings):
        """Calls one after the other: windows fill, and quick successes take their short way."""
        for ending in endings:
            if self._begin("call" if len(endings) % 2 else "decorated"):
                self._end(-1, ending)
                self.agree()

    @precondition(lambda self: self.model.state in (State.CLOSED, State.OPEN))
    @rule(probes=st.integers(1, 3))
    def trip_and_probe(self, probes):
        """Where chance alone seldom comes: half-open, with probes under way."""
        for _ in range(self.rules_.minimum_calls):
            if self.model.state is State.CLOSED and self._begin("call"):
                self._end(-1, "refused")
        if self.model.state is State.OPEN:
            self.clock.advance(self.breaker.snapshot().retry_after + 0.001)
            for _ in range(probes):
                self._begin("call")

    @rule(
        order=st.sampled_from(
            [
                ("reset", State.CLOSED),
                ("force_open", State.FORCED_OPEN),
                ("disable", State.DISABLED),
                ("only_measure", State.METRICS_ONLY),
            ]
        ),
        sure=st.integers(0, 3),
    )
    def operate(self, order, sure):
        method, state = order
        if sure == 0 or state is State.CLOSED:  # else nearly every run would end disabled
            getattr(self.breaker, method)()
            self.model.order(state)

    @invariant()
    def agree(self):
        if not hasattr(self, "breaker"):
            return
        seen, model = self.breaker.snapshot(), self.model
        assert self.breaker.state is seen.state is model.state
        assert seen.generation == model.generation == len(self.told)
        assert seen.window == model.tally()
        assert seen.calls == model.counts
        if model.state is State.HALF_OPEN:
            assert model.probes_out + len(model.history) <= self.rules_.permitted_calls
            assert seen.permits == (
                self.rules_.permitted_calls - model.probes_out - len(model.history)
            )
        else:
            assert seen.permits == 0
        assert 0 <= seen.retry_after < math.inf

    def teardown(self):
        for call, *_ in getattr(self, "under_way", ()):
            call.close()


Drill.TestCase.settings = law(deadline=None, max_examples=150, stateful_step_count=40)
TestDrill = Drill.TestCase

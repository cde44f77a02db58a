"""The circuit as a machine of states, without calls: what ``CircuitBreaker`` and its synchronous
sister share.

Nothing here awaits, locks or calls foreign code, so every method is one step: between a test of
the permits and the taking of one nobody else runs. Changes of state are queued, and told to
listeners by ``_tell`` once the step is over. ``_turn`` is the only place where the state changes,
and ``_decide`` the only one that judges probes: ``SharedCircuitBreaker`` comes in there.

The *generation* (gobreaker's word) is the number of the current state. A call takes it along, and
a result that comes back under another number is late: it changes nothing.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.refusals import CircuitOpen
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.states import Listener, Snapshot, State, Transition
from aiinfra_lab.resilience.verdicts import Verdict
from aiinfra_lab.resilience.windows import (
    FAILED,
    FAILED_SLOW,
    QUICK,
    SLOW,
    CountWindow,
    Tally,
    TimeWindow,
)

_log = logging.getLogger(__name__)
_NEVER = -math.inf  # no duration is as short as this


class Circuit:
    """States, permits and windows; see ``CircuitBreaker`` for the specification."""

    def __init__(
        self,
        name: str,
        rules: Rules | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise InputError("name is a text that is not empty", found=repr(name))
        if rules is not None and not isinstance(rules, Rules):
            raise InputError("rules is a Rules", found=repr(rules))
        self.name, self.rules = name, rules or Rules()
        # The built-in, not SystemClock's method around it: twice per call that is felt.
        self._now: Callable[[], float] = clock.monotonic if clock else time.monotonic
        self._rng = rng or random.Random()
        self._state = State.CLOSED
        self._generation = 0
        self._window: CountWindow | TimeWindow = self.rules.new_window()
        self._quick_upto = _NEVER
        self._permits = 0
        self._until = 0.0  # end of the wait when open, of the patience when half-open
        self._not_before = _NEVER  # what Retry-After asked for in this generation
        self._attempt = 0
        self._totals = [0, 0, 0, 0]  # recorded calls of past generations, by code
        self._ignored = self._cancelled = self._late = self._refused = 0
        self._entered = dict.fromkeys(State, 0)
        self._listeners: list[Listener] = []
        self._untold: deque[Transition] = deque()
        self._telling = threading.Lock()

    # ---- one call

    def _admit(self, now: float) -> int:
        """Let a call begin and give its generation; raises CircuitOpen."""
        if self._state is State.HALF_OPEN and now >= self._until:
            self._expire()
        if self._state is State.OPEN and now >= self._until:
            self._turn(State.HALF_OPEN, now, "the wait is over")
        state = self._state
        if state is State.HALF_OPEN and self._permits > 0:
            self._permits -= 1
            return self._generation
        if state in (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN):
            raise self._refusal(now)
        return self._generation

    def _refusal(self, now: float) -> CircuitOpen:
        self._refused += 1
        return CircuitOpen(self._retry_after(now), self.name, self._state)

    def _record(self, generation: int, code: int, now: float, pause: float = 0.0) -> int | None:
        """Count the result of a call and let it change the state.

        Gives the code again, or None where the call does not count; so do those that end here.
        """
        if self._too_late(generation, now) or self._state is State.DISABLED:
            return None
        self._window.record(code, now)
        if pause > 0:
            until = now + min(pause, self.rules.max_retry_after)
            self._not_before = max(self._not_before, until)
        if self._state is State.CLOSED:
            tally = self._window.tally(now)
            if tally.calls < self.rules.minimum_calls:
                self._quick_upto = _NEVER  # time may have emptied the window
            elif reason := self.rules.broken(tally):
                self._open(now, reason)
            else:
                # From here on a quick success that the window takes by add_quick lowers the rates.
                self._quick_upto = self.rules.slow_call_duration_threshold
        elif self._state is State.HALF_OPEN:
            self._decide(now, self._window.tally(now))
        return code

    def _decide(self, now: float, probes: Tally) -> None:
        """End half-open once all results are in."""
        if probes.calls < self.rules.permitted_calls:
            return
        if reason := self.rules.broken(probes):
            self._open(now, f"{reason} of the probes")
        else:
            self._attempt = 0
            self._turn(State.CLOSED, now, "the probes passed")

    def _release(self, generation: int, now: float, *, cancelled: bool = False) -> None:
        """End a call that says nothing; a probe gives its permit back."""
        if self._too_late(generation, now) or self._state is State.DISABLED:
            return
        if self._state is State.HALF_OPEN:
            self._permits += 1
        if cancelled:
            self._cancelled += 1
        else:
            self._ignored += 1

    def _ended(
        self, generation: int, now: float, took: float, verdict: Verdict, pause: float
    ) -> int | None:
        """Count a call by its verdict and length."""
        if verdict is Verdict.IGNORE:
            self._release(generation, now)
            return None
        code = FAILED if verdict is Verdict.FAILURE else QUICK
        if self.rules.is_slow(took):
            code |= SLOW
        return self._record(generation, code, now, pause)

    def _interrupted(
        self, generation: int, now: float, took: float, error: BaseException
    ) -> int | None:
        """End a call that a cancellation, Ctrl-C or the closing of a coroutine broke off."""
        cancelled = isinstance(error, CancelledError)
        if cancelled and self.rules.is_slow(took):
            return self._record(generation, FAILED_SLOW, now)
        self._release(generation, now, cancelled=cancelled)
        return None

    def _too_late(self, generation: int, now: float) -> bool:
        if generation == self._generation and (
            self._state is State.HALF_OPEN and now >= self._until
        ):
            self._expire()
        if generation == self._generation:
            return False
        self._late += 1
        return True

    # ---- changes of state

    def _expire(self) -> None:
        """End a half-open state that has waited too long for its probes.

        It counts as having ended when its time was up, though nobody looked until now. Only
        probes that are still out lengthen the next wait: for want of traffic nobody is to blame.
        """
        if not self._probes_out():
            self._attempt -= 1
        self._open(self._until, "the probes are overdue")

    def _probes_out(self) -> int:
        return self.rules.permitted_calls - self._permits - self._window.count

    def _open(self, at: float, reason: str) -> None:
        asked = max(0.0, self._not_before - at)
        wait = self.rules.reopening.wait(self._attempt, self._rng, asked)
        self._attempt += 1
        self._turn(State.OPEN, at, reason, at + wait)

    def _turn(self, after: State, at: float, reason: str, until: float = math.inf) -> None:
        """Enter a state: a new generation with an empty window and its own permits."""
        before, window, rules = self._state, self._window, self.rules
        self._totals = self._recorded()
        self._state, self._until = after, until
        self._generation += 1
        self._quick_upto = self._not_before = _NEVER
        self._permits = 0
        self._window = rules.new_window()
        if after is State.HALF_OPEN:
            self._permits, self._until = rules.permitted_calls, at + rules.max_wait_in_half_open
            self._window = CountWindow(rules.permitted_calls)
        self._entered[after] += 1
        if self._listeners:
            tally = window.tally(at)
            self._untold.append(
                Transition(self.name, before, after, at, self._generation, reason, tally)
            )

    def _move(self, after: State, reason: str) -> None:
        """What an operator asked for."""
        self._attempt = 0
        self._turn(after, self._now(), reason)

    # ---- listeners and looks

    def _tell(self) -> None:
        """Tell the listeners what has changed, in order, also where one changes something."""
        # Whoever adds while another thread tells may go: the teller looks again after it let go.
        while self._untold and self._telling.acquire(blocking=False):
            try:
                while self._untold:
                    change = self._untold.popleft()
                    for listener in tuple(self._listeners):
                        try:
                            listener(change)
                        except Exception:
                            _log.exception("a listener of circuit %r failed", self.name)
            finally:
                self._telling.release()

    def _recorded(self) -> list[int]:
        marked = self._window.marked
        quick = self._window.count - sum(marked[1:])
        return [a + b for a, b in zip(self._totals, [quick, *marked[1:]], strict=True)]

    def _retry_after(self, now: float) -> float:
        longest = self.rules.reopening.max_wait
        if self._state is State.OPEN:
            return max(0.0, self._until - now)
        if self._state is State.HALF_OPEN:
            return max(0.0, min(self._until - now, longest))
        return longest if self._state is State.FORCED_OPEN else 0.0

    def _look(self, now: float) -> Snapshot:
        tally = self._window.tally(now)
        success, failure, slow_success, slow_failure = self._recorded()
        needed = (
            self.rules.permitted_calls
            if self._state is State.HALF_OPEN
            else self.rules.minimum_calls
        )
        return Snapshot(
            name=self.name,
            state=self._state,
            generation=self._generation,
            window=tally,
            enough=tally.calls >= needed,
            permits=self._permits,
            retry_after=self._retry_after(now),
            calls={
                "success": success,
                "failure": failure,
                "slow_success": slow_success,
                "slow_failure": slow_failure,
                "ignored": self._ignored,
                "cancelled": self._cancelled,
                "late": self._late,
                "refused": self._refused,
            },
            transitions=dict(self._entered),
        )

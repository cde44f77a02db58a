"""A circuit breaker for asyncio.

Specification
-------------
States. CLOSED lets calls pass and counts them. OPEN refuses them with ``CircuitOpen`` until its
wait is over. HALF_OPEN lets a few pass as probes. An operator may set FORCED_OPEN (refuses all),
DISABLED (lets all pass, counts nothing) and METRICS_ONLY (lets all pass, counts, never opens);
``reset()`` leads out of them, and out of any state, to CLOSED with an empty window.

Counting. A call ends as a success or a failure (``Verdicts``), and as quick or slow (it took
longer than ``slow_call_duration_threshold``). After *every* recorded call, a success as well, and
once the window holds ``minimum_number_of_calls``, the circuit opens if the share of failures or
of slow calls has reached its threshold. Ignored calls are not recorded.

Cancellation. A cancelled call that was already slow is recorded as a slow failure: so does an
outer ``asyncio.wait_for`` count. A quicker one says nothing about the other side and is not
recorded. Ctrl-C, ``SystemExit`` and a closed coroutine are never recorded.

Half-open. ``permitted_calls_in_half_open`` permits; taking one is a step without await, so no
number of concurrent callers gets more. A probe that ends ignored, or cancelled before it was
slow, gives its permit back. When as many results as permits are in, the same two rates decide:
OPEN again, or CLOSED. Without enough results after ``max_wait_in_half_open`` it is OPEN again, as
of that moment.

Generation. Each state has a number (gobreaker's *generation*). A call that began under another
number changes nothing when it ends, and gives no permit back to a state it took none from.

Waits. The k-th opening in a row waits as ``Reopening`` says; CLOSED and ``reset()`` start again
at k = 0. A probe that is still out when half-open gives up makes k grow; mere want of traffic
does not. A Retry-After seen in a failure of the generation that opens prolongs the wait.

Time. All durations are on the injected monotonic clock. Changes that time brings are made by the
next call: a circuit that nobody calls stays OPEN with ``retry_after`` 0.

Listeners. Called after the change, in order, outside the step that made it; what they raise is
logged. A listener may itself use the breaker.

Loops. A breaker belongs to the thread whose event loop first calls it, as long as that thread
lives; loops may follow one another in it, and a call from another thread's loop raises
``ForeignLoop``. A lock would make it safe, but every call dearer. (The thread is compared and not
the loop: on Python 3.11 ``get_running_loop`` costs six times as much.) Only ``snapshot()``
may be asked from another thread; its numbers may then lie one call apart. Operators' methods go
through ``loop.call_soon_threadsafe``. Between threads use ``SyncCircuitBreaker``.

References
----------
resilience4j, "CircuitBreaker" (names of the options); Polly v8, circuit breaker strategy
(isolated state, break duration generator); sony/gobreaker (generation); M. Nygard,
*Release It!*, 2nd ed., section 5.2.
"""

from __future__ import annotations

import functools
import inspect
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.controls import Controls
from aiinfra_lab.resilience.guard import NOTHING
from aiinfra_lab.resilience.refusals import ForeignLoop
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.states import State
from aiinfra_lab.resilience.verdicts import Verdict

P = ParamSpec("P")
T = TypeVar("T")
_CLOSED, _SUCCESS = State.CLOSED, Verdict.SUCCESS
_adoption = threading.Lock()


class CircuitBreaker(Controls):
    """The breaker of one dependency, for the tasks of one event loop.

    Parameters
    ----------
    name : str
        What errors, listeners and metrics call it.
    rules : Rules, optional
    clock : Clock, optional
        Whose ``monotonic()`` measures; the machine's by default.
    rng : random.Random, optional
        Draws the jitter. Seeded by the operating system by default, which is what keeps clients
        apart: give a seed to tests, not to a fleet.

    Raises
    ------
    InputError
        A parameter is of the wrong kind.

    Examples
    --------
    >>> breaker = CircuitBreaker("digits/3", Rules(failure_rate_threshold=0.3))
    >>> @breaker
    ... async def predict(image): ...
    >>> answer = await breaker.call(predict_once, image)  # doctest: +SKIP
    >>> async with breaker.guard() as call:  # doctest: +SKIP
    ...     answer = call.result(await session.post(url, json=body))
    """

    def __init__(
        self,
        name: str,
        rules: Rules | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(name, rules, clock=clock, rng=rng)
        self._thread: threading.Thread | None = None
        self._ident = 0  # of self._thread
        verdicts = self.rules.verdicts
        self._judge = verdicts.of_result if verdicts.result else None

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await ``function(*args, **kwargs)`` under the breaker and give its result.

        Raises
        ------
        CircuitOpen
            The call was refused; ``function`` was not called.
        ForeignLoop
            The breaker belongs to another thread's event loop.
        """
        # The way of a quick success in CLOSED is written out, here and in the decorator, where one
        # coroutine more would cost as much again as all of this: one comparison of threads, one
        # of states, two looks at the clock, one into the window. The rest is in _enter and _count.
        if get_ident() != self._ident:
            self._adopt()
        began = self._now()
        generation = self._generation if self._state is _CLOSED else self._enter(began)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            self._end(generation, began, error, NOTHING)
            raise
        ended = self._now()
        verdict = _SUCCESS if self._judge is None else self._judge(result)
        if (
            ended - began > self._quick_upto
            or verdict is not _SUCCESS
            or generation != self._generation
            or not self._window.add_quick(ended)
        ):
            self._count(generation, began, ended, verdict, result)
        return result

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate a coroutine function; each of its calls then goes through the breaker.

        Raises
        ------
        InputError
            ``function`` is no coroutine function.
        """
        if not inspect.iscoroutinefunction(function):
            raise InputError(
                f"circuit {self.name!r} decorates coroutine functions",
                found=repr(function),
                fix="SyncCircuitBreaker takes plain functions; guard() is for generators.",
            )
        now, judge = self._now, self._judge

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if get_ident() != self._ident:
                self._adopt()
            began = now()
            generation = self._generation if self._state is _CLOSED else self._enter(began)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                self._end(generation, began, error, NOTHING)
                raise
            ended = now()
            verdict = _SUCCESS if judge is None else judge(result)
            if (
                ended - began > self._quick_upto
                or verdict is not _SUCCESS
                or generation != self._generation
                or not self._window.add_quick(ended)
            ):
                self._count(generation, began, ended, verdict, result)
            return result

        return guarded

    def _adopt(self) -> None:
        """Belong to this thread, unless the thread that had the breaker still lives."""
        with _adoption:  # two loops may come at once
            if self._thread is not None and self._thread.is_alive():
                raise ForeignLoop(self.name)
            self._thread, self._ident = threading.current_thread(), get_ident()

    def _begin(self) -> tuple[int, float]:
        if get_ident() != self._ident:
            self._adopt()
        return super()._begin()

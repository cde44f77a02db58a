"""A breaker whose state all processes share: one opens it, and nobody calls; all probe as one.

What differs from ``CircuitBreaker``
------------------------------------
Closed, every process counts its own calls in its own window, and a call costs the same. The first
whose rates break opens the circuit for all; ``minimum_number_of_calls`` is therefore a number per
process. Open, calls are refused without asking anybody. Half-open, ``permitted_calls_in_half_open``
is the number of probes of all processes together, and the decision is made on all their results.
A permit is a lease: that of a process which died is free again after the store's ``lease``.

Every change of state that this process makes by itself is told to the store, and stands only if
the store has heard of no other in the meantime. Operators' methods always stand, everywhere.

While the store is lost (``snapshot().shared`` is False) this is a ``CircuitBreaker``: its own
state, its own permits. N processes may then send N times the permitted probes.

References
----------
Leases: C. Gray and D. Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed
file cache consistency", SOSP 1989.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import random
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from aiinfra_lab.clock import Clock
from aiinfra_lab.errors import InputError
from aiinfra_lab.resilience.breaker import CircuitBreaker
from aiinfra_lab.resilience.guard import NOTHING, Guard
from aiinfra_lab.resilience.rules import Rules
from aiinfra_lab.resilience.states import Snapshot, State
from aiinfra_lab.resilience.store import ABSENT, ANY, CircuitStore, Record
from aiinfra_lab.resilience.windows import Tally

P = ParamSpec("P")
T = TypeVar("T")
_NEVER = -math.inf
_TRIES = 5  # of one call, while others change the state under its hands
_FULL_S = 0.05  # how long "all permits are taken" is believed before the store is asked again


class Permit(NamedTuple):
    """A probe of this process: its lease, and the state that gave it."""

    holder: str
    epoch: int
    generation: int
    began: float


class SharedCircuitBreaker(CircuitBreaker):
    """``CircuitBreaker`` with the state of a ``CircuitStore``.

    Parameters
    ----------
    name : str
        Also the circuit's name in the store.
    rules : Rules, optional
        The same in all processes.
    store : CircuitStore
    clock, rng
        As in ``CircuitBreaker``.

    Raises
    ------
    InputError
        ``store`` is none, or has a circuit of that name in this process.

    Examples
    --------
    >>> async with CircuitStore(client) as store:  # doctest: +SKIP
    ...     breaker = SharedCircuitBreaker("digits/3", store=store)
    ...     answer = await breaker.call(predict_once, image)
    """

    def __init__(
        self,
        name: str,
        rules: Rules | None = None,
        *,
        store: CircuitStore,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if not isinstance(store, CircuitStore):
            raise InputError("store is a CircuitStore", found=repr(store))
        super().__init__(name, rules, clock=clock, rng=rng)
        self._store = store
        self._epoch = ABSENT
        self._apart = True  # not yet in step with the store
        self._following = False  # the change of state under way is the store's
        self._ordered = False  # the one that the store has not heard of is an operator's
        self._told = 0  # the newest generation that the store knows of
        self._record_seen: Record | None = None  # of the current epoch
        self._holders: set[str] = set()
        self._asking = asyncio.Lock()
        self._full_until = _NEVER  # all permits are taken, as the store said a moment ago
        self._saying: asyncio.Task[None] | None = None
        store.add(self)

    # ---- calls

    async def call(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``CircuitBreaker.call``."""
        permit = await self._ask() if self._state is not State.CLOSED or self._apart else None
        if permit is None:
            return await super().call(function, *args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            await self._settle(permit, error, NOTHING)
            raise
        await self._settle(permit, None, result)
        return result

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """As ``CircuitBreaker``: decorate a coroutine function."""
        super().__call__(function)  # refuses what is none

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return guarded

    def guard(self) -> SharedGuard:
        """A context manager for one call, for ``async with`` only."""
        return SharedGuard(self)

    def snapshot(self) -> Snapshot:
        """As ``CircuitBreaker.snapshot``; ``permits`` are those that this process knows of."""
        return dataclasses.replace(super().snapshot(), shared=self._store.connected)

    def retire(self) -> None:
        """Leave the store; from now on this breaker goes on alone."""
        self._store.remove(self.name)
        self._go_alone()

    async def _ask(self) -> Permit | None:
        """The permit of a probe; None where the circuit's own rules decide; or CircuitOpen."""
        if get_ident() != self._ident:
            self._adopt()
        self._store.begin()
        if self._apart and not self._store.connected:
            return None
        self._refuse_at_once()
        async with self._asking:  # one at a time: of a thousand callers few get further than this
            for _ in range(_TRIES):
                if self._apart:
                    await self._catch_up()
                if self._apart:
                    return None
                self._refuse_at_once()
                if self._state not in (State.OPEN, State.HALF_OPEN):
                    return None
                if self._state is State.OPEN:
                    lasts = self.rules.max_wait_in_half_open
                    self._follow(await self._turn_store(State.HALF_OPEN, lasts))
                elif self._now() >= self._until:
                    await self._overdue()
                elif permit := await self._take():
                    return permit
        raise self._refusal(self._now())

    def _refuse_at_once(self) -> None:
        now = self._now()
        closed_until = {State.OPEN: self._until, State.HALF_OPEN: self._full_until}
        if not self._apart and now < closed_until.get(self._state, _NEVER):
            raise self._refusal(now)

    async def _overdue(self) -> None:
        self._follow(await self._store.look(self.name))  # whose probes are out?
        if self._state is State.HALF_OPEN and self._now() >= self._until and not self._apart:
            self._expire()
            self._tell()
            await self._say()

    async def _take(self) -> Permit | None:
        epoch = self._epoch
        record, holder = await self._store.take(self.name, epoch, self.rules.permitted_calls)
        self._follow(record)
        if record is None or self._epoch != epoch:
            return None
        if not record.done:
            self._full_until = self._now() + _FULL_S
            return None
        self._permits = max(0, self._permits - 1)
        self._holders.add(holder)
        return Permit(holder, epoch, self._generation, self._now())

    async def _settle(self, permit: Permit, error: BaseException | None, result: object) -> None:
        """Count a probe here, then give its permit back with the result."""
        self._holders.discard(permit.holder)
        code = self._end(permit.generation, permit.began, error, result)
        if self._apart or self._epoch != permit.epoch:
            return
        pause = max(0.0, self._not_before - self._now())
        report = self._store.spawn(self._report(permit, code, pause))
        if error is None or isinstance(error, Exception):
            await asyncio.shield(report)  # so that the caller finds the circuit decided

    async def _report(self, permit: Permit, code: int | None, pause: float) -> None:
        record = await self._store.settle(self.name, permit.epoch, permit.holder, code, pause)
        self._follow(record)
        await self._say()

    # ---- where the circuit differs

    def _decide(self, now: float, probes: Tally) -> None:
        """On the results of all processes, which ``_follow`` brings; alone, on those from here."""
        if self._apart:
            super()._decide(now, probes)

    def _probes_out(self) -> int:
        seen = self._record_seen
        return super()._probes_out() if self._apart or seen is None else seen.probes

    def _turn(self, after: State, at: float, reason: str, until: float = math.inf) -> None:
        super()._turn(after, at, reason, until)
        self._record_seen = None
        self._full_until = _NEVER
        self._holders.clear()
        # An operator outside of the loop is heard at the next heartbeat.
        if not self._following and not self._apart and self._store.here():
            self._begin_to_say()

    def _move(self, after: State, reason: str) -> None:
        self._ordered = True
        super()._move(after, reason)

    # ---- in step with the store

    def _go_alone(self) -> None:
        self._apart = True
        self._holders.clear()

    async def _catch_up(self) -> None:
        if self._holders:
            record = await self._store.renew(self.name, self._epoch, sorted(self._holders))
        else:
            record = await self._store.look(self.name)
        if record is not None and self._apart and self._store.connected:
            self._rejoin(record)
        else:
            self._follow(record)
        await self._say()

    def _rejoin(self, record: Record) -> None:
        """Come back: what was opened here while the store was away stands, else its word does."""
        self._apart = False
        news = self._told != self._generation or record.epoch == ABSENT
        opened_here = news and self._state is not State.CLOSED
        if self._ordered or (opened_here and record.state is State.CLOSED):
            self._epoch, self._told = record.epoch, -1
        else:
            self._epoch = ABSENT
            self._told = self._generation
            self._follow(record)

    async def _say(self) -> None:
        """Tell the store of a state that this process entered and it has not heard of."""
        if self._told != self._generation and not self._apart:
            await asyncio.shield(self._begin_to_say())

    def _begin_to_say(self) -> asyncio.Task[None]:
        if self._saying is None or self._saying.done():
            self._saying = self._store.spawn(self._say_until_told())
        return self._saying

    async def _say_until_told(self) -> None:
        while self._told != self._generation and not self._apart:
            generation, state = self._generation, self._state
            lasts = max(0.0, self._until - self._now())
            record = await self._turn_store(state, lasts, order=self._ordered)
            if record is None:
                return
            if generation == self._generation:
                self._told, self._ordered = generation, False
                self._epoch = record.epoch if record.done else self._epoch
            self._follow(record)

    async def _turn_store(
        self, state: State, lasts: float, *, order: bool = False
    ) -> Record | None:
        epoch = ANY if order else self._epoch
        record = await self._store.turn(self.name, epoch, state, lasts, self._attempt)
        if record is not None and not record.done and record.epoch < epoch:
            self._apart = True  # the server came back with an older memory
        return record

    def _follow(self, record: Record | None) -> None:
        """Enter the state of the record, unless it is an old one; decide, if it is for us to."""
        if record is None or self._apart or self._ordered:
            return
        if record.epoch == ABSENT and self._epoch != ABSENT:
            # The server has lost its memory; ours is all there is.
            self._epoch = ABSENT
            self._told = self._generation - (self._state is not State.CLOSED)
            return
        if record.epoch < self._epoch:
            return
        now = self._now()
        until = now + record.remaining
        if record.epoch > self._epoch:
            self._epoch, self._attempt = record.epoch, record.attempt
            if record.state is not self._state or record.state is State.HALF_OPEN:
                self._following = True
                try:
                    self._turn(record.state, now, "another process said so", until)
                finally:
                    self._following = False
            self._until = until
            self._told = self._generation
        if self._state is State.HALF_OPEN and record.state is State.HALF_OPEN:
            self._record_seen = record
            self._not_before = max(self._not_before, now + record.asked)
            super()._decide(now, record.tally)
        self._tell()


class SharedGuard(Guard):
    """``Guard`` of a shared breaker: a permit may have to be asked for, so only ``async with``."""

    __slots__ = ("_permit", "_shared")

    def __init__(self, breaker: SharedCircuitBreaker) -> None:
        super().__init__(breaker)
        self._shared = breaker
        self._permit: Permit | None = None

    def __enter__(self) -> Guard:
        raise InputError("the guard of a shared breaker asks its store", fix="Use async with.")

    async def __aenter__(self) -> Guard:
        if self._generation is None:
            self._permit = await self._shared._ask()
        if self._permit is None:
            return super().__enter__()
        self._generation = self._permit.generation
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._permit is None:
            self.__exit__(kind, error, trace)
        else:
            await self._shared._settle(self._permit, error, self._result)

"""Time as an argument: durations from a monotonic clock, timestamps aware and in UTC.

A class that measures or waits takes ``clock=``; production passes nothing and gets
``SystemClock``, a test passes a ``ManualClock`` and decides when time moves.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_SECOND = 1_000_000_000  # nanoseconds


class Clock(Protocol):
    """What code that depends on time may ask."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The moment, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds`` on this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until ``advance`` moves it.

    Parameters
    ----------
    start : datetime, optional
        The moment it shows at first; must be aware.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime, such as datetime(..., tzinfo=UTC)")
        self._start = start.astimezone(UTC)
        # Whole nanoseconds: eight times 0.1 s must reach a sleeper of 0.8 s, and in floats
        # the sum is less.
        self._elapsed = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._elapsed / _SECOND

    def now(self) -> datetime:
        return self._start + timedelta(microseconds=self._elapsed // 1000)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        until = math.inf if seconds == math.inf else self._elapsed + round(seconds * _SECOND)
        heapq.heappush(self._sleepers, (until, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move time forward and wake, in order, whoever slept until then."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"time goes forward, and not for ever: advance({seconds})")
        self._elapsed += round(seconds * _SECOND)
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

"""What the last calls did: the last N calls, or the calls of the last N seconds.

Both windows keep running totals, so recording and reading cost the same for every size. An
outcome is a code of two bits, ``FAILED`` and ``SLOW``; ``QUICK`` is neither. They are what
resilience4j calls the ``COUNT_BASED`` and ``TIME_BASED`` sliding window; as there, time is cut
into whole buckets, so a window of N seconds holds the second that runs and the N - 1 before it.

Nearly all calls are quick successes, and most of them change nothing but how many calls there are.
``add_quick`` records one where that is so and says whether it was: then neither rate has risen.

A window has no lock: whoever shares one between threads brings it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

QUICK, FAILED, SLOW = 0, 1, 2
FAILED_SLOW = FAILED | SLOW


class Tally(NamedTuple):
    """How many calls a window holds, and how many of them failed or were slow."""

    calls: int
    failures: int
    slow: int

    @property
    def failure_rate(self) -> float:
        """Share of the calls that failed, 0 to 1; 0 where there are none."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_call_rate(self) -> float:
        """Share of the calls that were slow, 0 to 1; 0 where there are none."""
        return self.slow / self.calls if self.calls else 0.0


class CountWindow:
    """The last ``size`` calls, one byte each, in a ring.

    ``count`` is the number of calls recorded since the window was made, also of those that have
    left it; ``marked[code]`` how many of them had that code (``marked[QUICK]`` is not kept).

    Parameters
    ----------
    size : int
        Calls, at least 1.
    """

    __slots__ = ("_failures", "_ring", "_slow", "count", "marked", "size")

    def __init__(self, size: int) -> None:
        self.size, self._ring = size, bytearray(size)
        self.count = self._failures = self._slow = 0
        self.marked = [0, 0, 0, 0]

    def add_quick(self, now: float = 0.0) -> bool:
        """Record a quick success, unless it takes the place of a call that was none."""
        count = self.count
        if self._ring[count % self.size]:
            return False
        self.count = count + 1
        return True

    def record(self, code: int, now: float = 0.0) -> None:
        """Put a call in the place of the oldest one; ``now`` does not matter."""
        place = self.count % self.size
        left = self._ring[place]
        self._failures += (code & FAILED) - (left & FAILED)
        self._slow += (code >> 1) - (left >> 1)
        self._ring[place] = code
        self.marked[code] += 1
        self.count += 1

    def tally(self, now: float = 0.0) -> Tally:
        """The totals over the last ``size`` calls."""
        return Tally(min(self.count, self.size), self._failures, self._slow)


class TimeWindow:
    """The calls of the last ``size`` buckets of ``bucket`` seconds.

    Parameters
    ----------
    size : int
        Buckets, at least 1.
    bucket : float
        Length of one in seconds.

    Notes
    -----
    A clock that steps back does not rewrite the past: such calls go into the newest bucket.
    ``count`` and ``marked`` are as in ``CountWindow``.
    """

    __slots__ = (
        "_bucket",
        "_edge",
        "_held",
        "_newest",
        "_ring",
        "_sorted",
        "count",
        "marked",
        "size",
    )

    def __init__(self, size: int, bucket: float = 1.0) -> None:
        self.size, self._bucket = size, bucket
        self._ring = [[0, 0, 0] for _ in range(size)]  # calls, failures, slow
        self._held = [0, 0, 0]
        self._newest: int | None = None
        self._edge = -math.inf  # end of the newest bucket
        self._sorted = 0  # of ``count``; the rest came by add_quick and belongs to the newest
        self.count = 0
        self.marked = [0, 0, 0, 0]

    def add_quick(self, now: float) -> bool:
        """Record a quick success, unless a new bucket begins and with it old ones may leave."""
        if now >= self._edge:
            return False
        self.count += 1
        return True

    def record(self, code: int, now: float) -> None:
        """Count a call in the bucket of ``now`` and drop the buckets that are too old."""
        current = int(now // self._bucket)
        if self._newest is not None and self.count > self._sorted:
            for totals in (self._ring[self._newest % self.size], self._held):
                totals[0] += self.count - self._sorted
        if self._newest is None:
            self._newest = current
        for expired in self._expired(current):
            for i in range(3):
                self._held[i] -= expired[i]
                expired[i] = 0
        self._newest = max(self._newest, current)
        self._edge = (self._newest + 1) * self._bucket
        for totals in (self._ring[self._newest % self.size], self._held):
            totals[0] += 1
            totals[1] += code & FAILED
            totals[2] += code >> 1
        self.marked[code] += 1
        self.count += 1
        self._sorted = self.count

    def tally(self, now: float) -> Tally:
        """The totals over the buckets that still count at ``now``; changes nothing.

        So a thread that reads metrics cannot disturb the loop that records.
        """
        calls, failures, slow = self._held
        current, fresh = int(now // self._bucket), self.count - self._sorted
        if self._newest is None or current < self._newest + self.size:
            calls += fresh
        for gone in self._expired(current):
            calls, failures, slow = calls - gone[0], failures - gone[1], slow - gone[2]
        return Tally(calls, failures, slow)

    def _expired(self, current: int) -> Iterator[list[int]]:
        """The buckets that are too old once ``current`` is the newest.

        After a silence longer than the window that is each bucket once, not one a second.
        """
        if self._newest is not None:
            for number in range(max(self._newest, current - self.size) + 1, current + 1):
                yield self._ring[number % self.size]

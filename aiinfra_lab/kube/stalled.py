"""Whether a process waits for an answer that does not come.

Go has no limit for a module proxy that takes a connection and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.processes import tree

_EVERY_S = 2.0
#: Output, seconds of computing, and bytes moved.
Signs = tuple[float, float, float]
# No more than this over the whole limit is neither work nor a download.
_NOTHING: Signs = (0.0, 0.1, 4096.0)


class Watch:
    """Tells a process that waits from one that works in silence.

    Parameters
    ----------
    look : callable
        Gives the signs of life so far.
    limit : float
        Seconds without any new one after which it has stalled.
    clock : Clock, optional
        For tests.
    """

    def __init__(self, look: Callable[[], Signs], limit: float, clock: Clock | None = None) -> None:
        self._look, self._limit, self._clock = look, limit, clock or SystemClock()
        self._known, self._since = look(), self._clock.monotonic()
        self._next = self._since + _EVERY_S

    def stalled(self) -> bool:
        """Whether it has; to be asked often."""
        now = self._clock.monotonic()
        if now >= min(self._next, self._since + self._limit):
            self._next = now + _EVERY_S
            found = self._look()
            pairs = zip(found, self._known, _NOTHING, strict=True)
            if any(abs(new - old) > nothing for new, old, nothing in pairs):
                self._known, self._since = found, now
        return now - self._since >= self._limit


def signs_of(pid: int, log: Path) -> Signs:
    """What the process ``pid`` and all that it has started have done so far."""
    said = log.stat().st_size if log.exists() else 0
    cpu = moved = 0.0
    for process in _all(pid):
        try:
            cpu += sum(process.cpu_times()[:4])  # with its children that have ended
            counters = process.io_counters()
            moved += counters.read_chars + counters.write_chars
        except (psutil.Error, AttributeError):  # it has ended; or a system that does not count
            continue
    return float(said), cpu, moved


def _all(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid), *tree.family(pid)]
    except psutil.Error:
        return []

"""A small event loop of descriptors and times, in one thread.

Not asyncio: the runtime forks from its loop, and asyncio would double its memory.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Call = Callable[[], None]
_LONGEST_WAIT = 3600.0  # seconds: epoll counts milliseconds in 32 bits


class Loop:
    """Calls what was asked for when a descriptor is ready or a time has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Call]] = []
        self._order = itertools.count()

    def reading(self, fd: int, call: Call) -> None:
        """Call when ``fd`` can be read or its other end has closed."""
        self._selector.register(fd, selectors.EVENT_READ, (call, None))

    def writing(self, fd: int, call: Call | None) -> None:
        """Call, too, when ``fd`` (already among those read) can be written; None: no more."""
        reader = self._selector.get_key(fd).data[0]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if call else 0)
        self._selector.modify(fd, events, (reader, call))

    def forget(self, fd: int) -> None:
        """Call no more for ``fd``; to be said before it is closed."""
        self._selector.unregister(fd)

    def after(self, seconds: float, call: Call) -> None:
        """Call once, when ``seconds`` have passed."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), call))

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        wait = None
        if self._timers:
            wait = min(_LONGEST_WAIT, max(0.0, self._timers[0][0] - time.monotonic()))
        for key, events in self._selector.select(wait):
            reader, writer = key.data
            # The call for an earlier one of this round may have closed this one.
            if events & selectors.EVENT_READ and self._known(key):
                reader()
            if events & selectors.EVENT_WRITE and writer and self._known(key):
                writer()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _known(self, key: selectors.SelectorKey) -> bool:
        found = self._selector.get_map().get(key.fd)
        return found is not None and found.data[0] is key.data[0]

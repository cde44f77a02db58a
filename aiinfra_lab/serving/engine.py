"""The work behind the HTTP surface: a few threads, a bounded queue, one model at a time.

onnxruntime lets go of the interpreter while it computes, so a thread for each core keeps the
cores busy. A request is parsed, computed and written down in one job, and a job takes the
model once, when it begins: a model that is changed meanwhile changes nothing under its feet.
The bound counts requests that wait and requests at work. Above it the answer is an immediate
refusal, because a queue that only grows answers everybody too late.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aiinfra_lab.errors import InputError
from aiinfra_lab.serving.session import Session

T = TypeVar("T")


class Overloaded(Exception):
    """No room; try again after ``retry_after`` seconds."""

    retry_after = 1


class Engine:
    """Runs jobs on the current model.

    Parameters
    ----------
    folder : str or Path
        The bundle to begin with.
    threads : int
        Jobs at work at once.
    max_queue : int
        Jobs that may wait beyond them.

    Raises
    ------
    InputError
        The bundle cannot be used, or a number is out of range.
    """

    def __init__(self, folder: str | Path, *, threads: int = 2, max_queue: int = 64) -> None:
        if threads < 1:
            raise InputError("a server needs a thread", found=str(threads), needed="at least 1")
        if max_queue < 0:
            raise InputError("max_queue is negative", found=str(max_queue), needed="0 or more")
        self.folder = Path(folder)
        self.session = Session.open(folder)
        self.draining = False
        self._threads, self._limit = threads, threads + max_queue
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._admitted = 0
        self._lock = threading.Lock()
        self._changing = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Jobs at work."""
        return min(self._admitted, self._threads)

    @property
    def waiting(self) -> int:
        """Jobs admitted and not begun."""
        return max(0, self._admitted - self._threads)

    async def run(self, job: Callable[[Session], T], *, deadline: float | None = None) -> T:
        """Run ``job`` in a thread of the pool.

        Parameters
        ----------
        job : callable
            Gets the model that is current when it begins.
        deadline : float, optional
            Seconds from now after which nobody wants the answer; a job that has not begun by
            then is dropped.

        Raises
        ------
        Overloaded
            The queue is full.
        TimeoutError
            The deadline has passed.
        """
        with self._lock:
            if self._admitted >= self._limit:
                raise Overloaded
            self._admitted += 1
        try:
            future = self._pool.submit(lambda: job(self.session))
        except BaseException:
            self._release()
            raise
        # A caller who gives up does not free the thread: the place is free when the job is over.
        future.add_done_callback(self._release)
        async with asyncio.timeout(deadline):
            return await asyncio.wrap_future(future)

    def _release(self, _: Future[T] | None = None) -> None:
        with self._lock:
            self._admitted -= 1

    def change(self, folder: str | Path) -> Session:
        """Load and warm the bundle in ``folder``, then make it the current model in one step.

        Blocks; call it in a thread. Changes happen one after the other.

        Returns
        -------
        Session
            The model before.

        Raises
        ------
        InputError
            The bundle cannot be used; the model before still serves.
        """
        with self._changing:
            session = Session.open(folder)
            before, self.session, self.folder = self.session, session, Path(folder)
            return before

    def reload(self) -> Session:
        """Read the current folder again, as ``change`` does."""
        return self.change(self.folder)

    def close(self) -> None:
        """End the threads when their jobs are over; jobs that have not begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

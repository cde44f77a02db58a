"""One definition of a wait, two ways to drive it: blocking, or on an event loop.

What takes time here (start, ready, wait, stop) is a generator. It yields a ``Wait``, or a
function that may block, and gets the function's value back; an exception that strikes while it
waits (Ctrl-C, a cancelled task, the function's own error) is thrown into it, so that the same
``except`` cleans up in both worlds. No thread has to be kept for it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterator
from types import GeneratorType
from typing import Any, NamedTuple, TypeVar, cast

T = TypeVar("T")


class Wait(NamedTuple):
    """A pause of at most ``seconds``, cut short (when blocking) by news on ``fd``."""

    seconds: float
    fd: int = -1


Steps = Generator[Wait | Callable[[], Any], Any, T]

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25  # seconds between two looks
# The loop cannot watch ``fd`` for several waiters at once, so it looks more often.
LONGEST_ASYNC_PAUSE = 0.05


def pauses(first: float = FIRST_PAUSE) -> Iterator[float]:
    """Seconds between looks without end: fine-grained at first, then ever longer."""
    while True:
        yield first
        first = min(1.3 * first, LONGEST_PAUSE)


def run(steps: Steps[T]) -> T:
    """Drive ``steps`` to the end in this thread."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            while True:  # inside: an interrupt between two steps belongs to the steps too
                step = steps.send(answer) if error is None else steps.throw(error)
                answer = error = None
                if isinstance(step, Wait):
                    _pause(step)
                else:
                    answer = step()
        except BaseException as caught:
            if _ended(steps):
                return _result(steps, caught)
            answer, error = None, caught


async def run_async(steps: Steps[T]) -> T:
    """Drive ``steps`` without blocking the loop; functions run in its thread pool."""
    import asyncio  # 50 ms that only asynchronous callers pay
    import inspect

    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            while True:
                step = steps.send(answer) if error is None else steps.throw(error)
                answer = error = None
                if isinstance(step, Wait):
                    await asyncio.sleep(min(step.seconds, LONGEST_ASYNC_PAUSE))
                elif inspect.iscoroutinefunction(step):
                    answer = await step()
                else:
                    answer = await asyncio.to_thread(step)
        except BaseException as caught:
            if _ended(steps):
                return _result(steps, caught)
            answer, error = None, caught


def _ended(steps: Steps[Any]) -> bool:
    frame: object = cast("GeneratorType[Any, Any, Any]", steps).gi_frame
    return frame is None


def _result(steps: Steps[T], caught: BaseException) -> T:
    """What ended the ``steps``: their result, or an error of theirs."""
    if isinstance(caught, StopIteration):
        value: T = caught.value
        return value
    raise caught


def _pause(wait: Wait) -> None:
    if wait.fd < 0:
        time.sleep(wait.seconds)
        return
    news = select.poll()
    news.register(wait.fd, select.POLLIN)
    news.poll(1000 * wait.seconds)

"""How long a build still takes: what is usual, corrected by what this machine has shown so far.

Compiling depends on the cores and on Go's cache, the other steps on the disk and the registry: the
two are corrected apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.kube.kind.messages import say
from aiinfra_lab.observability import Reporter, progress

Kind = Literal["compile", "step"]
_TRUST_S = 30.0  # a first measurement counts as much as this long a usual one
_WORTH_SAYING_S = 5.0


@dataclass(frozen=True)
class Task:
    """One piece of the work that is still to be done."""

    name: str
    kind: Kind
    seconds: float  # on two cores, from nothing


class Estimate:
    """What is left of some tasks, done one after the other."""

    def __init__(self, tasks: list[Task], clock: Clock) -> None:
        self._clock, self._began = clock, clock.monotonic()
        self._left = {task.name: task for task in tasks}
        self._usual: dict[Kind, float] = {"compile": 0.0, "step": 0.0}
        self._measured: dict[Kind, float] = {"compile": 0.0, "step": 0.0}
        self._now: Task | None = None
        self._since = 0.0
        self._share = 0.0

    def begin(self, name: str) -> None:
        """Say that a task begins now; one that nobody counted costs nothing."""
        self._now, self._since = self._left.pop(name, None), self._clock.monotonic()

    def end(self) -> float:
        """Say that it has ended; give the seconds that it took."""
        took = self._clock.monotonic() - self._since
        if self._now is not None:
            self._usual[self._now.kind] += self._now.seconds
            self._measured[self._now.kind] += took
            self._now = None
        return took

    @property
    def left_s(self) -> float:
        """Seconds until all tasks are done."""
        left = sum(task.seconds * self._pace(task.kind) for task in self._left.values())
        if self._now is not None:
            whole = self._now.seconds * self._pace(self._now.kind)
            # One that takes longer than it should is not said to end at once.
            left += max(whole - self._elapsed(), whole / 10)
        return left

    @property
    def share(self) -> float:
        """How much of the whole time is over, 0 to 1; it never falls."""
        over, left = self._clock.monotonic() - self._began, self.left_s
        self._share = max(self._share, over / (over + left) if over + left > 0 else 1.0)
        return self._share

    def _elapsed(self) -> float:
        return self._clock.monotonic() - self._since

    def _pace(self, kind: Kind) -> float:
        """How many times as long as usual such tasks take here."""
        measured, usual = self._measured[kind], self._usual[kind]
        if self._now is not None and self._now.kind == kind:
            measured += max(0.0, self._elapsed() - self._now.seconds)
        return (measured + _TRUST_S) / (usual + _TRUST_S)


class Meter:
    """Shows how far a build is: a line for each long task, and one bar over all of them.

    The bar counts seconds of an estimated whole. It is moved to where the reporter's own
    extrapolation gives the time that is left by this estimate.
    """

    def __init__(self, tasks: list[Task], words: str, clock: Clock | None = None) -> None:
        self._estimate = Estimate(tasks, clock or SystemClock())
        self._total = max(1, round(sum(task.seconds for task in tasks)))
        self._bar: Reporter[int] = progress(self._total, words, clock=clock)
        self._tasks = {task.name: task for task in tasks}

    @contextlib.contextmanager
    def task(self, name: str, words: str = "") -> Iterator[None]:
        """Do one task; ``words`` say what it is, if it has none of its own."""
        self._estimate.begin(name)
        known = self._tasks.get(name)
        if words and known is not None and known.seconds >= _WORTH_SAYING_S:
            self.say(words)
        self.tick()
        yield
        self._estimate.end()
        self.tick()

    def say(self, words: str) -> None:
        """Say what is done now, and how long all of it still takes."""
        say(f"{words}; {duration(self._estimate.left_s)} left")

    def tick(self) -> None:
        """Show how far it is now; to be called often."""
        self._bar.update(min(self._total, int(self._total * self._estimate.share)))

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        if kind is None:
            self._bar.update(self._total)
        self._bar.close()


def duration(seconds: float) -> str:
    """Seconds for people, as exact as an estimate is."""
    if seconds < 45:
        return "about half a minute" if seconds > 15 else "a few seconds"
    minutes = round(seconds / 60)
    return f"about {minutes} minute{'s' if minutes > 1 else ''}"

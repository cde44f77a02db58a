"""A program in a container whose streams belong to the client: ``kubectl exec``.

The descriptors go to the client, which reads and writes them itself: no byte passes through the
runtime. The client's connection is the program's life: when it closes, the program is killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiinfra_lab.kube.runtime.container import Container, Program
from aiinfra_lab.kube.runtime.loop import Loop
from aiinfra_lab.kube.runtime.start import Host

_TICK: Final = 0.01  # seconds
_WALL: Final = 10.0  # seconds

# The client's descriptors by stream, or why there are none.
Started = Callable[[dict[str, int], str], None]


class Attachment:
    """One such program, from its start to its end.

    Parameters
    ----------
    stdin, tty : bool
        Whether it can be written to, and whether its streams are one terminal.
    started : callable
        Called once, with the descriptors by name; they are closed when it returns.
    over : callable
        Called with the exit code.
    """

    def __init__(
        self,
        loop: Loop,
        container: Container,
        host: Host,
        argv: Sequence[str],
        *,
        stdin: bool,
        tty: bool,
        started: Started,
        over: Callable[[int], None],
    ) -> None:
        self.container = container
        self._loop, self._started, self._over = loop, started, over
        self._status: int | None = None
        self._ours, theirs = _terminal() if tty else _pipes(stdin)
        try:
            self.program = Program(
                container.spec, host, theirs, cgroup=container.cgroup,
                mark=container.program.mark, argv=argv, inside=container.program.family.pid,
                terminal=tty,
            )  # fmt: skip
        except BaseException:
            self._close()
            raise
        finally:
            for fd in set(theirs):
                os.close(fd)
        loop.reading(self.program.report, self._hear)

    def _hear(self) -> None:
        report = self.program.report
        self._loop.forget(report)  # listen() closes it
        if not self.program.listen():
            self._loop.reading(report, self._hear)
            return
        self._started(self._ours, self.program.failure or "")
        self._close()

    def _close(self) -> None:
        for fd in set(self._ours.values()):
            os.close(fd)
        self._ours = {}

    def ended(self, status: int) -> None:
        """Its first process has been reaped; what it left in the background lives on."""
        self.program.family.reaped = True
        if self.program.failure is None:
            self._hear()
        self._status = 128 - status if status < 0 else status
        if not self.program.failure:
            self._over(self._status)

    def leave(self) -> None:
        """The client has gone."""
        if self._status is None:
            self.program.wall = time.monotonic() + _WALL
            self._kill()

    def _kill(self) -> None:
        left = self.program.family.kill()
        if (left or self._status is None) and time.monotonic() < self.program.wall:
            self._loop.after(_TICK, self._kill)


def _pipes(stdin: bool) -> tuple[dict[str, int], list[int]]:
    """Our ends by name, and the program's three."""
    ours: dict[str, int] = {}
    if stdin:
        source, ours["stdin"] = os.pipe()
    else:
        source = os.open(os.devnull, os.O_RDONLY)
    ours["stdout"], output = os.pipe()
    ours["stderr"], errors = os.pipe()
    return ours, [source, output, errors]


def _terminal() -> tuple[dict[str, int], list[int]]:
    ours, theirs = os.openpty()
    return {"terminal": ours}, [theirs, theirs, theirs]

"""One more program in a running container: a probe, a hook, ``kubectl exec``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aiinfra_lab.kube.runtime.container import Container, Program
from aiinfra_lab.kube.runtime.loop import Loop
from aiinfra_lab.kube.runtime.start import Host

KILLED: Final = 128 + signal.SIGKILL
NO_PROGRAM: Final = 127  # a shell's exit code for a program that is not there
_TICK, _WALL = 0.01, 10.0
_CHUNK: Final = 1 << 16


class Execution:
    """A program in a container, its output collected, ended at its time."""

    def __init__(
        self,
        loop: Loop,
        container: Container,
        host: Host,
        argv: Sequence[str],
        *,
        stdin: bytes,
        timeout: float | None,
        limit: int,
        answer: Callable[[dict[str, Any]], None],
    ) -> None:
        self.container = container
        self._loop, self._limit, self._answer = loop, limit, answer
        self._collected = bytearray()
        self._status: int | None = None
        self._timed_out = False
        source = _file_with(stdin)
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        try:
            self.program = Program(
                container.spec, host, (source, output, output), cgroup=container.cgroup,
                mark=container.program.mark, argv=argv, inside=container.program.family.pid,
            )  # fmt: skip
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(source)
            os.close(output)
        loop.reading(self._output, self._pump)
        if timeout is not None:
            loop.after(timeout, self._too_late)

    def _pump(self) -> None:
        for _ in range(16):
            if self._output < 0:
                return
            try:
                data = os.read(self._output, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self._close_output()
                return
            self._collected += data[: max(0, self._limit - len(self._collected))]

    def _close_output(self) -> None:
        if self._output >= 0:
            self._loop.forget(self._output)
            os.close(self._output)
            self._output = -1

    def _too_late(self) -> None:
        if self._status is None:
            self._timed_out = True
            self.program.wall = time.monotonic() + _WALL
            self._kill()

    def _kill(self) -> None:
        left = self.program.family.kill()
        if (left or self._status is None) and time.monotonic() < self.program.wall:
            self._loop.after(_TICK, self._kill)
        elif self._status is not None:
            self._finish()

    def ended(self, status: int) -> None:
        """Its first process has been reaped. What it left in the background lives on."""
        self._status = status
        self.program.family.reaped = True
        self.program.listen()
        if not self._timed_out:
            self._finish()

    def _finish(self) -> None:
        self._pump()
        self._close_output()
        code, output = self._status or 0, bytes(self._collected)
        if self.program.failure:
            code, output = NO_PROGRAM, self.program.failure.encode()
        elif self._timed_out:
            code = KILLED
        elif code < 0:
            code = 128 - code
        self._answer({"exit_code": code, "output": output, "timed_out": self._timed_out})


def _file_with(data: bytes) -> int:
    """A descriptor that gives ``data`` and then ends; nobody has to feed it."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stdin")
    else:
        import tempfile

        fd, name = tempfile.mkstemp()
        Path(name).unlink()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd

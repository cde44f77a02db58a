"""One fork of the server, from outside: watch it, end it, see how it ended.

Nothing here trusts the inside: what comes from there is a few short lines of the keeper, which is
our code and out of an inmate's reach, and a fork is believed to be over when its connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.sandbox.cgroups import Cgroup
from aiinfra_lab.sandbox.limits import Limits
from aiinfra_lab.sandbox.watching import (
    Usage,
    cpu_sentence,
    fair_memory_below,
    memory_sentence,
    usage_below,
)

POLL_S = 0.005
_CREDENTIALS = struct.Struct("3i")
_LONGEST_LINE = 1 << 16
_LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Ending:
    """How a fork ended: its exit status (negative: the signal; None: unknown), its CPU time."""

    status: int | None
    cpu_s: float = 0.0


class Fork:
    """A keeper and its inmate, from outside. Never waits; any event loop, or none."""

    def __init__(self, control: socket.socket, limits: Limits) -> None:
        self.limits = limits
        self.pid = 0
        """The keeper's process number here."""
        self.trouble: str | None = None
        """Empty: the walls are closed and the entry runs; else why not. None: not yet known."""
        self.ending: Ending | None = None
        self.limit = ""
        """The limit that was exceeded, in words."""
        self.cgroup: Cgroup | None = None
        self._control = control
        self._heard = b""
        self._usage = Usage()
        self._cpu_s = 0.0
        self._status: int | None = None
        self._began = time.monotonic()

    def listen(self) -> None:
        """Take in what the keeper has said."""
        while self.ending is None:
            try:
                data, ancillary, _, _ = self._control.recvmsg(1 << 12, 256)
            except BlockingIOError:
                return
            except OSError:
                data = b""
                ancillary = []
            if not data:
                self._end()
                return
            *lines, self._heard = (self._heard + data).split(b"\n")
            try:
                for line in lines:
                    self._note(line, ancillary)
                if len(self._heard) > _LONGEST_LINE:
                    raise ValueError("a line without end")
            except (ValueError, KeyError, TypeError, RecursionError):
                # Without walls of its own an inmate can reach its keeper, and speak for it.
                self._end()

    def _note(self, line: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        if not self.pid:
            self.pid = int(line)
            for level, kind, data in ancillary:
                if _LINUX and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    self.pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
            return
        said = json.loads(line)
        if "trouble" in said:
            self.trouble = str(said["trouble"])
        else:
            self._status = int(said["status"])
            self._cpu_s = max(float(said["cpu_s"]), self._cpu_s)

    def _end(self) -> None:
        # Not before the connection ends: the keeper is then gone too.
        self.ending = Ending(self._status, self._cpu_s)
        if self._status == -signal.SIGXCPU and not self.limit:
            self.limit = cpu_sentence(self.limits)
        if self.cgroup and self.cgroup.out_of_memory and not self.limit:
            self.limit = memory_sentence(self.limits)
        self._control.close()

    def watch(self) -> Usage:
        """Measure the inmate's tree, and kill it where it is beyond a limit."""
        self.listen()
        if self.ending is None and self.pid:
            self._usage = usage_below(self.pid)
            # What a killed process used is told to nobody, so the most that was seen counts.
            self._cpu_s = max(self._cpu_s, self._usage.cpu_s)
            reason = self._usage.beyond(self.limits)
            # A cgroup counts by itself, and better.
            if (
                self.cgroup is None
                and self._usage.memory > self.limits.memory
                and fair_memory_below(self.pid) > self.limits.memory
            ):
                reason = memory_sentence(self.limits)
            if time.monotonic() - self._began > self.limits.wall_s:
                reason = f"time: more than {self.limits.wall_s:g} s"
            if reason:
                self.limit = self.limit or reason
                self.kill()
        return self._usage

    def say(self, order: Mapping[str, Any]) -> None:
        """Send the order; the keeper has asked for it by its first line."""
        self._control.setblocking(True)
        self._control.settimeout(5.0)
        self._control.sendall(json.dumps(order).encode() + b"\n")
        self._control.setblocking(False)

    def interrupt(self) -> None:
        """SIGINT to the inmate."""
        self._send(b"i")

    def kill(self) -> None:
        """End the inmate and all that it started."""
        self._send(b"k")

    def _send(self, word: bytes) -> None:
        if self.ending is None:
            with contextlib.suppress(OSError):
                self._control.send(word)

    def close(self) -> None:
        """Let go: what still runs is ended by its keeper."""
        self._control.close()
        self.ending = self.ending or Ending(self._status, self._cpu_s)

    async def wait(self, timeout: float | None = None) -> Ending:
        """Wait for the end, watching.

        Raises
        ------
        ProcessError
            It still runs after ``timeout`` seconds.
        """
        begin = time.monotonic()
        while self.ending is None:
            self.watch()
            if timeout is not None and time.monotonic() - begin > timeout:
                raise ProcessError(f"a sandbox has not ended within {timeout:g} s")
            await asyncio.sleep(4 * POLL_S)
        return self.ending

    async def release(self) -> None:
        """Kill what is left, wait until nothing is, and remove the cgroup."""
        self.kill()
        with contextlib.suppress(ProcessError):
            await self.wait(10.0)
        self.close()
        for _ in range(200):
            if self.cgroup is None or self.cgroup.remove():
                break
            await asyncio.sleep(POLL_S)

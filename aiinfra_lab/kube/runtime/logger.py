"""The runtime's end of the process that writes logs: hand it pipes, hear when they are written.

If that process is killed, another takes its place and gets the same pipes: the runtime keeps
them open, so no container sees its output break.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiinfra_lab.kube.runtime import logs
from aiinfra_lab.kube.runtime.loop import Loop

# Whole messages, and an end that can be seen; macOS has no such sockets.
_KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
_END_WALL = 0.3  # seconds


class Logger:
    """Writes the logs of all containers, in a process of its own."""

    def __init__(self, loop: Loop) -> None:
        self.pid = 0
        self._loop = loop
        self._pipes: dict[str, tuple[Path, Mapping[str, int]]] = {}
        self._written: dict[str, Callable[[], None]] = {}
        self._queue: deque[tuple[dict[str, Any], list[int]]] = deque()
        self._start()

    def _start(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, _KIND)
        self._link.setblocking(False)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.set_wakeup_fd(-1)  # before its number is another file's
                keep = theirs.detach()
                os.closerange(3, keep)
                os.closerange(keep + 1, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))
                logs.serve(socket.socket(fileno=keep))
            finally:
                os._exit(0)
        theirs.close()
        self._loop.reading(self._link.fileno(), self._listen)

    def begin(self, key: str, path: Path, pipes: Mapping[str, int]) -> None:
        """Write what comes out of ``pipes`` (by the stream's name) to the log at ``path``."""
        self._pipes[key] = path, pipes
        self._say({"begin": key, "path": str(path), "streams": list(pipes)}, list(pipes.values()))

    def end(self, key: str, written: Callable[[], None]) -> None:
        """Write the rest; ``written`` is called when it is in the file."""
        self._written[key] = written
        self._say({"end": key}, [])

    def forget(self, key: str) -> None:
        """Close the pipes; nobody waits for them any more."""
        self._written.pop(key, None)
        _, pipes = self._pipes.pop(key, (None, {}))
        for fd in pipes.values():
            os.close(fd)

    def ended(self) -> None:
        """It has been killed and reaped: start another, with the same pipes."""
        self._hang_up()
        self._queue.clear()
        self._start()
        for key, (path, pipes) in self._pipes.items():
            self.begin(key, path, pipes)
        for key, written in list(self._written.items()):
            self.end(key, written)

    def close(self) -> None:
        """Let it end; kill it if its disk keeps it."""
        self._hang_up()
        wall = time.monotonic() + _END_WALL
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > wall:
                    os.kill(self.pid, signal.SIGKILL)
                    return
                time.sleep(0.002)

    def _hang_up(self) -> None:
        if self._link.fileno() >= 0:
            self._loop.forget(self._link.fileno())
            self._link.close()

    def _say(self, message: dict[str, Any], fds: list[int]) -> None:
        if self._link.fileno() >= 0:
            self._queue.append((message, fds))
            self._flush()

    def _flush(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._link.sendmsg([json.dumps(message).encode()], rights)
            except BlockingIOError:
                self._loop.writing(self._link.fileno(), self._flush)
                return
            except OSError:  # it has ended
                self._hang_up()
                return
            self._queue.popleft()
        self._loop.writing(self._link.fileno(), None)

    def _listen(self) -> None:
        while True:
            try:
                data = self._link.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._hang_up()  # the rest when it is reaped
                return
            if written := self._written.pop(json.loads(data)["ended"], None):
                written()

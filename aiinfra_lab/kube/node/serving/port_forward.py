"""``kubectl port-forward``: TCP connections to a pod's address through one websocket.

kubectl opens two SPDY streams for each connection, one for the data and one for an error, and
sends SPDY's frames through the websocket (protocol ``SPDY/3.1+portforward.k8s.io``).
Other clients name their ports in the request and use the channels of ``v4.channel.k8s.io``: for
the n-th port 2n carries the data and 2n + 1 an error, each beginning with the port's two bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.node.actions import why
from aiinfra_lab.kube.node.serving.exec import NO_WEBSOCKETS
from aiinfra_lab.kube.node.serving.spdy import (
    DATA,
    GOAWAY,
    PING,
    REFUSED,
    RST_STREAM,
    SYN_STREAM,
    Frame,
    Framing,
    SpdyError,
)

TUNNEL, CHANNELS = "SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"
_CHUNK = 1 << 16
_PORTS = 100  # of one request, two channels each


async def serve_port_forward(request: web.Request, host: str) -> web.StreamResponse:
    """Connect the client to ports of ``host``, the pod's address, until it leaves.

    Raises
    ------
    InputError
        The client speaks neither protocol, or names no port that can be.
    aiohttp.web.HTTPNotImplemented
        The request is no websocket.
    """
    socket = web.WebSocketResponse(protocols=(TUNNEL, CHANNELS), compress=False)
    ready = socket.can_prepare(request)
    if not ready.ok:
        raise web.HTTPNotImplemented(text=NO_WEBSOCKETS)
    if ready.protocol == TUNNEL:
        await socket.prepare(request)
        await _Tunnel(socket, host).run()
    elif ready.protocol == CHANNELS:
        ports = _ports(request)
        await socket.prepare(request)
        await _Channels(socket, host, ports).run()
    else:
        raise InputError(
            "the client speaks none of this node's protocols", needed=f"{TUNNEL} or {CHANNELS}"
        )
    return socket


class Link:
    """One TCP connection to the pod.

    Parameters
    ----------
    host, port
        Where to.
    send : callable
        Takes what comes from there.
    ended : callable
        Called once at the end, with a sentence if the connection could not be made.
    """

    def __init__(
        self,
        host: str,
        port: int,
        send: Callable[[bytes], Awaitable[None]],
        ended: Callable[[str], Awaitable[None]],
    ) -> None:
        self._send, self._ended = send, ended
        self._opening = asyncio.create_task(asyncio.open_connection(host, port))
        self._port = port
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        problem = ""
        try:
            reader, _ = await self._opening
        except OSError as error:
            problem = f"port {self._port} of the pod: {why(error)}"
        else:
            with contextlib.suppress(ConnectionError):  # of the pod, or of the client
                while data := await reader.read(_CHUNK):
                    await self._send(data)
        finally:
            self._opening.cancel()
            self._opening.add_done_callback(_close)
        await self._ended(problem)

    async def cut(self) -> None:
        """End it now; ``ended`` is not called."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def write(self, data: bytes) -> None:
        """Send to the pod; lost once the connection is over."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.shield(self._opening)
            if not writer.is_closing():
                writer.write(data)
                await writer.drain()

    async def end_input(self) -> None:
        """The client has nothing more to send."""
        with contextlib.suppress(OSError):
            _, writer = await asyncio.shield(self._opening)
            if not writer.is_closing() and writer.can_write_eof():
                writer.write_eof()


def _close(opening: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Close the connection if there is one, however late it came."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].close()


class _Session:
    """The connections of one websocket, all of which end with it."""

    def __init__(self, socket: web.WebSocketResponse, host: str) -> None:
        self._socket, self._host = socket, host
        self._links: dict[int, Link] = {}

    async def run(self) -> None:
        try:
            await self._begin()
            async for message in self._socket:
                if message.type is WSMsgType.BINARY and message.data:
                    await self._take(message.data)
        except SpdyError as error:
            await self._socket.close(code=1002, message=str(error).encode()[:120])
        except ConnectionError:  # the client has left
            pass
        finally:
            await asyncio.gather(*(link.cut() for link in self._links.values()))

    async def _begin(self) -> None:
        """What is sent first."""

    async def _take(self, data: bytes) -> None:
        raise NotImplementedError


class _Channels(_Session):
    """The protocol with two channels for each port that the request names."""

    def __init__(self, socket: web.WebSocketResponse, host: str, ports: list[int]) -> None:
        super().__init__(socket, host)
        self._ports, self._open = ports, len(ports)

    async def _begin(self) -> None:
        for number, port in enumerate(self._ports):
            for channel in (2 * number, 2 * number + 1):
                await self._socket.send_bytes(struct.pack("<BH", channel, port))
        for number, port in enumerate(self._ports):
            send = self._sender(2 * number)
            self._links[2 * number] = Link(self._host, port, send, self._ender(2 * number + 1))

    def _sender(self, channel: int) -> Callable[[bytes], Awaitable[None]]:
        return lambda data: self._socket.send_bytes(bytes([channel]) + data)

    def _ender(self, channel: int) -> Callable[[str], Coroutine[Any, Any, None]]:
        async def ended(problem: str) -> None:
            with contextlib.suppress(ConnectionError):
                if problem:
                    await self._socket.send_bytes(bytes([channel]) + problem.encode())
                self._open -= 1
                if not self._open:
                    await self._socket.close()

        return ended

    async def _take(self, data: bytes) -> None:
        if (link := self._links.get(data[0])) is not None:
            await link.write(data[1:])


class _Tunnel(_Session):
    """SPDY's streams, a pair for each connection."""

    def __init__(self, socket: web.WebSocketResponse, host: str) -> None:
        super().__init__(socket, host)
        self._framing = Framing()
        self._waiting: dict[str, int] = {}  # error streams by request, until its data stream comes
        self._errors: dict[int, int] = {}  # error streams by data stream

    async def _take(self, data: bytes) -> None:
        for frame in self._framing.feed(data):
            if frame.kind == SYN_STREAM:
                await self._open(frame)
            elif frame.kind == PING:
                await self._socket.send_bytes(self._framing.ping(frame.data))
            elif frame.kind == GOAWAY:
                await self._socket.close()
            elif (link := self._links.get(frame.stream)) is None:
                continue
            elif frame.kind == RST_STREAM:
                await link.cut()
                await self._close(frame.stream, "")
            elif frame.kind == DATA:
                if frame.data:
                    await link.write(frame.data)
                if frame.last:
                    await link.end_input()

    async def _open(self, frame: Frame) -> None:
        headers, stream = frame.headers, frame.stream
        kind, request = headers.get("streamtype", ""), headers.get("requestid", "")
        port = _port(headers.get("port", ""))
        if kind == "error" and port and request not in self._waiting:
            self._waiting[request] = stream
        elif kind == "data" and port and request in self._waiting:
            self._errors[stream] = self._waiting.pop(request)
            self._link(port, stream)
        else:
            await self._socket.send_bytes(self._framing.reset(stream, REFUSED))
            return
        await self._socket.send_bytes(self._framing.reply(stream))

    def _link(self, port: int, stream: int) -> None:
        async def send(data: bytes) -> None:
            await self._socket.send_bytes(self._framing.data(stream, data))

        async def ended(problem: str) -> None:
            await self._close(stream, problem)
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(self._framing.data(stream, b"", last=True))

        self._links[stream] = Link(self._host, port, send, ended)

    async def _close(self, stream: int, problem: str) -> None:
        """Forget a connection; its error stream ends, for which the client waits."""
        del self._links[stream]
        with contextlib.suppress(ConnectionError):
            errors = self._errors.pop(stream)
            await self._socket.send_bytes(self._framing.data(errors, problem.encode(), last=True))


def _ports(request: web.Request) -> list[int]:
    """The ports that a request names, one or more in each ``port``."""
    texts = [text for value in request.query.getall("port", []) for text in value.split(",")]
    ports = [_port(text) for text in texts]
    if not 0 < len(ports) <= _PORTS or 0 in ports:
        raise InputError(
            "the ports to forward cannot be used",
            found=", ".join(texts) or "none",
            needed=f"1 to {_PORTS} numbers from 1 to 65535",
        )
    return ports


def _port(text: str) -> int:
    """A port's number; 0 for what is none."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    return number if number < 65536 else 0

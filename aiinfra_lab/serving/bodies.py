"""Bodies of requests within a limit, and answers in JSON, whatever characters they hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LINGER = 1.0  # seconds for which the rest of a refused body is thrown away


class BodyTooLarge(Exception):
    """The body has more bytes than ``limit``, which were not all read."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class ClientGone(Exception):
    """The client hung up before its request was complete."""


async def read_body(
    headers: Mapping[str, str], receive: Receive, limit: int, timeout: float
) -> bytes:
    """The body of a request; at most ``limit`` bytes are kept.

    Raises
    ------
    BodyTooLarge
        It announces more, or sends more without having announced it.
    ClientGone
        The connection ended first.
    TimeoutError
        The client took more than ``timeout`` seconds.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        raise BodyTooLarge(limit)
    pieces, size = [], 0
    async with asyncio.timeout(timeout):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            size += len(message.get("body", b""))
            if size > limit:
                raise BodyTooLarge(limit)
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(pieces)


class JsonAnswer(Response):
    """An answer in JSON, in ASCII: text that a client sent may hold what UTF-8 cannot say."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else json.dumps(content).encode()


def refusal(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JsonAnswer:
    """An answer that says in one sentence what is wrong."""
    return JsonAnswer({"detail": detail}, status, headers)


class ClosingAnswer(JsonAnswer):
    """The answer to a request whose body is not wanted; the connection ends after it.

    Closing at once would send a reset for the bytes that still arrive, and the client would
    lose the answer with them. So the answer goes out whole, and what comes in for a moment
    more is thrown away.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__({"detail": detail}, status, {"connection": "close"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})

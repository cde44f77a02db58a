"""Faults to order: a server that is slow, broken, silent or gone, for as long as a drill needs.

Only a server that was started with ``--faults`` has them; else ``/faults`` is a 404. One fault
is in force at a time. A fault strikes the requests of its ``paths`` (``/predict`` unless said
otherwise, never ``/faults``) with a ``probability`` that is drawn from a stream of its own
``seed``, one draw a request in the order of arrival. It ends by itself after ``for_s``
seconds, by ``DELETE``, by another ``PUT``, or when the server begins to end.

::

    curl -X PUT $URL/faults -d '{"kind": "latency", "seconds": 0.5, "jitter": 0.1}'
    curl -X PUT $URL/faults -d '{"kind": "error", "status": 500, "probability": 0.5, "seed": 3}'
    curl -X PUT $URL/faults -d '{"kind": "error", "status": 429, "retry_after": 2}'
    curl -X PUT $URL/faults -d '{"kind": "hang", "for_s": 10}'
    curl -X PUT $URL/faults -d '{"kind": "reset"}'
    curl -X PUT $URL/faults -d '{"kind": "half"}'
    curl -X PUT $URL/faults -d '{"kind": "refuse", "for_s": 5}'
    curl -X PUT $URL/faults -d '{"kind": "overload", "capacity": 2, "seconds": 0.1}'
    curl $URL/faults
    curl -X DELETE $URL/faults

latency
    The answer comes ``seconds`` later, and up to ``jitter`` seconds more (uniform).
error
    ``status`` (400 to 599) instead of an answer, with ``Retry-After`` if ``retry_after``.
hang
    The request is read and not answered until the fault ends or the client goes.
reset
    The request is read, then the TCP connection is reset (RST).
half
    The whole head and half of the body are sent, then the connection is closed (FIN).
refuse
    For ``for_s`` seconds nobody listens on the port and the open connections are reset; then
    the server listens again on the same port. Nothing can end it sooner: ``/faults`` cannot be
    reached either. It strikes every path, so it has neither ``paths`` nor ``probability``.
overload
    At most ``capacity`` requests are in the server at a time, each for ``seconds`` more; the
    rest get 503 with ``Retry-After``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.background import BackgroundTask

from aiinfra_lab.clock import Clock, SystemClock
from aiinfra_lab.errors import InputError
from aiinfra_lab.seeding import substream_seed
from aiinfra_lab.serving.bodies import (
    App,
    ClosingAnswer,
    JsonAnswer,
    Message,
    Receive,
    Scope,
    Send,
    read_body,
    refusal,
)
from aiinfra_lab.serving.fault_kinds import (
    AnyFault,
    Failure,
    Half,
    Hang,
    Latency,
    Overload,
    Refuse,
    Reset,
    read_fault,
)
from aiinfra_lab.serving.instances import parse_json

CONTROL = "/faults"
_SMALL_BODY = 64 << 10


class Listener(Protocol):
    """What ``refuse`` needs: the server's side of its port."""

    async def refuse(self, seconds: float) -> None:
        """Turn every connection away for ``seconds``."""
        ...


class Order:
    """A fault in force."""

    def __init__(self, fault: AnyFault, clock: Clock) -> None:
        self.fault = fault
        self.over = asyncio.Event()
        self.struck = self.in_flight = 0
        self._clock = clock
        self._until = math.inf if fault.for_s is None else clock.monotonic() + fault.for_s
        seed = getattr(fault, "seed", 0)
        self._chance = random.Random(substream_seed(seed, "fault", "probability"))
        self._jitter = random.Random(substream_seed(seed, "fault", "jitter"))

    @property
    def remaining(self) -> float:
        """Seconds; infinite for a fault without ``for_s``."""
        return max(0.0, self._until - self._clock.monotonic())

    def strikes(self, path: str) -> bool:
        """Whether it strikes this request; draws."""
        # Never the way out of a fault, whatever ``paths`` says.
        if isinstance(self.fault, Refuse) or path == CONTROL or path not in self.fault.paths:
            return False
        struck = self._chance.random() < self.fault.probability
        self.struck += struck
        return struck

    def delay(self, fault: Latency) -> float:
        """Seconds by which one answer is late."""
        return fault.seconds + fault.jitter * self._jitter.random()


class Faults:
    """The fault in force, its control endpoint, and the layer that strikes.

    Parameters
    ----------
    clock : Clock, optional
        Measures ``for_s`` and the latencies.

    Attributes
    ----------
    listener : Listener or None
        Must be set for ``refuse``.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.listener: Listener | None = None
        self._clock = clock or SystemClock()
        self._order: Order | None = None

    def current(self) -> Order | None:
        """The fault in force; one whose time is over is dropped here."""
        if self._order is not None and self._order.remaining <= 0:
            self.clear()
        return self._order

    def clear(self) -> None:
        """End the fault in force; requests that it holds go on."""
        if self._order is not None:
            self._order.over.set()
            self._order = None

    def put(self, document: Any) -> Order:
        """Put the fault that ``document`` describes into force, in place of the one before.

        Raises
        ------
        InputError
            The kind or a field is unknown, missing or out of range.
        """
        fault = read_fault(document)
        if isinstance(fault, Refuse) and self.listener is None:
            raise InputError("this server has no port of its own to close")
        self.clear()
        self._order = Order(fault, self._clock)
        return self._order

    def describe(self) -> dict[str, Any]:
        """What ``GET /faults`` says."""
        order = self.current()
        if order is None:
            return {"fault": None}
        remaining = None if order.remaining == math.inf else round(order.remaining, 3)
        fault = order.fault.model_dump(mode="json")
        return {"fault": fault, "remaining_s": remaining, "struck": order.struck}

    # The control endpoint.

    def add_routes(self, app: FastAPI, body_timeout: float) -> None:
        """Add ``PUT``, ``GET`` and ``DELETE /faults``."""

        @app.put(CONTROL)
        async def order(request: Request) -> Response:
            """Put a fault into force."""
            try:
                body = await read_body(request.headers, request.receive, _SMALL_BODY, body_timeout)
            except TimeoutError:
                return ClosingAnswer(408, f"the body took longer than {body_timeout:g} s")
            fault = self.put(parse_json(body)).fault
            if not isinstance(fault, Refuse) or self.listener is None:
                return JsonAnswer(self.describe())
            # This answer's own connection ends in order, before the others are dropped.
            task = BackgroundTask(self.listener.refuse, fault.for_s)
            return JsonAnswer(self.describe(), 200, {"connection": "close"}, background=task)

        @app.get(CONTROL)
        async def show() -> Response:
            """The fault in force."""
            return JsonAnswer(self.describe())

        @app.delete(CONTROL)
        async def clear() -> Response:
            """End the fault in force."""
            self.clear()
            return JsonAnswer(self.describe())

    # The layer that strikes.

    def around(self, app: App, max_body: int) -> App:
        """``app``, struck by the fault in force; at most ``max_body`` bytes are held back."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            order = self.current() if scope["type"] == "http" else None
            if order is None or not order.strikes(scope["path"]):
                await app(scope, receive, send)
                return
            request = _Replay(receive, max_body)
            await request.read()
            await self._strike(order, app, scope, request, send)

        return faulty

    async def _strike(
        self, order: Order, app: App, scope: Scope, request: _Replay, send: Send
    ) -> None:
        match order.fault:
            case Latency() as fault:
                await self._hold(order, order.delay(fault), request)
            case Hang():
                await self._hold(order, order.remaining, request)
            case Failure(status=status, retry_after=wait):
                await _refuse(status, wait, scope, request, send)
                return
            case Overload() as fault:
                await self._crowd(order, fault, app, scope, request, send)
                return
            case Reset():
                scope["state"]["connection"].reset()
                await request.gone()
                return
            case Half():
                await _halve(app, scope, request, send)
                return
        if not request.client_gone:
            await app(scope, request, send)

    async def _hold(self, order: Order, seconds: float, request: _Replay) -> None:
        """Wait ``seconds``, or until the fault ends or the client goes."""
        waits: list[Coroutine[Any, Any, Any]] = [order.over.wait(), request.gone()]
        if seconds < math.inf:
            waits.append(self._clock.sleep(seconds))
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _crowd(
        self, order: Order, fault: Overload, app: App, scope: Scope, request: _Replay, send: Send
    ) -> None:
        if order.in_flight >= fault.capacity:
            await _refuse(503, fault.retry_after, scope, request, send)
            return
        order.in_flight += 1
        try:
            await self._hold(order, fault.seconds, request)
            if not request.client_gone:
                await app(scope, request, send)
        finally:
            order.in_flight -= 1


class _Replay:
    """A request's messages, read ahead and given once more."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._messages: list[Message] = []
        self.client_gone = False

    async def read(self) -> None:
        """Read to the end of the body; of one above the limit, as much as shows that."""
        size, more = 0, True
        while more and size <= self._limit:
            message = await self._receive()
            self._messages.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
            self.client_gone = message["type"] == "http.disconnect"

    async def gone(self) -> None:
        """Wait until the client has hung up."""
        while not self.client_gone:
            message = await self._receive()
            self.client_gone = message["type"] == "http.disconnect"

    async def __call__(self) -> Message:
        return self._messages.pop(0) if self._messages else await self._receive()


async def _refuse(
    status: int, retry_after: int | None, scope: Scope, request: _Replay, send: Send
) -> None:
    headers = None if retry_after is None else {"Retry-After": str(retry_after)}
    await refusal(status, "a fault that was ordered", headers)(scope, request, send)


async def _halve(app: App, scope: Scope, request: _Replay, send: Send) -> None:
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await app(scope, request, keep)
    head, *pieces = messages
    body = b"".join(piece.get("body", b"") for piece in pieces)
    await send(head)
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    scope["state"]["connection"].close()
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await request.gone()

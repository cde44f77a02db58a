"""A model server that does what a test says, request by request, in the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator

from aiohttp import web

OK, HANG, RESET, HALF = "ok", "hang", "reset", "half"


class ScriptedServer:
    """Answers each request by the next entry of ``script``, and then by ``usual``.

    An entry is a word above, a number of seconds (slow), a ``web.Response`` factory, or bytes (a
    body with status 200).
    """

    def __init__(self, usual=OK, script=(), *, version="1"):
        self.usual, self.script, self.version = usual, deque(script), version
        self.bodies, self.headers, self.peers = [], [], set()
        self.active = 0
        self.url = ""

    async def handle(self, request):
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.json())
        self.peers.add(request.transport.get_extra_info("peername"))
        act = self.script.popleft() if self.script else self.usual
        self.active += 1
        try:
            return await self._act(request, act)
        finally:
            self.active -= 1

    async def _act(self, request, act):
        if act == HANG:
            await asyncio.Event().wait()
        if act == RESET:
            request.transport.abort()
            return web.Response()
        if act == HALF:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"model": "digits", ')
            request.transport.close()
            return response
        if isinstance(act, bytes):
            return web.Response(body=act, content_type="application/json")
        if callable(act):
            return act()
        if isinstance(act, float):
            await asyncio.sleep(act)
        return web.json_response(self.answer(self.bodies[-1]))

    def answer(self, body):
        one = {"label": "7", "probabilities": [0.1, 0.9]}
        found = {"model": "digits", "version": self.version}
        if "instance" in body:
            return {**found, "prediction": one}
        return {**found, "predictions": [one for _ in body["instances"]]}


@contextlib.asynccontextmanager
async def serving(usual=OK, script=(), *, version="1") -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(usual, script, version=version)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/predict", server.handle)
    # shutdown_timeout: a handler that hangs is cancelled at once.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def status(number, detail=None, **headers):
    """A factory of answers with this status; ``Retry_After="1"`` becomes a header."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: web.json_response({"detail": detail}, status=number, headers=headers)


def closed_port() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"

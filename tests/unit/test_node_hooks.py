"""Lifecycle hooks: what they do, and the sentence when they fail."""

import asyncio
import math
from dataclasses import dataclass

import pytest
from aiohttp import web

from aiinfra_lab.clock import ManualClock
from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.node.hooks import run_hook

HOST = "127.0.0.1"


@dataclass
class Ran:
    exit_code: int = 0
    output: bytes = b""
    timed_out: bool = False


class Commands:
    def __init__(self, result=None):
        self.result, self.calls = result or Ran(), []

    async def execute(self, run, argv, *, stdin=b"", timeout=None, limit=1 << 20):
        self.calls.append((run, argv, timeout))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


async def run(handler, runtime=None, *, timeout=30.0, clock=None, container=None):
    given = container or {"name": "c"}
    runtime = runtime or Commands()
    return await run_hook(handler, "uid.c.0", HOST, runtime, given, timeout, clock=clock)


COMMAND = {"exec": {"command": ["sh", "-c", "x"]}}


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (Ran(), ""),
        (Ran(0, b"noise"), ""),
        (Ran(3), "command 'sh -c x' exited with 3"),
        (Ran(1, b"no such host\n"), "command 'sh -c x' exited with 1: no such host"),
        (Ran(1, b"\xff"), "command 'sh -c x' exited with 1: \ufffd"),
        (Ran(137, b"", True), "command 'sh -c x' timed out after 30 s"),
        (AIInfraLabError("the container runtime has ended"), "the container runtime has ended"),
    ],
)
async def test_a_command(result, sentence):
    runtime = Commands(result)
    assert await run(COMMAND, runtime) == sentence
    assert runtime.calls == [("uid.c.0", ["sh", "-c", "x"], 30.0)]


async def test_a_hook_without_a_limit():
    runtime = Commands()
    assert await run(COMMAND, runtime, timeout=math.inf) == ""
    assert runtime.calls[0][2] is None


async def test_sleep():
    clock = ManualClock()
    sleeping = asyncio.create_task(run({"sleep": {"seconds": 5}}, clock=clock))
    for expected in (False, True):
        await asyncio.sleep(0.01)
        assert sleeping.done() is expected
        clock.advance(5)
    assert await sleeping == ""


async def test_a_hook_that_does_not_end_is_given_up():
    said = await run({"sleep": {"seconds": 3600}}, clock=ManualClock(), timeout=0.02)
    assert said == "the hook did not end within 0.02 s"


async def test_an_http_call_and_any_answer_is_a_success():
    asked = []

    async def answer(request):
        asked.append((request.path, request.headers["User-Agent"]))
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    port = runner.addresses[0][1]
    try:
        ports = [{"name": "web", "containerPort": port}]
        handler = {"httpGet": {"port": "web", "path": "/stop"}}
        assert await run(handler, container={"name": "c", "ports": ports}) == ""
        assert asked == [("/stop", "kube-lifecycle")]
    finally:
        await runner.cleanup()
    said = await run({"httpGet": {"port": port, "path": "/stop"}})
    assert said.startswith(f'Get "http://{HOST}:{port}/stop"')


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (
            {"tcpSocket": {"port": 1}},
            "this node runs hooks of exec, httpGet and sleep, not tcpSocket",
        ),
        ({}, "this node runs hooks of exec, httpGet and sleep, not nothing"),
        ({"exec": {}}, "the hook has no command"),
        ({"httpGet": {"port": "web"}}, "container 'c' has no port named 'web'"),
    ],
)
async def test_a_hook_that_makes_no_sense(handler, sentence):
    assert await run(handler) == sentence

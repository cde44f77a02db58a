"""The websocket of `kubectl exec`, as the API server opens it, with a program that a test plays."""

import asyncio
import json

import aiohttp
import pytest
from node_endpoint import Endpoint

from aiinfra_lab.errors import AIInfraLabError

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
ALL = "input=1&output=1&error=1"


class Program:
    """Plays the program: the test puts what it writes, and reads what it was told."""

    def __init__(self):
        self.output, self.told, self.code = asyncio.Queue(), [], 0
        self.heard, self.closed = asyncio.Event(), asyncio.Event()

    def says(self, data, name="stdout"):
        self.output.put_nowait((name, data))

    def ends(self, code=0):
        self.code = code
        self.output.put_nowait(None)

    def tell(self, *what):
        self.told.append(what)
        self.heard.set()

    async def hears(self, *what):
        async with asyncio.timeout(20):
            while what not in self.told:
                self.heard.clear()
                await self.heard.wait()

    async def read(self):
        while (said := await self.output.get()) is not None:
            if isinstance(said, BaseException):
                raise said
            yield said

    async def write(self, data):
        self.tell("write", data)

    async def end_input(self):
        self.tell("end")

    async def resize(self, columns, rows):
        self.tell("resize", columns, rows)

    async def wait(self):
        return self.code

    async def close(self):
        self.closed.set()


class Runtime:
    def __init__(self):
        self.program, self.asked, self.refuses = Program(), [], None

    async def attach(self, run, argv, *, stdin, tty):
        self.asked.append((run, list(argv), stdin, tty))
        if self.refuses:
            raise self.refuses
        return self.program


@pytest.fixture
def runtime():
    return Runtime()


@pytest.fixture
def program(runtime):
    return runtime.program


@pytest.fixture
async def node(tmp_path, runtime):
    async with Endpoint(tmp_path, runtime=runtime) as endpoint:
        endpoint.pods.runs["ns", "p", "c"] = "uid.c.0"
        yield endpoint


@pytest.fixture
async def api_server(node):
    async with node.client() as session:
        yield session


def connect(session, query=f"command=sh&{ALL}", *, protocols=(V5,), method="GET"):
    return session.ws_connect(f"/exec/ns/p/c?{query}", protocols=protocols, method=method)


async def messages(ws):
    """All that comes until the end, and the end's code."""
    found = []
    async with asyncio.timeout(20):
        async for message in ws:
            assert message.type is aiohttp.WSMsgType.BINARY
            found.append((message.data[0], message.data[1:]))
    return found, ws.close_code


def status_of(found):
    channel, data = found[-1]
    assert channel == 3
    return json.loads(data)


async def test_output_goes_to_its_channel_and_success_comes_last(api_server, runtime, program):
    program.says(b"out")
    program.says(b"err", "stderr")
    program.says(b"\x00\xff")
    program.ends()
    async with connect(api_server, f"command=ls&command=-l&command=a%20b&{ALL}") as ws:
        assert ws.protocol == V5
        found, code = await messages(ws)
    assert found[:-1] == [(1, b""), (1, b"out"), (2, b"err"), (1, b"\x00\xff")]
    assert status_of(found) == {"metadata": {}, "status": "Success"}
    assert code == 1000
    assert runtime.asked == [("uid.c.0", ["ls", "-l", "a b"], True, False)]
    assert program.closed.is_set()


@pytest.mark.parametrize("code", [1, 42, 137])
async def test_the_exit_code(api_server, program, code):
    program.ends(code)
    async with connect(api_server) as ws:
        status = status_of((await messages(ws))[0])
    assert status["status"] == "Failure"
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": str(code)}]


async def test_input_and_its_end(api_server, program):
    async with connect(api_server) as ws:
        await ws.send_bytes(b"\x00one")
        await ws.send_str("\x00two")  # some clients send text
        await program.hears("write", b"two")
        await ws.send_bytes(b"\xff\x00")
        await program.hears("end")
        program.ends()
        await messages(ws)
    assert program.told == [("write", b"one"), ("write", b"two"), ("end",)]


async def test_v4_has_no_close_and_works_else(api_server, program):
    async with connect(api_server, protocols=(V4, "x")) as ws:
        assert ws.protocol == V4
        await ws.send_bytes(b"\xff\x00")
        await ws.send_bytes(b"\x00one")
        await program.hears("write", b"one")
        program.ends()
        assert status_of((await messages(ws))[0])["status"] == "Success"
    assert program.told == [("write", b"one")]


async def test_the_terminals_size(api_server, runtime, program):
    async with connect(api_server, "command=sh&input=1&output=1&tty=1") as ws:
        for size in (
            b'{"Width":80,"Height":24}',
            b"nonsense",
            b"[]",
            b'{"Width":0,"Height":1}',
            b'{"Width":99999,"Height":1}',
            b'{"Width":132,"Height":50}',
        ):
            await ws.send_bytes(b"\x04" + size)
        await program.hears("resize", 132, 50)
        program.ends()
        await messages(ws)
    assert program.told == [("resize", 80, 24), ("resize", 132, 50)]
    assert runtime.asked == [("uid.c.0", ["sh"], True, True)]


async def test_only_the_streams_that_were_asked_for(api_server, runtime, program):
    program.says(b"out")
    program.says(b"err", "stderr")
    program.ends()
    async with connect(api_server, "command=ls&error=1") as ws:
        found, _ = await messages(ws)
    assert found[:-1] == [(2, b""), (2, b"err")]
    assert runtime.asked[0][2] is False


async def test_messages_that_mean_nothing_are_left_alone(api_server, program):
    async with connect(api_server) as ws:
        for data in (b"", b"\x07x", b"\xff", b"\xff\x09", b"\x01x", b"\x00end"):
            await ws.send_bytes(data)
        await program.hears("write", b"end")
        program.ends()
        await messages(ws)
    assert program.told == [("write", b"end")]


async def test_a_client_that_leaves_ends_the_program(api_server, program):
    ws = await connect(api_server)
    await ws.send_bytes(b"\x00x")
    await program.hears("write", b"x")
    assert not program.closed.is_set()
    await ws.close()
    async with asyncio.timeout(20):
        await program.closed.wait()
    program.ends()


async def test_a_connection_that_breaks_ends_the_program(node, program):
    async with node.client() as session:
        ws = await connect(session)
        await ws.send_bytes(b"\x00x")
        await program.hears("write", b"x")
        ws._response.connection.transport.abort()
        async with asyncio.timeout(20):
            await program.closed.wait()
        program.ends()
        await ws.close()


async def test_a_program_that_cannot_be_started_is_told_on_the_status_channel(api_server, runtime):
    runtime.refuses = AIInfraLabError("there is no program 'lss'")
    async with connect(api_server) as ws:
        found, code = await messages(ws)
    status = status_of(found)
    assert (status["status"], status["message"]) == ("Failure", "there is no program 'lss'")
    assert code == 1000


async def test_a_runtime_that_goes_away_is_told_on_the_status_channel(api_server, program):
    program.says(b"some")
    program.output.put_nowait(AIInfraLabError("the container runtime has ended"))
    async with connect(api_server) as ws:
        found, _ = await messages(ws)
    assert found[1] == (1, b"some")
    assert status_of(found)["message"] == "the container runtime has ended"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_spdy_is_refused_with_the_reason(api_server, runtime, method):
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    async with api_server.request(
        method, f"/exec/ns/p/c?command=sh&{ALL}", headers=headers
    ) as response:
        assert response.status == 501
        assert "ExtendWebSocketsToKubelet" in await response.text()
    assert runtime.asked == []


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        (ALL, "there is no command to run"),
        ("command=sh", "at least one of stdin, stdout and stderr is needed"),
        ("command=sh&input=0", "at least one of stdin, stdout and stderr is needed"),
        (f"command=sh&{ALL}&tty=1", "a terminal has no stderr of its own"),
    ],
)
async def test_what_cannot_be_run(api_server, query, sentence):
    async with api_server.get(f"/exec/ns/p/c?{query}") as response:
        assert (response.status, await response.text()) == (400, sentence)


async def test_a_client_with_none_of_the_protocols(api_server):
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await connect(api_server, protocols=("channel.k8s.io",))
    assert caught.value.status == 400


async def test_containers_that_do_not_run(api_server, node, tmp_path):
    node.pods.waiting["ns", "p", "next"] = "it is waiting"
    node.pods.logs["ns", "p", "over", False] = tmp_path / "log"
    for container, expected in {
        "next": (400, "it is waiting"),
        "over": (400, 'container "over" in pod "p" does not run'),
        "none": (404, 'container "none" of pod "p" is not on this node'),
    }.items():
        async with api_server.get(f"/exec/ns/p/{container}?command=sh&{ALL}") as response:
            assert (response.status, await response.text()) == expected

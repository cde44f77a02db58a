"""The runtime's client against a server that answers by the script of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.kube.runtime.client import NotRunning, Runtime, RuntimeGone
from aiinfra_lab.kube.runtime.place import socket_of

STATE = {"id": "a", "status": "running", "pid": 7, "started_at": 1.5}


class Peer:
    """The server's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def hear(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self._reader.readline())
        return found

    def say(self, **document: Any) -> None:
        self.writer.write(json.dumps(document).encode() + b"\n")


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def server(folder: Path, script: Script) -> AsyncIterator[Path]:
    folder.mkdir(exist_ok=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        peer.say(hello={"isolated": True, "pid": 7, "version": 1})
        await script(peer)
        writer.close()

    async with await asyncio.start_unix_server(serve, socket_of(folder)):
        yield folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rt"


async def test_answers_find_who_asked_in_any_order(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        first, second = await peer.hear(), await peer.hear()
        for said in (second, first):
            peer.say(event=STATE)
            peer.say(n=said["n"], value=[STATE | {"id": said["do"]}])
        await peer.hear()
        peer.say(n=99, value="nobody asked")
        peer.say(n=3, value=None)

    async with server(folder, script), await Runtime.connect(folder) as runtime:
        assert (runtime.isolated, runtime.pid) == (True, 7)
        both = await asyncio.gather(runtime.list(), runtime.list())
        assert [[state.id for state in states] for states in both] == [["list"], ["list"]]
        await runtime.remove("a")


async def test_end_of_the_runtime_reaches_whoever_waits(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hear()
        peer.say(event=STATE)
        await peer.writer.drain()

    async with server(folder, script), await Runtime.connect(folder) as runtime:
        events = runtime.events()
        with pytest.raises(RuntimeGone):
            await runtime.list()
        assert [state.id async for state in events] == ["a"]
        assert [state async for state in runtime.events()] == []
        with pytest.raises(RuntimeGone):
            await runtime.stop("a", 1)


async def test_cancelled_request_leaves_the_connection_whole(folder: Path) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        first = await peer.hear()
        await go.wait()
        peer.say(n=first["n"], value=[])
        second = await peer.hear()
        peer.say(n=second["n"], value=[STATE])

    async with server(folder, script), await Runtime.connect(folder) as runtime:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runtime.list(), 0.01)
        go.set()
        assert [state.pid for state in await runtime.list()] == [7]


@pytest.mark.parametrize(
    ("error", "kind"), [("InputError", InputError), ("NotRunning", NotRunning)]
)
async def test_refusals_are_raised_by_their_kind(
    folder: Path, error: str, kind: type[Exception]
) -> None:
    async def script(peer: Peer) -> None:
        said = await peer.hear()
        peer.say(n=said["n"], error=error, message="no", needed=None, found="this", fix=None)

    async with server(folder, script), await Runtime.connect(folder) as runtime:
        with pytest.raises(kind, match="no; found this"):
            await runtime.remove("a")


async def test_connect_waits_for_one_that_starts(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        said = await peer.hear()
        peer.say(n=said["n"], value=[])

    connecting = asyncio.create_task(Runtime.connect(folder, timeout=60))
    await asyncio.sleep(0.05)
    async with server(folder, script), await connecting as runtime:
        assert await runtime.list() == []


async def test_each_follower_hears_from_its_call_on(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        for name in ("one", "two"):
            said = await peer.hear()
            peer.say(event=STATE | {"id": name})
            peer.say(n=said["n"], value=[])

    async with server(folder, script), await Runtime.connect(folder) as runtime:
        early = runtime.events()
        await runtime.list()
        late = runtime.events()
        await runtime.list()
        assert [(await anext(early)).id, (await anext(early)).id] == ["one", "two"]
        assert (await anext(late)).id == "two"

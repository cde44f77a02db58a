"""``kubectl exec``: a program in a container, its streams on the channels of one websocket.

The protocol is Kubernetes' ``v5.channel.k8s.io`` (kubectl) or ``v4`` (other clients): a message
is one byte for its channel and then the data. 0 is stdin, 1 stdout, 2 stderr, 3 the status at the
end as JSON, 4 the size of the terminal. In ``v5``, 255 and a channel's number close that channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

from aiohttp import WSMsgType, web

from aiinfra_lab.errors import AIInfraLabError, InputError
from aiinfra_lab.kube.node.serving.log_reader import truth

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
NO_WEBSOCKETS = (
    "this node speaks websockets and the API server asked for SPDY; it uses websockets from "
    "Kubernetes 1.36, with the feature gate ExtendWebSocketsToKubelet"
)


class Attached(Protocol):
    """A program that runs in a container, with its streams."""

    def read(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        """What it writes, as it comes; the end is the program's."""
        ...

    async def write(self, data: bytes) -> None:
        """Feed its stdin; lost where it does not read any more."""
        ...

    async def end_input(self) -> None:
        """Let its stdin end."""
        ...

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it the size of its terminal."""
        ...

    async def wait(self) -> int:
        """Its exit code; 128 + the signal where one ended it."""
        ...

    async def close(self) -> None:
        """End it if it still runs."""
        ...


class Attacher(Protocol):
    """Who runs a program in a container; the runtime's client is one."""

    async def attach(
        self, run: str, argv: Sequence[str], /, *, stdin: bool, tty: bool
    ) -> Attached: ...


async def serve_exec(request: web.Request, runtime: Attacher, run: str) -> web.StreamResponse:
    """Run what the request asks for in the container ``run``; its client's end is its end.

    Raises
    ------
    InputError
        No command, no stream, or a combination of streams that cannot be.
    aiohttp.web.HTTPNotImplemented
        The request is no websocket.
    """
    query = request.query
    argv = query.getall("command", [])
    names = {STDIN: "input", STDOUT: "output", STDERR: "error"}
    wanted = {channel for channel, name in names.items() if truth(query, name)}
    tty = truth(query, "tty")
    if not argv:
        raise InputError("there is no command to run")
    if not wanted:
        raise InputError("at least one of stdin, stdout and stderr is needed")
    if tty and STDERR in wanted:
        raise InputError("a terminal has no stderr of its own")
    socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False)
    ready = socket.can_prepare(request)
    if not ready.ok:
        raise web.HTTPNotImplemented(text=NO_WEBSOCKETS)
    if ready.protocol is None:
        raise InputError(
            "the client speaks none of this node's protocols", needed=" or ".join(PROTOCOLS)
        )
    await socket.prepare(request)
    # An empty message tells the client that it is connected; the program may be silent for long.
    await socket.send_bytes(bytes([min(wanted - {STDIN}, default=STATUS)]))
    try:
        program = await runtime.attach(run, argv, stdin=STDIN in wanted, tty=tty)
    except AIInfraLabError as error:
        await _end(socket, _failure(str(error)))
        return socket
    speaking = asyncio.create_task(_speak(socket, program, wanted))
    listening = asyncio.create_task(_listen(socket, program, ready.protocol))
    try:
        await asyncio.wait((speaking, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Nobody may use the program's streams while they are closed.
        for task in (speaking, listening):
            task.cancel()
        said, heard = await asyncio.gather(speaking, listening, return_exceptions=True)
        with contextlib.suppress(AIInfraLabError):
            await program.close()
    if isinstance(said, int):
        await _end(socket, _exit(said) if said else {"status": "Success"})
        return socket
    for problem in (said, heard):
        if isinstance(problem, AIInfraLabError):  # the runtime has ended
            await _end(socket, _failure(str(problem)))
            break
        if isinstance(problem, Exception) and not isinstance(problem, ConnectionError):
            raise problem
    return socket  # unless there was a problem, the client has left


async def _speak(socket: web.WebSocketResponse, program: Attached, wanted: set[int]) -> int:
    """Send what the program writes; give its exit code."""
    async for name, data in program.read():
        channel = STDERR if name == "stderr" else STDOUT
        if channel in wanted and data:
            await socket.send_bytes(bytes([channel]) + data)
    return await program.wait()


async def _end(socket: web.WebSocketResponse, status: dict[str, Any]) -> None:
    text = json.dumps({"metadata": {}, **status}).encode()
    with contextlib.suppress(ConnectionError):
        await socket.send_bytes(bytes([STATUS]) + text)
        await socket.close()


def _failure(message: str, **more: Any) -> dict[str, Any]:
    return {"status": "Failure", "reason": "InternalError", "code": 500, "message": message} | more


def _exit(code: int) -> dict[str, Any]:
    """The status from which a client takes the exit code."""
    cause = {"reason": "ExitCode", "message": str(code)}
    return {
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with exit code {code}",
        "details": {"causes": [cause]},
    }


async def _listen(socket: web.WebSocketResponse, program: Attached, protocol: str) -> None:
    """Do what the client's messages say until it leaves."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            data = message.data.encode()
        elif message.type is WSMsgType.BINARY:
            data = message.data
        else:
            continue
        if not data:
            continue
        channel, data = data[0], data[1:]
        if channel == STDIN:
            await program.write(data)
        elif channel == CLOSE and protocol == PROTOCOLS[0]:
            if data[:1] == bytes([STDIN]):
                await program.end_input()
        elif channel == RESIZE:
            size = _size(data)
            if size is not None:
                await program.resize(*size)


def _size(data: bytes) -> tuple[int, int] | None:
    """Columns and rows in a message on the resize channel; None for what is no such message."""
    try:
        said = json.loads(data)
        columns, rows = int(said["Width"]), int(said["Height"])
    except (ValueError, KeyError, TypeError):
        return None
    return (columns, rows) if 0 < columns < 65536 and 0 < rows < 65536 else None

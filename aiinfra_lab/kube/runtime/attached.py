"""The client's side of an attached program: its streams, its terminal, its exit code."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import struct
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, Self

from aiinfra_lab.errors import AIInfraLabError
from aiinfra_lab.kube.runtime.failures import RuntimeGone, error_of

Output = Literal["stdout", "stderr"]
_CHUNK: Final = 1 << 16
_MOST_FDS: Final = 4
_END_OF_INPUT: Final = b"\x04"  # what a terminal takes for the end of its input
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Attached:
    """A program that runs in a container, with its streams. Made by ``Runtime.attach``."""

    def __init__(self, link: socket.socket, fds: dict[str, int], rest: bytes) -> None:
        self._link, self._fds, self._rest = link, fds, rest
        self._loop = asyncio.get_running_loop()
        for fd in fds.values():
            os.set_blocking(fd, False)
        self._input = fds.get("terminal", fds.get("stdin", -1))
        self._outputs: dict[int, Output] = {
            fd: "stderr" if name == "stderr" else "stdout"
            for name, fd in fds.items()
            if name != "stdin"
        }
        self._ended = asyncio.create_task(self._hear_end())

    @classmethod
    async def make(cls, path: str, request: dict[str, Any]) -> Self:
        """Ask the runtime at ``path``, on a connection of its own.

        Raises
        ------
        RuntimeGone, NotRunning, InputError, AIInfraLabError
            No runtime, no such container, a request that makes no sense, a program that cannot
            be started.
        """
        loop = asyncio.get_running_loop()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fds: list[int] = []
        try:
            link.setblocking(False)
            await loop.sock_connect(link, path)
            await loop.sock_sendall(link, json.dumps({"n": 1} | request).encode() + b"\n")
            heard = b""
            while True:
                data = await _receive(link, fds)
                if not data:
                    raise RuntimeGone("the container runtime has ended")
                *lines, heard = (heard + data).split(b"\n")
                for number, said in enumerate(map(json.loads, lines)):
                    if said.get("n") != 1:
                        continue
                    if "error" in said:
                        raise error_of(said)
                    rest = b"".join(line + b"\n" for line in lines[number + 1 :]) + heard
                    return cls(link, dict(zip(said["value"], fds, strict=True)), rest)
        except BaseException as error:
            link.close()
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError):
                raise RuntimeGone("the container runtime has ended") from None
            raise

    async def read(self) -> AsyncIterator[tuple[Output, bytes]]:
        """What it writes, as it comes; over when it has ended, whatever it left behind."""
        while self._outputs:
            over = self._ended.done()
            found = False
            for fd, name in list(self._outputs.items()):
                try:
                    data = os.read(fd, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:  # a terminal whose last user has gone
                    data = b""
                if data:
                    found = True
                    yield name, data
                else:
                    self._outputs.pop(fd, None)
            if not found:
                if over:
                    return
                await self._something()

    async def _something(self) -> None:
        """Wait for output, or for the end."""
        ready = self._loop.create_future()
        with _watching(self._loop, list(self._outputs), partial(_set, ready)):
            await asyncio.wait([ready, self._ended], return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def write(self, data: bytes) -> None:
        """Feed its stdin; lost where it does not read any more."""
        view = memoryview(data)
        while view and self._input >= 0:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                ready = self._loop.create_future()
                self._loop.add_writer(self._input, _set, ready)
                try:
                    await asyncio.wait([ready, self._ended], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if self._input >= 0:
                        self._loop.remove_writer(self._input)
                    ready.cancel()
                if self._ended.done():
                    return
            except OSError:
                return

    async def end_input(self) -> None:
        """Let its stdin end."""
        if "terminal" in self._fds:
            await self.write(_END_OF_INPUT)
        elif self._input >= 0:
            os.close(self._fds.pop("stdin"))
            self._input = -1

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it the size of its terminal; without one nothing happens."""
        if "terminal" in self._fds:
            size = struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._fds["terminal"], termios.TIOCSWINSZ, size)

    async def wait(self) -> int:
        """Its exit code; 128 + the signal where one ended it.

        Raises
        ------
        RuntimeGone
            The runtime has ended, and the program with it.
        """
        return await asyncio.shield(self._ended)

    async def _hear_end(self) -> int:
        heard = self._rest
        while b"\n" not in heard:
            data = b""
            with contextlib.suppress(OSError):
                data = await self._loop.sock_recv(self._link, _CHUNK)
            if not data:
                raise RuntimeGone("the container runtime has ended")
            heard += data
        return int(json.loads(heard.split(b"\n")[0])["exit"])

    async def close(self) -> None:
        """End it, with all that it started, if it still runs."""
        self._ended.cancel()
        with contextlib.suppress(asyncio.CancelledError, AIInfraLabError):
            await self._ended
        self._link.close()
        for fd in self._fds.values():
            os.close(fd)
        self._fds, self._outputs, self._input = {}, {}, -1


async def _receive(link: socket.socket, fds: list[int]) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, rights, _, _ = link.recvmsg(_CHUNK, socket.CMSG_LEN(4 * _MOST_FDS), _CLOEXEC)
        except BlockingIOError:
            ready = loop.create_future()
            with _watching(loop, [link.fileno()], partial(_set, ready)):
                await ready
            continue
        for _, _, ancillary in rights:
            numbers = array.array("i")
            numbers.frombytes(ancillary[: len(ancillary) // 4 * 4])
            for fd in numbers:
                os.set_inheritable(fd, False)
                fds.append(fd)
        return data


@contextlib.contextmanager
def _watching(
    loop: asyncio.AbstractEventLoop, fds: list[int], call: Callable[[], object]
) -> Iterator[None]:
    for fd in fds:
        loop.add_reader(fd, call)
    try:
        yield
    finally:
        for fd in fds:
            loop.remove_reader(fd)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""The client of the runtime, for asyncio.

Examples
--------
>>> runtime = await Runtime.connect(folder)  # doctest: +SKIP
>>> state = await runtime.run(spec)  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from aiinfra_lab.kube.runtime.attached import Attached
from aiinfra_lab.kube.runtime.failures import NotRunning, RuntimeGone, error_of
from aiinfra_lab.kube.runtime.place import socket_of
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState

__all__ = ["Attached", "Executed", "NotRunning", "Runtime", "RuntimeGone", "socket_of"]

_LONGEST_LINE: Final = 64 << 20  # bytes of an answer: what ``execute`` may collect, in base64
_RETRY: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What a program in a container left.

    ``exit_code`` is 128 + the signal where one ended it, 127 where there is no such program (then
    ``output`` says so). ``timed_out``: it was killed at its time.
    """

    exit_code: int
    output: bytes
    timed_out: bool = False


class Runtime:
    """A connection to the runtime of one folder. Calls may be made side by side."""

    isolated: bool
    """Whether containers get a mount namespace of their own."""
    pid: int
    """The runtime's process."""

    def __init__(
        self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._path = path
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._followers: set[asyncio.Queue[ContainerState | None]] = set()
        self._gone = False
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, folder: Path, *, timeout: float = 10.0) -> Self:
        """Connect to the runtime in ``folder``, waiting for one that is just starting.

        Raises
        ------
        RuntimeGone
            None has answered within ``timeout`` seconds.
        """
        path, writer = socket_of(folder), None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        reader, writer = await asyncio.open_unix_connection(
                            str(path), limit=_LONGEST_LINE
                        )
                        hello = json.loads(await reader.readline())["hello"]
                        break
                    except (OSError, ValueError):
                        if writer is not None:
                            writer.close()
                        await asyncio.sleep(_RETRY)
        except TimeoutError:
            if writer is not None:
                writer.close()
            raise RuntimeGone(
                f"no container runtime answers in {folder} within {timeout:g} s"
            ) from None
        runtime = cls(path, reader, writer)
        runtime.isolated, runtime.pid = bool(hello["isolated"]), int(hello["pid"])
        runtime._listening = asyncio.create_task(runtime._listen())
        return runtime

    async def run(self, spec: ContainerSpec) -> ContainerState:
        """Run a container; one whose id is known is not started again.

        Returns
        -------
        ContainerState
            It runs; or it has exited with the reason StartError, where the program or a mount
            cannot be used.

        Raises
        ------
        InputError
            The spec itself makes no sense, or its log cannot be written.
        RuntimeGone
            The runtime has ended.
        """
        return ContainerState(**await self._ask("run", spec=spec.to_json()))

    async def stop(self, id: str, grace: float) -> None:  # noqa: A002
        """TERM to the container's group now, KILL to its whole tree after ``grace`` seconds.

        The runtime does both, whether this client stays or not. A later, shorter grace counts;
        0 kills at once. An ended or unknown container is left alone.
        """
        await self._ask("stop", id=id, grace=grace)

    async def list(self) -> list[ContainerState]:
        """The running ones, and the exited ones that were not removed."""
        return [ContainerState(**state) for state in await self._ask("list")]

    async def remove(self, id: str) -> None:  # noqa: A002
        """Forget an exited container; its log stays. An unknown one is forgotten already.

        Raises
        ------
        InputError
            It still runs.
        """
        await self._ask("remove", id=id)

    async def execute(
        self,
        id: str,  # noqa: A002
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        limit: int = 1 << 20,
    ) -> Executed:
        """Run a program in a running container: its files, environment, folder and user.

        Parameters
        ----------
        timeout : float, optional
            Seconds; then it and all that it started are killed.
        limit : int
            Bytes of output (stdout and stderr as they come) that are kept; more is read and lost.

        Raises
        ------
        NotRunning
            The container does not run.
        """
        found = await self._ask(
            "execute",
            id=id,
            argv=list(argv),
            stdin=base64.b64encode(stdin).decode(),
            timeout=timeout,
            limit=limit,
        )
        return Executed(**found | {"output": base64.b64decode(found["output"])})

    async def attach(
        self,
        id: str,  # noqa: A002
        argv: Sequence[str],
        *,
        stdin: bool = False,
        tty: bool = False,
    ) -> Attached:
        """Run a program in a running container and hold its streams; to be closed.

        Parameters
        ----------
        stdin : bool
            Whether it can be written to; else its stdin is empty.
        tty : bool
            Its three streams are one terminal.

        Raises
        ------
        NotRunning
            The container does not run.
        AIInfraLabError
            The program cannot be started; the sentence says why.
        """
        request = {"do": "attach", "id": id, "argv": list(argv), "stdin": stdin, "tty": tty}
        return await Attached.make(str(self._path), request)

    def events(self) -> AsyncIterator[ContainerState]:
        """Every start and every end from this call on; over when the runtime is gone."""
        queue: asyncio.Queue[ContainerState | None] = asyncio.Queue()
        if self._gone:
            queue.put_nowait(None)
        self._followers.add(queue)
        return self._follow(queue)

    async def _follow(
        self, queue: asyncio.Queue[ContainerState | None]
    ) -> AsyncIterator[ContainerState]:
        try:
            while (state := await queue.get()) is not None:
                yield state
        finally:
            self._followers.discard(queue)

    async def close(self) -> None:
        """End the connection; the containers go on."""
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, verb: str, **fields: Any) -> Any:
        if self._gone:
            raise RuntimeGone("the container runtime has ended")
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            line = json.dumps({"n": number, "do": verb, **fields})
            self._writer.write(line.encode() + b"\n")
            with contextlib.suppress(OSError):  # the listener learns of it, and tells the future
                await self._writer.drain()
            return await future
        finally:
            self._asked.pop(number, None)

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self._gone = True
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(RuntimeGone("the container runtime has ended"))
            for queue in self._followers:
                queue.put_nowait(None)

    def _take(self, said: dict[str, Any]) -> None:
        if "event" in said:
            state = ContainerState(**said["event"])
            for queue in self._followers:
                queue.put_nowait(state)
            return
        future = self._asked.get(said["n"])
        if future is None or future.done():  # whoever asked was cancelled
            return
        if "error" in said:
            future.set_exception(error_of(said))
        else:
            future.set_result(said["value"])

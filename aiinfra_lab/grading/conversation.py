"""Asking one kernel to run one cell after the other, with a stranger at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.messages import (
    Incoming,
    execute_request,
    output_of,
    read_message,
)
from aiinfra_lab.grading.sockets import Sockets
from aiinfra_lab.grading.zmtp import Message, Peer, WireError

# How long to wait for the last outputs once the reply is there, and the other way round.
_AFTERGLOW_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much a submission may say, and how long a cell may take.

    Parameters
    ----------
    cell_bytes, total_bytes : int
        Bytes of the messages for one cell, and for all of them.
    messages : int
        Messages for one cell.
    cell_s : float
        Seconds after which a cell is interrupted.
    grace_s : float
        Seconds that it then has to end, before the kernel is killed.
    """

    cell_bytes: int = 4 << 20
    total_bytes: int = 16 << 20
    messages: int = 5_000
    cell_s: float = 30.0
    grace_s: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"the bound {name} is {value}; it must be positive")


@dataclass
class _Cell:
    """What has come for the cell that runs."""

    request: str
    outputs: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    count: int = 0
    cut: str = ""
    replied: bool = False
    idle: bool = False
    clear_next: bool = False


class KernelEnded(Exception):
    """The kernel is gone, or had to be given up.

    Attributes
    ----------
    reason : str
        In words.
    run : CellRun or None
        What the cell that was running had given.
    overdue : bool
        It did not end in time, and could not be interrupted.
    """

    def __init__(self, reason: str, run: CellRun | None = None, *, overdue: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.run, self.overdue = reason, run, overdue


class Conversation:
    """The client of one kernel; one cell at a time.

    Parameters
    ----------
    shell, iopub : Peer
        Connected.
    key : str
        The kernel's.
    bounds : Bounds
    interrupt : callable
        Sends SIGINT to the kernel.
    """

    def __init__(
        self, shell: Peer, iopub: Peer, key: str, bounds: Bounds, interrupt: Callable[[], None]
    ) -> None:
        self._key, self._bounds, self._interrupt = key, bounds, interrupt
        self._peers = (shell, iopub)
        self._cell: _Cell | None = None
        self._total = 0
        self._changed = asyncio.Event()
        self._ended = False
        self._readers = [
            asyncio.create_task(self._listen(shell, self._on_shell)),
            asyncio.create_task(self._listen(iopub, self._on_iopub)),
        ]

    @classmethod
    async def open(
        cls,
        sockets: Sockets,
        key: str,
        bounds: Bounds,
        interrupt: Callable[[], None],
        *,
        start_s: float = 60.0,
    ) -> Self:
        """Connect, and wait until the kernel publishes.

        Raises
        ------
        KernelEnded
            It has not come up.
        """
        peers: list[Peer] = []
        try:
            async with asyncio.timeout(start_s):
                for name, kind in (("shell", "DEALER"), ("iopub", "SUB")):
                    peer = await Peer.connect(
                        sockets.paths[name], kind, longest=bounds.cell_bytes + (64 << 10)
                    )
                    peers.append(peer)
                await peers[1].send([b"\x01"])  # subscribe to everything
                # The kernel answers a subscription; before that, what it publishes is lost.
                while _kind(await peers[1].receive()) != "iopub_welcome":
                    pass
        except (WireError, TimeoutError, OSError) as error:
            for peer in peers:
                peer.close()
            raise KernelEnded(str(error) or "the kernel did not answer") from None
        return cls(peers[0], peers[1], key, bounds, interrupt)

    async def run(self, cell: str, source: str, cell_s: float | None = None) -> CellRun:
        """Run one cell; its outputs, cut where they are too much, and what failed.

        Raises
        ------
        KernelEnded
            The kernel died or had to be given up.
        """
        seconds = self._bounds.cell_s if cell_s is None else cell_s
        name, frames = execute_request(source, self._key)
        self._cell = state = _Cell(name)
        failure = ""
        try:
            async with asyncio.timeout(self._bounds.grace_s + seconds):
                await self._peers[0].send(frames)
        except (WireError, TimeoutError):
            raise _died(CellRun(cell, [])) from None
        if not await self._finished(state, seconds):
            if not self._ended:
                failure = state.cut or f"the cell ran longer than {seconds:g} s"
                self._interrupt()
                if not await self._finished(state, self._bounds.grace_s, even_if_cut=True):
                    failure += ", and could not be interrupted"
                    raise KernelEnded(
                        failure, CellRun(cell, state.outputs, failure), overdue=not self._ended
                    )
            else:
                raise _died(CellRun(cell, state.outputs))
        self._cell = None
        failure = failure or state.cut
        error = next((o for o in state.outputs if o["output_type"] == "error"), None)
        if not failure and error is not None:
            failure = f"{error['ename']}: {error['evalue']}"
        return CellRun(cell, state.outputs, failure)

    async def _finished(self, state: _Cell, seconds: float, *, even_if_cut: bool = False) -> bool:
        """Whether the cell has ended within ``seconds``; not where it says too much."""
        deadline = time.monotonic() + seconds
        half: float | None = None
        while not (state.replied and state.idle):
            if state.cut and not even_if_cut:
                return False
            if state.replied or state.idle:
                # A message may have been skipped, or forged: the rest gets a moment.
                half = half or time.monotonic() + _AFTERGLOW_S
                deadline = min(deadline, half)
            left = deadline - time.monotonic()
            if left <= 0:
                return state.replied or state.idle
            if self._ended:
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return not state.cut or even_if_cut

    async def _listen(self, peer: Peer, take: Callable[[_Cell, Incoming], None]) -> None:
        try:
            while True:
                message = await peer.receive()
                state = self._cell
                if state is None:
                    continue
                self._count(state, message)
                # After the cut only the end of the cell is of interest.
                incoming = None if message.skipped else read_message(message.frames)
                if incoming is not None and incoming.parent == state.request:
                    take(state, incoming)
                if state.cut or state.replied or state.idle:
                    self._changed.set()
        except WireError:
            self._ended = True
            self._changed.set()

    def _count(self, state: _Cell, message: Message) -> None:
        if state.cut:
            return
        # What comes after the cut is read and dropped, and costs the later cells nothing.
        state.size += message.size
        state.count += 1
        self._total += min(message.size, self._bounds.cell_bytes)
        if state.size > self._bounds.cell_bytes:
            state.cut = f"the cell gave more than {self._bounds.cell_bytes >> 10} kB of output"
        elif state.count > self._bounds.messages:
            state.cut = f"the cell sent more than {self._bounds.messages} messages"
        elif self._total > self._bounds.total_bytes:
            state.cut = f"the notebook gave more than {self._bounds.total_bytes >> 10} kB of output"

    def _on_shell(self, state: _Cell, message: Incoming) -> None:
        state.replied = state.replied or message.kind == "execute_reply"

    def _on_iopub(self, state: _Cell, message: Incoming) -> None:
        if message.kind == "status":
            state.idle = state.idle or message.content.get("execution_state") == "idle"
        elif message.kind == "clear_output":
            state.clear_next = bool(message.content.get("wait"))
            if not state.clear_next:
                state.outputs.clear()
        elif not state.cut and (output := output_of(message)) is not None:
            if state.clear_next:
                state.outputs.clear()
                state.clear_next = False
            _append(state.outputs, output)

    async def close(self) -> None:
        """Close the connections."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        for peer in self._peers:
            peer.close()


def _died(run: CellRun) -> KernelEnded:
    return KernelEnded("the kernel died", CellRun(run.cell, run.outputs, "the kernel died"))


def _append(outputs: list[dict[str, Any]], output: dict[str, Any]) -> None:
    """Add an output; a stream's pieces are one output, as in a saved notebook."""
    last = outputs[-1] if outputs else {}
    if output["output_type"] == "stream" and last.get("name") == output["name"]:
        last["text"] += output["text"]
    else:
        outputs.append(output)


def _kind(message: Message) -> str:
    incoming = read_message(message.frames)
    return incoming.kind if incoming else ""

"""A container runtime for tests, and short ways to ask it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from aiinfra_lab.kube.runtime.client import Runtime
from aiinfra_lab.kube.runtime.spec import ContainerSpec, ContainerState
from aiinfra_lab.processes import Child

WALL = 60.0  # seconds: no test is decided by it
PATH = "/usr/local/bin:/usr/bin:/bin"


def child(folder: Path, *, patch: str = "", **more: Any) -> Child:
    """The runtime of ``folder``, not started; ``patch`` is Python that is run first in it."""
    argv = [sys.executable, "-m", "aiinfra_lab.kube.runtime", str(folder)]
    if patch:
        program = f"{patch}\nfrom aiinfra_lab.kube.runtime.__main__ import main\n"
        argv[1:3] = ["-c", f"{program}import sys\nsys.exit(main(sys.argv[1:]))"]
    return Child(argv, log=folder.parent / f"{folder.name}.log", **more)


@dataclass
class Desk:
    """A connection, and the folder in which its containers write."""

    runtime: Runtime
    folder: Path

    def spec(self, name: str, script: str | tuple[str, ...], **fields: Any) -> ContainerSpec:
        """A container that runs a line of shell, or words."""
        argv = ("sh", "-c", script) if isinstance(script, str) else script
        log = self.folder / "logs" / f"{name}.log"
        known: dict[str, Any] = {"env": {"PATH": PATH}, "log": log} | fields
        return ContainerSpec(id=name, argv=argv, **known)

    async def run(self, name: str, script: str | tuple[str, ...], **fields: Any) -> ContainerState:
        return await self.runtime.run(self.spec(name, script, **fields))

    async def state(self, name: str) -> ContainerState:
        return next(state for state in await self.runtime.list() if state.id == name)

    async def ended(self, name: str) -> ContainerState:
        """Its state once it has ended."""
        events = self.runtime.events()
        state = await self.state(name)
        async with asyncio.timeout(WALL):
            while state.status == "running":
                found = await anext(events)
                state = found if found.id == name else state
        return state

    async def finish(
        self, name: str, script: str | tuple[str, ...], **fields: Any
    ) -> tuple[ContainerState, str]:
        """Run it to its end; its state and what it wrote to stdout and stderr."""
        await self.run(name, script, **fields)
        return await self.ended(name), self.text(name)

    async def clear(self) -> None:
        """End and forget all that ran."""
        for state in await self.runtime.list():
            await self.runtime.stop(state.id, 0)
            await self.ended(state.id)
            await self.runtime.remove(state.id)

    def lines(self, name: str) -> list[tuple[str, str, str]]:
        """(stream, tag, text) of every line of its log."""
        text = (self.folder / "logs" / f"{name}.log").read_text(errors="replace")
        return [tuple(line.split(" ", 3)[1:]) for line in text.split("\n")[:-1]]  # type: ignore[misc]

    def text(self, name: str) -> str:
        """What it wrote, without times and streams."""
        return "".join(t + ("\n" if tag == "F" else "") for _, tag, t in self.lines(name))

    async def line(self, name: str, number: int = 0) -> str:
        """A line of its output, once it is there."""
        path = self.folder / "logs" / f"{name}.log"
        await until(lambda: path.exists() and len(self.lines(name)) > number)
        return self.lines(name)[number][2]


async def until(true: Callable[[], Any]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WALL
    while not true():
        assert time.monotonic() < end, "it never became so"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether it lives, and is not only waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def all_gone(pids: list[int]) -> None:
    """Wait until none of them lives."""
    await until(lambda: not any(map(alive, pids)))


async def connected(folder: Path) -> AsyncIterator[Desk]:
    """For fixtures: a desk at the runtime of ``folder``, with an empty folder beside it."""
    async with await Runtime.connect(folder, timeout=WALL) as runtime:
        yield Desk(runtime, folder.parent / f"desk-{os.urandom(4).hex()}")

"""Submissions in the sandbox: each in a fork of a prepared server, behind walls of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiinfra_lab.course.notebooks import Notebook, code_cells, tag_value
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.errors import AIInfraLabError, MissingNeed, ProcessError
from aiinfra_lab.grading.conversation import Bounds, Conversation, KernelEnded
from aiinfra_lab.grading.messages import new_key
from aiinfra_lab.grading.results import Wall
from aiinfra_lab.grading.runs import Run
from aiinfra_lab.grading.sockets import Sockets
from aiinfra_lab.sandbox import Fork, ForkServer, Kind, Limits, World, examine
from aiinfra_lab.sandbox.places import PrivateFolder, private_folder

ENTRY = "aiinfra_lab.grading.kernels:run"
NOT_RUN = "the cell was not run"
_WATCH_S = 0.05


class SandboxWorkplace:
    """Runs notebooks of strangers; see ``Workplace``.

    Parameters
    ----------
    answers : sequence of str
        Modules that are the lab's answer: they are not there inside.
    preload : sequence of str
        Modules that the lab's cells import, imported once for all submissions.
    limits, bounds : Limits, Bounds
        Of each submission.
    secrets : sequence of Path
        Files outside by which it is examined that a submission cannot read them; the master,
        for one.
    kind : {"nested", "single", "bare"}, optional
        How it is walled in; by default as well as this machine allows.

    Examples
    --------
    >>> async with SandboxWorkplace(metadata.answers, metadata.preload) as place:  # doctest: +SKIP
    ...     run = await place.run(rebuilt(master, answers, seed=seed, blocked=metadata.answers))
    """

    def __init__(
        self,
        answers: Sequence[str] = (),
        preload: Sequence[str] = (),
        *,
        limits: Limits | None = None,
        bounds: Bounds | None = None,
        secrets: Sequence[Path] = (),
        kind: Kind | None = None,
    ) -> None:
        self._secrets = tuple(secrets)
        self._limits, self._bounds = limits or Limits(), bounds or Bounds()
        self._world = World(answers=tuple(answers))
        self._modules = ["aiinfra_lab.grading.kernels", *preload]
        self._kinds: tuple[Kind, ...] = (kind,) if kind else ("nested", "single", "bare")
        self._kind: Kind = self._kinds[0]
        self._server: ForkServer | None = None
        self._walls: tuple[Wall, ...] = ()
        self._folder: PrivateFolder | None = None
        self._count = 0

    @property
    def walls(self) -> tuple[Wall, ...]:
        """The walls, and which of them stand."""
        return self._walls

    @property
    def kind(self) -> Kind:
        """How submissions are walled in here."""
        return self._kind

    @property
    def pid(self) -> int | None:
        """The process number of the fork server, where one serves all submissions."""
        return self._server.pid if self._server else None

    async def __aenter__(self) -> Self:
        """Build the walls as well as it goes here, and look at them from inside.

        Raises
        ------
        MissingNeed, ProcessError
            Not even the least of the kinds asked for could be had.
        """
        self._folder = private_folder("aiinfra-kernel-")
        try:
            await self._settle()
        except BaseException:
            self._remove_folder()
            raise
        return self

    async def _settle(self) -> None:
        problem: AIInfraLabError | None = None
        for kind in self._kinds:
            server = self._new_server(kind)
            try:
                await server.__aenter__()
            except (MissingNeed, ProcessError) as error:
                # A module of the lab that cannot be imported fails in every kind alike; the
                # last one's error is raised.
                problem = error
                continue
            try:
                found = await examine(server, secrets=self._secrets, why=str(problem or ""))
            except (ProcessError, ValueError) as error:
                await server.__aexit__(None, None, None)
                problem = error if isinstance(error, ProcessError) else ProcessError(str(error))
                continue
            except BaseException:
                await server.__aexit__(None, None, None)
                raise
            self._kind = kind
            self._walls = tuple(Wall(name=w.name, stood=w.stood, detail=w.detail) for w in found)
            if kind == "nested":
                self._server = server
            else:
                await server.__aexit__(None, None, None)
            return
        raise problem or ProcessError("no sandbox of the kinds asked for")

    def _new_server(self, kind: Kind) -> ForkServer:
        return ForkServer(self._modules, world=self._world, limits=self._limits, kind=kind)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._server is not None:
                await self._server.__aexit__(kind, error, trace)
        finally:
            self._server = None
            self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[ForkServer]:
        """The common server, or one of this submission's own where forks can see each other."""
        if self._server is not None:
            yield self._server
        else:
            async with self._new_server(self._kind) as server:
                yield server

    async def run(self, notebook: Notebook) -> Run:
        """Execute every code cell in order, each whatever became of the others.

        Raises
        ------
        ProcessError
            The sandbox itself is broken.
        """
        if self._folder is None:
            raise ProcessError("the workplace is not entered")
        began = time.monotonic()
        cells = {cell["id"]: CellRun(cell["id"], [], NOT_RUN) for cell in code_cells(notebook)}
        self._count += 1
        sockets = Sockets(Path(self._folder.name), f"{self._count}")
        key = new_key()
        try:
            async with self._serving() as server:
                fork = await server.fork(ENTRY, {"key": key}, sockets.handles)
                sockets.handed_over()
                try:
                    limit = await self._execute(notebook, cells, fork, sockets, key)
                finally:
                    await asyncio.shield(fork.release())
        finally:
            sockets.close()
        cpu_s = fork.ending.cpu_s if fork.ending else 0.0
        return Run(cells, fork.limit or limit, time.monotonic() - began, cpu_s)

    async def _execute(
        self,
        notebook: Notebook,
        cells: dict[str, CellRun],
        fork: Fork,
        sockets: Sockets,
        key: str,
    ) -> str:
        """Fill ``cells``; the limit of time that ended the run, or nothing."""
        watcher = asyncio.create_task(_watch(fork))
        try:
            talk = await Conversation.open(sockets, key, self._bounds, fork.interrupt)
            try:
                for cell in code_cells(notebook):
                    cell_s = _seconds(tag_value(cell, "timeout"))
                    cells[cell["id"]] = await talk.run(cell["id"], cell["source"], cell_s)
            except KernelEnded as ended:
                await _settled(fork)
                reason = fork.limit or ended.reason
                if ended.run is not None:
                    cells[ended.run.cell] = dataclasses.replace(ended.run, failure=reason)
                _explain(cells, reason)
                return reason if ended.overdue else ""
            finally:
                await talk.close()
        except KernelEnded as ended:
            await _settled(fork)
            _explain(cells, fork.limit or ended.reason)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        return ""


def _explain(cells: dict[str, CellRun], reason: str) -> None:
    for name, run in cells.items():
        if run.failure == NOT_RUN:
            cells[name] = CellRun(name, [], f"{NOT_RUN}: {reason}")


async def _watch(fork: Fork) -> None:
    while fork.ending is None:
        fork.watch()
        await asyncio.sleep(_WATCH_S)


async def _settled(fork: Fork) -> None:
    """Give a kernel whose connection has ended a moment to be reported dead."""
    with contextlib.suppress(ProcessError):
        await fork.wait(0.5)


def _seconds(tag: str | None) -> float | None:
    try:
        return float(tag) if tag is not None else None
    except ValueError:
        return None

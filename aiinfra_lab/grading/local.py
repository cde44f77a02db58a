"""Where submissions run on this machine: in the sandbox, else in a place without walls.

The latter is for a machine on which not even the least sandbox starts. What it lacks it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.notebooks import Notebook
from aiinfra_lab.course.runner import CellRun, Executor, LocalExecutor
from aiinfra_lab.errors import MissingNeed
from aiinfra_lab.grading.results import Wall
from aiinfra_lab.grading.runs import Run, Workplace
from aiinfra_lab.grading.usage import OPTION

_KEY = "submission"
_LEAST_CELL_S = 10.0
_NO_WALLS = {
    "files": "a submission can read and change whatever this user can",
    "network": "a submission can reach the network",
    "processes": "a submission can see and end this user's processes",
    "memory": "a submission can take all memory",
}


MakeWorkplace = Callable[[Lab], AbstractAsyncContextManager[Workplace]]
"""Makes the place where submissions of a lab run."""


@asynccontextmanager
async def best_workplace(lab: Lab, *, secrets: Sequence[Path] = ()) -> AsyncIterator[Workplace]:
    """The sandbox with the walls that this machine can have, else a place without any.

    A cell that takes longer than the whole lab should is taken for endless. ``secrets`` are files
    that must not be readable inside; the walls are tested by them.
    """
    # They bring a kernel's client along, which nothing else of a batch needs.
    from aiinfra_lab.grading.conversation import Bounds
    from aiinfra_lab.grading.workplace import SandboxWorkplace

    cell_s, about = max(lab.metadata.budget_s, _LEAST_CELL_S), lab.metadata
    sandbox = SandboxWorkplace(
        about.answers, about.preload, bounds=Bounds(cell_s=cell_s), secrets=secrets
    )
    async with AsyncExitStack() as stack:
        place: Workplace
        try:
            place = await stack.enter_async_context(sandbox)
        except MissingNeed as error:
            place = LocalWorkplace(cell_timeout_s=cell_s, why=str(error))
        yield place


class LocalWorkplace:
    """Runs each notebook in a process of its own, with a limit of time and no other.

    Parameters
    ----------
    cell_timeout_s : float
        Seconds after which a cell is interrupted.
    executor : Executor, optional
        What runs a notebook; by default nbval in a child process, whose processor time is measured.
    why : str
        Why there are no walls, for the report.
    """

    def __init__(
        self, *, cell_timeout_s: float = 60, executor: Executor | None = None, why: str = ""
    ) -> None:
        self._executor = executor
        self._cell_timeout_s, self._why = cell_timeout_s, why

    @property
    def walls(self) -> tuple[Wall, ...]:
        """None of them stands, but for the clock."""
        clock = Wall(name="time", stood=True, detail=f"{self._cell_timeout_s:g} s for each cell")
        why = f" ({self._why})" if self._why else ""
        missing = [
            Wall(name=name, stood=False, detail=f"{text}{why}") for name, text in _NO_WALLS.items()
        ]
        return (*missing, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def run(self, notebook: Notebook) -> Run:
        """See `aiinfra_lab.grading.runs.Workplace`."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="aiinfra-usage-") as folder:
            usage = Path(folder) / "cpu_s"
            executor = self._executor or _Measured(self._cell_timeout_s, usage)
            runs = await _in_thread(lambda: executor.run({_KEY: notebook})[_KEY])
            cpu_s = float(usage.read_text("ascii")) if usage.exists() else 0.0
        return Run(runs, seconds=time.monotonic() - began, cpu_s=cpu_s)


@dataclass(frozen=True)
class _Measured(LocalExecutor):
    """Its base, with the processor seconds of the child and its kernel in the file ``usage``."""

    usage: Path = Path()

    def _command(self, folder: Path, lines: Path) -> list[str]:
        plugin = ("-p", "aiinfra_lab.grading.usage", OPTION, str(self.usage))
        return [*super()._command(folder, lines), *plugin]


async def _in_thread(work: Callable[[], dict[str, CellRun]]) -> dict[str, CellRun]:
    """The result of ``work``, which runs in a thread that nobody waits for after a Ctrl-C.

    The threads of asyncio's own pool are waited for at the end of the process; the child that
    this one watches is ended then.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[dict[str, CellRun]] = loop.create_future()

    def settle(result: dict[str, CellRun] | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        elif result is not None:
            done.set_result(result)

    def target() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=target, name="grading", daemon=True).start()
    return await done

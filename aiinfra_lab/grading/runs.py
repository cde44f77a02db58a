"""Where submissions run: the seam between a batch and a sandbox, a cluster or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from aiinfra_lab.course.notebooks import Notebook
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.grading.results import Wall


@dataclass(frozen=True)
class Run:
    """What became of one rebuilt notebook.

    Every code cell of the notebook has its entry in ``cells``, also one that was never run.
    ``limit`` is the limit that ended the run, in words for an instructor; empty if none did.
    """

    cells: dict[str, CellRun]
    limit: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0


class Workplace(Protocol):
    """Runs rebuilt notebooks, several at a time; entered once for a batch.

    ``walls`` are known once it is entered. ``run`` never raises for what a submission did; a
    ``ProcessError`` means that the workplace itself is broken.
    """

    @property
    def walls(self) -> tuple[Wall, ...]:
        """The walls, and which of them stand."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def run(self, notebook: Notebook) -> Run:
        """Execute every code cell in order, each whatever became of the others."""
        ...

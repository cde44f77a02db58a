"""Running notebooks cell by cell, each cell whatever became of the others: nbval in a child.

``check`` and the proofs of the labs need every cell's outputs, also after a failure. nbval does
that; it runs in a process of its own, which says with one JSON line a cell what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiinfra_lab.course.notebooks import Notebook, code_cells, stripped, write_notebook
from aiinfra_lab.errors import ProcessError
from aiinfra_lab.processes import Child


@dataclass(frozen=True)
class CellRun:
    """What one executed cell gave: its outputs, and in words what failed (or nothing)."""

    cell: str
    outputs: list[dict[str, Any]]
    failure: str = ""

    @property
    def error(self) -> dict[str, Any] | None:
        """The exception that ended the cell, as Jupyter describes it."""
        errors = (output for output in self.outputs if output.get("output_type") == "error")
        return next(errors, None)


class Executor(Protocol):
    """Where submissions run: here in a child process, later in a sandbox or a cluster."""

    def run(self, notebooks: Mapping[str, Notebook]) -> dict[str, dict[str, CellRun]]:
        """Execute every cell of each notebook; per notebook, cell id to what it gave."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """A child process with the course's environment, and no walls around it.

    Parameters
    ----------
    cell_timeout_s : float
        Seconds after which a cell is interrupted.
    """

    cell_timeout_s: float = 60

    def run(self, notebooks: Mapping[str, Notebook]) -> dict[str, dict[str, CellRun]]:
        """See `Executor`.

        Raises
        ------
        ProcessError
            The child could not do its work at all; its last lines say why.
        """
        with tempfile.TemporaryDirectory(prefix="aiinfra-check-") as name:
            folder = Path(name)
            for key, notebook in notebooks.items():
                # Without stored outputs nbval compares nothing, which is what is wanted here.
                write_notebook(folder / f"{key}.ipynb", stripped(notebook))
            lines = folder / "outputs.jsonl"
            lines.touch()
            # A kernel's messages and pytest's own report; shown only when something is wrong.
            with Child(
                self._command(folder, lines),
                name="nbval",
                log=folder / "log",
                cwd=folder,
                env=_environment(),
            ) as child:
                status = child.wait()
            # 0 and 1: it ran, and cells failed or not. 2: interrupted, 5: no cells.
            if status not in (0, 1) or not lines.stat().st_size:
                raise ProcessError(
                    "the notebook could not be run", returncode=status, tail=child.tail()
                )
            return _read(lines, notebooks)

    def _command(self, folder: Path, lines: Path) -> list[str]:
        return [
            sys.executable, "-m", "pytest", "--nbval", str(folder),
            "-q", "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider",
            "-p", "nbval.plugin", "-p", "aiinfra_lab.course.nbval_plugin",
            "--nbval-cell-timeout", str(self.cell_timeout_s), "--aiinfra-outputs", str(lines),
        ]  # fmt: skip


def _environment() -> dict[str, str]:
    """This process's environment without what another pytest has left in it.

    The plugins of other packages are left out: loading them takes a second, and none is needed.
    """
    left_out = ("PYTEST_", "COV_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return kept | {"AIINFRA_PROGRESS": "off", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _read(lines: Path, notebooks: Mapping[str, Notebook]) -> dict[str, dict[str, CellRun]]:
    runs: dict[str, dict[str, CellRun]] = {key: {} for key in notebooks}
    for text in lines.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        run = CellRun(line["cell"], line["outputs"], line["failure"])
        runs[Path(line["notebook"]).stem][run.cell] = run
    for key, notebook in notebooks.items():
        for cell in code_cells(notebook):
            runs[key].setdefault(cell["id"], CellRun(cell["id"], [], "the cell was not run"))
    return runs

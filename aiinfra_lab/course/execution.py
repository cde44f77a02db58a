"""Running a whole notebook: papermill, with what it leaves open closed.

papermill saves the notebook twice a cell, which makes long notebooks quadratic, and takes any
parameter; it is called here with validated parameters and told to save once, at the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiinfra_lab.course.notebooks import Notebook, normalised, read_notebook, write_notebook
from aiinfra_lab.errors import MissingNeed, NotebookError

# A cell that runs longer than this many budgets hangs.
_PATIENCE = 10


def execute(
    path: Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    cwd: Path | None = None,
    budget_s: float = 60,
    progress: bool = False,
    keep: Path | None = None,
) -> Notebook:
    """Execute the notebook at ``path`` and return it with its outputs.

    Parameters
    ----------
    parameters : mapping
        Already validated, see ``aiinfra_lab.course.parameters``.
    cwd : Path, optional
        The kernel's working folder; the notebook's own where absent.
    budget_s : float
        Seconds that the notebook may take; a single cell is interrupted after ten times that.
    progress : bool
        Show a bar on stderr.
    keep : Path, optional
        Where the executed notebook is kept, also when a cell fails.

    Raises
    ------
    NotebookError
        A cell raised, took too long, or lost its kernel.
    MissingNeed
        A cell says that the machine lacks something.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    with tempfile.TemporaryDirectory(prefix="aiinfra-run-") as folder, _quiet_kernel():
        output = Path(folder) / path.name
        try:
            papermill.execute_notebook(
                path,
                output,
                parameters=dict(parameters or {}),
                request_save_on_cell_execute=False,
                progress_bar=progress,
                kernel_name="python3",
                cwd=cwd or path.parent,
                execution_timeout=int(max(60, _PATIENCE * budget_s)),
                # ipykernel warns of unencrypted loopback at each start, and complains of the
                # interrupt with which it is ended.
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            if error.ename == MissingNeed.__name__:  # a need that hangs on a parameter
                raise MissingNeed(error.evalue) from None
            message = (
                f"{path.name}: cell {_cell_name(path, error)} raised {error.ename}: {error.evalue}"
            )
            raise NotebookError(message, tail="\n".join(error.traceback)) from None
        except CellTimeoutError as error:
            first = str(error).splitlines()[0]
            raise NotebookError(f"{path.name}: {first}") from None
        except DeadKernelError:
            raise NotebookError(
                f"{path.name}: the kernel died, most often for want of memory"
            ) from None
        finally:
            if keep is not None and output.exists():
                write_notebook(keep, read_notebook(output))
        # Normalised, because a kernel may send one printed line in two pieces.
        return normalised(read_notebook(output))


def _cell_name(path: Path, error: Any) -> str:
    """The failed cell's id: papermill tells its index among the cells it executed."""
    cells = read_notebook(path)["cells"]
    for cell in cells:
        if cell["cell_type"] == "code" and cell["source"].strip() == str(error.source).strip():
            return repr(cell.get("id", "?"))
    return str(error.cell_index)


@contextlib.contextmanager
def _quiet_kernel() -> Iterator[None]:
    """Papermill's own log lines off, and the course's progress lines, which would be output.

    asyncio reports what a Ctrl-C cut off in the middle of a message, some of it only when the
    process ends; that is no news.
    """
    loggers = {logging.getLogger(name): logging.CRITICAL for name in ("papermill", "asyncio")}
    levels = {logger: logger.level for logger in loggers}
    old = os.environ.get("AIINFRA_PROGRESS")
    for logger, level in loggers.items():
        logger.setLevel(level)
    os.environ["AIINFRA_PROGRESS"] = "off"
    try:
        yield
    except KeyboardInterrupt:
        del levels[logging.getLogger("asyncio")]
        raise
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        del os.environ["AIINFRA_PROGRESS"]
        if old is not None:
            os.environ["AIINFRA_PROGRESS"] = old

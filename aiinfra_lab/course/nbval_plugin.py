"""What a course needs of nbval, over an unmodified nbval.

For notebooks that carry this course's metadata (others are left alone):

- typed records are compared by the reference's rules; nbval compares the rest;
- a cell tagged ``timeout=120`` has its own limit, the others ten budgets of the notebook;
- a dead kernel is noticed in half a second, not at the end of the timeout;
- the output of child processes is seen: ipykernel leaves it out when it finds pytest's variable
  ``PYTEST_CURRENT_TEST`` in its environment, so the kernel is started without it;
- a chapter stops at its first failure, a lab never does;
- the cell's id, ``grade_id`` and points are JUnit properties;
- an item ``guard`` fails a notebook that compares nothing;
- ``--aiinfra-keep DIR`` writes the notebook as it ran, where a cell failed;
- ``--aiinfra-outputs FILE`` writes what every cell gave, for who judges elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiinfra_lab.course.metadata import NotebookMetadata
    from aiinfra_lab.course.notebooks import Notebook

_POLL_S = 0.25
_NBVAL_DEFAULT_TIMEOUT_S = 2000
_PATIENCE = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aiinfra", "notebooks of the AI infrastructure course")
    group.addoption(
        "--aiinfra-keep",
        metavar="DIR",
        help="write notebooks of which a cell failed, as they ran, into DIR",
    )
    group.addoption(
        "--aiinfra-outputs",
        metavar="FILE",
        help="append one JSON line for each executed cell to FILE: its outputs and what failed",
    )


def pytest_configure(config: pytest.Config) -> None:
    if _wanted(config) and not config.option.nbval_kernel_name:
        # A kernel of the same name in the user's home must not shadow this environment's.
        config.option.nbval_current_env = True


def _wanted(config: pytest.Config) -> bool:
    return bool(config.getoption("--nbval", False) or config.getoption("--nbval-lax", False))


@dataclass
class _Run:
    """What the plugin knows of one notebook while its cells run."""

    notebook: Notebook
    metadata: NotebookMetadata
    items: list[Any] = field(default_factory=list)
    stopped_by: str = ""
    failed: bool = False


class KernelDied(Exception):
    """The kernel's process is gone while a reply was awaited."""


def pytest_collectstart(collector: pytest.Collector) -> None:
    if not _wanted(collector.config):
        return
    from nbval.plugin import IPyNbFile

    if isinstance(collector, IPyNbFile):
        _prepare(collector)


def _prepare(file: Any) -> None:
    from aiinfra_lab.course.metadata import KEY, read_metadata
    from aiinfra_lab.course.notebooks import read_notebook
    from aiinfra_lab.errors import InputError

    try:
        notebook = read_notebook(file.path)
        if KEY not in notebook["metadata"]:
            return
        metadata = read_metadata(notebook, file.path.name)
    except InputError as error:
        message = str(error)

        def refuse() -> None:
            raise file.CollectError(message)

        file.collect = refuse
        return
    file.course = _Run(notebook, metadata)
    file.collect = _collecting(file, file.collect)
    file.setup = _setting_up(file, file.setup)
    file.teardown = _tearing_down(file, file.teardown)


def _collecting(file: Any, collect: Callable[[], Iterator[Any]]) -> Callable[[], Iterator[Any]]:
    from aiinfra_lab.course.notebooks import code_cells

    cell_class, guard_class = _classes()

    def collected() -> Iterator[Any]:
        for item, cell in zip(collect(), code_cells(file.course.notebook), strict=True):
            item.__class__ = cell_class
            file.course.items.append(item)
            item.user_properties += _properties(cell)
            yield item
        yield guard_class.from_parent(file, name="guard")

    return collected


def _properties(cell: dict[str, Any]) -> list[tuple[str, Any]]:
    grading = cell["metadata"].get("nbgrader", {})
    properties = [("cell_id", cell.get("id", ""))]
    return properties + [(key, grading[key]) for key in ("grade_id", "points") if key in grading]


def _setting_up(file: Any, setup: Callable[[], None]) -> Callable[[], None]:
    def start() -> None:
        current = os.environ.pop("PYTEST_CURRENT_TEST", None)
        try:
            setup()
        finally:
            if current is not None:
                os.environ["PYTEST_CURRENT_TEST"] = current
        file.kernel.get_message = _watched(file.kernel)

    return start


def _watched(kernel: Any) -> Callable[..., Any]:
    """The kernel's ``get_message``, looking at short intervals whether the kernel lives."""
    get_message = kernel.get_message

    def watched(stream: str, timeout: float | None = None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _POLL_S if deadline is None else deadline - time.monotonic()
            try:
                return get_message(stream, timeout=max(0.0, min(_POLL_S, left)))
            except Empty:
                if not kernel.is_alive():
                    raise KernelDied from None
                if deadline is not None and time.monotonic() >= deadline:
                    raise

    return watched


def _tearing_down(file: Any, teardown: Callable[[], None]) -> Callable[[], None]:
    def stop() -> None:
        kernel = file.kernel
        teardown()
        # nbval leaves the sockets of a kernel that died by itself open.
        if kernel is not None and hasattr(kernel, "km"):
            kernel.kc.stop_channels()
            kernel.km.cleanup_resources()
        if file.course.failed and (folder := file.config.getoption("--aiinfra-keep")):
            _keep_executed(file, Path(folder))

    return stop


def _keep_executed(file: Any, folder: Path) -> None:
    import copy

    from aiinfra_lab.course.notebooks import code_cells, write_notebook

    executed = copy.deepcopy(file.course.notebook)
    for cell, item in zip(code_cells(executed), file.course.items, strict=True):
        if item.test_outputs is not None:
            # nbval's own output nodes, as plain JSON.
            cell["outputs"] = json.loads(json.dumps(item.test_outputs))
    write_notebook(folder / file.path.name, executed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: pytest.CallInfo[Any]) -> Any:
    report = yield
    path = item.config.getoption("--aiinfra-outputs", None)
    if path and call.when == "call" and hasattr(item, "test_outputs"):
        line = {
            "notebook": item.path.name,
            "cell": item.cell.get("id", ""),
            "outputs": item.test_outputs or [],
            "failure": "" if call.excinfo is None else str(call.excinfo.value).strip(),
        }
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return report


def _classes() -> tuple[Any, Any]:
    """The item classes, made once nbval is known to be wanted."""
    if not _CLASSES:
        _CLASSES.extend(_make_classes())
    return _CLASSES[0], _CLASSES[1]


_CLASSES: list[Any] = []


def _make_classes() -> tuple[Any, Any]:
    from nbval.plugin import IPyNbCell, NbCellError

    from aiinfra_lab.course import guard

    class CourseCell(IPyNbCell):  # type: ignore[misc]
        """One code cell; its name says the cell's id."""

        def setup(self) -> None:
            """Nothing: nbval marks what follows a timeout as expected to fail."""

        def runtest(self) -> None:
            run: _Run = self.parent.course
            if run.stopped_by:
                pytest.skip(f"the chapter stopped at cell {run.stopped_by!r}")
            try:
                if not self.parent.kernel.is_alive():
                    raise KernelDied
                with _timeout_of(self):
                    super().runtest()
            except KernelDied:
                self._stop(run)
                raise NbCellError(
                    self.cell_num,
                    "The kernel died, most often for want of memory",
                    self.cell.source,
                ) from None
            except Exception:
                self._stop(run)
                raise
            finally:
                self.parent.timed_out = False

        def _stop(self, run: _Run) -> None:
            run.failed = True
            if run.metadata.kind != "lab":
                run.stopped_by = self.cell.get("id", str(self.cell_num))

        def compare_outputs(self, test: Any, ref: Any, skip_compare: Any = None) -> bool:
            from aiinfra_lab.course.judgement import differences_in, is_check
            from aiinfra_lab.course.records import holds_records

            differences = differences_in(ref, test)
            if differences:
                cell_id = self.cell.get("id", self.cell_num)
                self.comparison_traceback = [f"cell {cell_id!r}", *map(str, differences)]
                return False
            if is_check(self.cell):
                # What a learner's code prints while it is checked is no result.
                return True
            rest = [[out for out in outs if not holds_records(out)] for outs in (test, ref)]
            return bool(super().compare_outputs(*rest, skip_compare=skip_compare))

    class Guard(pytest.Item):
        """Fails where the notebook's outputs are no test."""

        def runtest(self) -> None:
            found = guard.problems(self.parent.course.notebook)  # type: ignore[union-attr]
            if found:
                pytest.fail("\n".join(found), pytrace=False)

        def reportinfo(self) -> tuple[Path, int, str]:
            return self.path, 0, f"{self.path.name}::guard"

    return CourseCell, Guard


@contextmanager
def _timeout_of(item: Any) -> Iterator[None]:
    """nbval's one limit for all cells, set for this cell and set back."""
    from aiinfra_lab.course.notebooks import tag_value

    option = item.config.option
    common = option.nbval_cell_timeout
    if tagged := tag_value(item.cell, "timeout"):
        option.nbval_cell_timeout = float(tagged)
    elif common == _NBVAL_DEFAULT_TIMEOUT_S:
        option.nbval_cell_timeout = max(60, _PATIENCE * item.parent.course.metadata.budget_s)
    try:
        yield
    finally:
        option.nbval_cell_timeout = common

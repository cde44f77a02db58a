"""Where progress is shown: nowhere, in lines of text, in a terminal, in a notebook."""

from __future__ import annotations

import os
import sys
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, cast

from aiinfra_lab.observability.progress_line import Progress
from aiinfra_lab.settings import settings

if TYPE_CHECKING:
    from rich.progress import TaskID

Mode = Literal["off", "plain", "rich", "notebook"]


class Display(Protocol):
    """Shows one piece of work; ``every_s`` is the least time between two calls of ``show``."""

    every_s: float

    def show(self, state: Progress, *, last: bool) -> None: ...


def choose_mode(stream: TextIO | None = None) -> Mode:
    """What ``AIINFRA_PROGRESS`` says; else what suits whoever sees the output.

    Nothing is shown under CI and pytest, nor in a kernel in which nobody watches (papermill,
    nbval, nbclient). A kernel cannot see who started it, but servers with a person at the
    other end leave a mark, so the mark is what is looked for.
    """
    if wanted := settings().progress:
        return cast("Mode", wanted)
    if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
        return "off"
    if "PYTEST_CURRENT_TEST" in os.environ:
        return "off"
    if (shell := _kernel()) is not None:
        # JupyterLab and Notebook set the first, VS Code the second.
        watched = "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns
        return "notebook" if watched else "off"
    return "rich" if (stream or sys.stderr).isatty() else "plain"


def open_display(mode: Mode, description: str, stream: TextIO | None) -> Display | None:
    """The display called ``mode``; None for "off".

    Raises
    ------
    ValueError
        There is no such mode.
    """
    if mode == "off":
        return None
    if mode == "plain":
        return PlainDisplay(description, stream)
    if mode == "rich":
        return RichDisplay(description, stream)
    if mode == "notebook":
        return NotebookDisplay(description)
    raise ValueError(f"progress is off, plain, rich or notebook, found {mode!r}")


class PlainDisplay:
    """A line of text now and then, fit for a log file."""

    every_s = 5.0

    def __init__(self, description: str, stream: TextIO | None) -> None:
        self._description, self._stream = description, stream

    def show(self, state: Progress, *, last: bool) -> None:
        print(
            f"{self._description}: {describe(state)}", file=self._stream or sys.stderr, flush=True
        )


class RichDisplay:
    """A bar in a terminal, drawn by rich when a report is due: no thread of its own."""

    every_s = 0.1

    def __init__(self, description: str, stream: TextIO | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=Console(file=stream) if stream else Console(stderr=True),
            auto_refresh=False,
            # Standard output is the result and stays what it is; log lines go above the bar.
            redirect_stdout=False,
            redirect_stderr=stream is None,
        )
        self._description = description
        self._task: TaskID | None = None

    def show(self, state: Progress, *, last: bool) -> None:
        if self._task is None:
            self._bars.start()
            self._task = self._bars.add_task(self._description, numbers="")
        self._bars.update(
            self._task,
            completed=state.step,
            total=state.total,
            numbers=describe(state),
            refresh=True,
        )
        if last:
            self._bars.stop()


class NotebookDisplay:
    """The browser's own progress element, one output that is replaced in place."""

    every_s = 0.2

    def __init__(self, description: str) -> None:
        self._description = description
        self._handle: Any = None

    def show(self, state: Progress, *, last: bool) -> None:
        from IPython.display import display

        numbers = describe(state)
        data = {
            "text/plain": f"{self._description}: {numbers}",
            "text/html": self._html(state, numbers),
        }
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _html(self, state: Progress, numbers: str) -> str:
        # Without a value the element says "working" and shows no share.
        value = ""
        if state.total is not None:
            done, total = (state.step, state.total) if state.total else (1, 1)
            value = f' value="{done}" max="{total}"'
        return (
            f"<label>{escape(self._description)} <progress{value}></progress></label>"
            f" {escape(numbers)}"
        )


def describe(state: Progress) -> str:
    """The numbers for people: ``3/12 (25 %), 9 s left, loss 0.4``."""
    parts = [str(state.step)]
    if state.total is not None:
        parts = [f"{state.step}/{state.total} ({int(state.percent or 0)} %)"]
        if state.eta_s is not None and state.step < state.total:
            parts.append(f"{_duration(state.eta_s)} left")
    parts += [
        f"{name} {'not finite' if value is None else format(value, '.4g')}"
        for name, value in state.metrics.items()
    ]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min {rest:02d} s" if hours < 1 else f"{hours} h {minutes:02d} min"


def _kernel() -> Any:
    """The IPython shell if this process is a kernel, else None; imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None

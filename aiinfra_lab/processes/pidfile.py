"""Pid files that survive the reuse of a pid: {pid, start time, mark}, cleaned at the next start.

The file stands while the child runs; the reaper takes it away even when the parent was killed.
What is found at a start therefore belongs to a child that runs now, under another parent, or to
a reaper that was itself killed. Both are ended first, or refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from aiinfra_lab.errors import InputError, ProcessError
from aiinfra_lab.processes.order import IfRunning
from aiinfra_lab.processes.steps import Steps, Wait

OTHERS_GRACE = 5.0  # seconds between TERM and KILL for what a killed reaper left
OTHERS_WALL = 30.0  # seconds that another parent's reaper is given to end its child


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a pid file says; start times in seconds since the epoch."""

    pid: int
    start_time: float
    mark: str
    supervisor_pid: int
    supervisor_start_time: float


def describe(*, pid: int, supervisor_pid: int, mark: str) -> str:
    """The record of a running child, on one line; the reaper writes it to the file."""
    from aiinfra_lab.processes import tree

    record = Record(
        pid=pid,
        # A child that has already ended has no start time; nothing will match it.
        start_time=tree.start_time(pid) or 0.0,
        mark=mark,
        supervisor_pid=supervisor_pid,
        supervisor_start_time=tree.start_time(supervisor_pid) or 0.0,
    )
    return json.dumps(asdict(record))


def read_pid_file(path: Path) -> Record | None:
    """The record in ``path``; None when there is no file, or an empty one.

    Raises
    ------
    InputError
        The file is something else; it is not touched.
    """
    try:
        text = path.read_text("utf-8")
        return Record(**json.loads(text)) if text else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"the pid file {path} cannot be read", found=error.strerror) from None
    except (ValueError, TypeError):
        raise InputError(
            f"{path} exists and is not a pid file of this program",
            fix="Name another file, or remove this one.",
        ) from None


def remove_pid_file(path: Path, mark: str) -> None:
    """Remove ``path`` if it still speaks of the child with ``mark``."""
    with contextlib.suppress(OSError):
        if mark in path.read_text("utf-8"):
            path.unlink()


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be used", found=error.strerror) from None
    try:
        yield fd
    finally:
        os.close(fd)  # and with it goes the lock


def starting(path: Path, name: str, if_running: IfRunning, start: Steps[None]) -> Steps[None]:
    """Clean ``path``, then do ``start``, which writes it; one at a time in its folder.

    The folder itself carries the lock, so that no lock file is left.
    """
    with _folder(path.parent) as fd:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                yield Wait(0.01)
        yield partial(_clean, path, name, if_running)
        yield from start


def _clean(path: Path, name: str, if_running: IfRunning) -> None:
    record = read_pid_file(path)
    if record is None:
        return
    from aiinfra_lab.processes import tree

    alive = tree.same_process(record.pid, record.start_time)
    if alive and if_running == "refuse":
        raise InputError(
            f"{name} is already running as process {record.pid}",
            fix=f"Stop it first; its pid file is {path}.",
        )
    if tree.same_process(record.supervisor_pid, record.supervisor_start_time):
        # It ends its child in order; only what it leaves is killed.
        tree.terminate(record.supervisor_pid, OTHERS_WALL)
        grace = 0.0
    else:
        grace = OTHERS_GRACE
    if left := tree.end(record.mark, also=[record.pid] if alive else [], grace=grace):
        raise ProcessError(f"{name} still runs and cannot be ended: processes {left}")
    path.unlink(missing_ok=True)

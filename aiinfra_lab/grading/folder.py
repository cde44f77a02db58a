"""The folder of results: one grader at a time, and no batch overwrites another's."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.files import write_text
from aiinfra_lab.processes import tree

LEDGER = "ledger.jsonl"
LOCK = "grader.lock"
RESULTS = "results.json"
# What a finished batch leaves; one of them is enough to know that the folder is taken.
WRITTEN = (
    RESULTS,
    "results.csv",
    "results-canvas.csv",
    "results-moodle.csv",
    "report.html",
    "junit.xml",
    "feedback",
    "similar.json",
)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the disk in this block into a sentence about ``path``.

    Raises
    ------
    InputError
        Something there cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of {path} is full",
                fix="Free some space and run it again with --resume: what is finished is kept.",
            ) from None
        raise InputError(
            f"{path} cannot be written: {error.strerror or error}", fix="Name another folder."
        ) from None


def refuse_if_taken(folder: Path) -> None:
    """Refuse a folder that holds the results of a batch.

    Raises
    ------
    InputError
        It does, or it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is no folder", fix="Name a new folder for the results.")
    if found := [name for name in WRITTEN if (folder / name).exists()]:
        raise InputError(
            f"{folder} holds the results of a batch already ({found[0]})",
            fix="Name another folder, or go on with this batch by --resume.",
        )


@contextlib.contextmanager
def sole_grader(folder: Path) -> Iterator[None]:
    """Be the one grader that works in ``folder``, which is made if it is not there.

    Raises
    ------
    InputError
        Another one works there, or the folder cannot be written.
    """
    lock = folder / LOCK
    mine = {"pid": os.getpid(), "start_time": tree.start_time(os.getpid()), "host": _host()}
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            if other := _other(lock):
                raise InputError(
                    f"another grader works in {folder}: {other}",
                    fix=f"Wait for it or name another folder; if it is gone, remove {lock}.",
                )
            write_text(lock, json.dumps(mine) + "\n")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(lock.read_text("utf-8")) == mine:
                lock.unlink()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder itself carries the lock while the lock file is looked at and written."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _other(lock: Path) -> str | None:
    """The grader that ``lock`` names, unless it is known to be dead."""
    try:
        found = json.loads(lock.read_text("utf-8"))
        pid, host, begun = int(found["pid"]), str(found["host"]), float(found["start_time"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return None  # cut off by a crash: it was written by nobody who still works
    # Whether a process of another machine lives cannot be seen from here.
    dead = host == _host() and not tree.same_process(pid, begun)
    return None if dead else f"process {pid} on {host}"


def _host() -> str:
    return socket.gethostname()

"""Process trees found from outside, by a mark in their environment, and ended.

The reaper needs none of this while it lives. It is for what a killed reaper left behind: a
descendant carries its ancestor's mark, whatever it did to its session and its parents.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

import psutil

from aiinfra_lab.processes.order import MARK

# Two readings of one process's start may differ: the kernel gives the boot time in whole
# seconds and moves it when the system clock is set.
START_TOLERANCE = 2.0


def marked(mark: str) -> list[psutil.Process]:
    """The living processes that carry ``mark``, without this one and its ancestors."""
    mine = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in mine and mark in process.environ().get(MARK, ""):
                found.append(process)
    return found


def start_time(pid: int) -> float | None:
    """Seconds since the epoch at which the living process ``pid`` began; None: there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def same_process(pid: int, started: float) -> bool:
    """Whether ``pid`` is alive and is the process that began at ``started``, not a later one."""
    now = start_time(pid)
    return now is not None and abs(now - started) <= START_TOLERANCE


def terminate(pid: int, wall: float) -> None:
    """TERM to one process, and at most ``wall`` seconds of waiting for its end."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        process.terminate()
        process.wait(wall)


def end(
    mark: str, *, also: Iterable[int] = (), grace: float = 0.0, wall: float = 10.0
) -> list[int]:
    """End everything that carries ``mark``, and the processes ``also`` with their descendants.

    TERM first when ``grace`` (seconds) is positive, then KILL until none is found. Blocks.

    Returns
    -------
    list of int
        The pids that still lived ``wall`` seconds after the first KILL.
    """
    extra = [process for pid in also for process in _family(pid)]
    if grace > 0:
        victims = _living(marked(mark) + extra)
        _send(victims, signal.SIGTERM)
        psutil.wait_procs(victims, timeout=grace)
    last = time.monotonic() + wall
    while victims := _living(marked(mark) + extra):
        if time.monotonic() > last:
            return sorted({process.pid for process in victims})
        _send(victims, signal.SIGKILL)
        psutil.wait_procs(victims, timeout=0.05)
    return []


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def _send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def family(pid: int) -> list[psutil.Process]:
    """The living descendants of ``pid``, without it."""
    return _living(_family(pid)[1:])


def listening(processes: list[psutil.Process]) -> tuple[set[int], bool]:
    """The TCP ports that ``processes`` listen on, and whether all of them could be asked."""
    ports, complete = set(), True
    for process in processes:
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    ports.add(connection.laddr.port)
        except psutil.AccessDenied:
            complete = False
        except psutil.Error:  # it has just ended
            continue
    return ports, complete

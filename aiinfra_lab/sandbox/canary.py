"""What a process inside finds of the outside: the evidence for which walls stand.

Runs *inside*, as the first inmate of a server, and writes what it found to its one handle.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiinfra_lab.sandbox import system


def report(handles: Sequence[int], order: Mapping[str, Any]) -> None:
    """Write the evidence as JSON to the first handle.

    Parameters
    ----------
    handles : sequence of int
        One, a pipe or a socket.
    order : mapping
        ``read``: files outside that must not be readable; ``write``: folders that must not be
        writable; ``signal``: processes outside that must not exist.
    """
    evidence = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "readable": [path for path in order["read"] if os.access(path, os.R_OK)],
        "writable": [folder for folder in order["write"] if _can_write(folder)],
        "signalled": [pid for pid in order["signal"] if _can_see(pid)],
        "handles": _open_handles(handles),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "variables": _variables_given(),
        "processes": _processes(),
        "powers": _powers(),
        "namespace": _can_unshare(),
        "hidden": _can_hide_memory(),
    }
    os.write(handles[0], json.dumps(evidence).encode() + b"\n")


def _can_write(folder: str) -> bool:
    path = Path(folder) / f".aiinfra-canary-{os.getpid()}"
    try:
        path.touch(exist_ok=False)
    except OSError:
        return False
    path.unlink()
    return True


def _open_handles(given: Sequence[int]) -> list[int]:
    """Open files that the entry was not given, the null device apart."""
    nothing = Path(os.devnull).stat().st_rdev
    found = []
    for number in range(256):
        try:
            status = os.fstat(number)
        except OSError:
            continue
        is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == nothing
        if number not in given and not is_null:
            found.append(number)
    return found


def _variables_given() -> list[str]:
    """The names of the variables with which the server was started.

    What a process sets for itself afterwards (a debugger that the kernel imports does) came through
    no wall, and the grader may well have the same variable from the same import.
    """
    try:
        block = Path("/proc/self/environ").read_bytes()
    except OSError:
        return sorted(os.environ)
    return sorted(os.fsdecode(line.partition(b"=")[0]) for line in block.split(b"\0") if line)


def _can_see(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes() -> list[int]:
    try:
        return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    except OSError:
        return []


def _powers() -> list[str]:
    """The sets of capabilities that are not empty, and a missing no_new_privs."""
    try:
        lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
    except OSError:
        return ["unknown"]
    pairs = (line.partition(":") for line in lines)
    fields = {name: value.strip() for name, _, value in pairs}
    found = [name for name, value in fields.items() if name.startswith("Cap") and int(value, 16)]
    return found if fields.get("NoNewPrivs") == "1" else [*found, "new privileges"]


def _can_hide_memory() -> bool:
    """Whether a file can be made in memory, of which no process seems to have a byte."""
    if sys.platform != "linux":
        return True
    try:
        os.close(os.memfd_create("canary"))
    except OSError:
        return False
    return True


def _can_unshare() -> bool:
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            system.unshare(system.CLONE_NEWUSER)
        except OSError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] != 0

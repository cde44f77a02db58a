"""Which walls stand, by what a process inside finds: nothing is taken for granted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.sandbox.fork_server import ForkServer
from aiinfra_lab.sandbox.limits import MIB, Limits
from aiinfra_lab.sandbox.places import private_folder
from aiinfra_lab.sandbox.world import PACKAGE

_CANARY = "aiinfra_lab.sandbox.canary:report"
_FOREIGN = ("HOME", "USER", "PATH", "TMPDIR", "PWD", "AIINFRA_PROCESS")


@dataclass(frozen=True)
class WallFound:
    """One wall, whether it stands, and how, or why not."""

    name: str
    stood: bool
    detail: str


async def examine(
    server: ForkServer, *, secrets: Sequence[Path] = (), why: str = ""
) -> tuple[WallFound, ...]:
    """The walls around a fork of ``server``, by the evidence of a first fork.

    Parameters
    ----------
    server : ForkServer
        Started.
    secrets : sequence of Path
        Further files outside that must not be readable inside.
    why : str
        Why no better kind of server could be had here.

    Raises
    ------
    ProcessError
        The fork could not be made, or said nothing.
    """
    with private_folder("aiinfra-canary-") as folder:
        secret = Path(folder) / "canary"
        secret.write_text("x")
        order = {
            "read": [str(secret), *(str(path.absolute()) for path in secrets)],
            "write": sorted({"/", "/usr", str(PACKAGE), sys.prefix, folder}),
            "signal": [os.getpid(), server.pid or 0],
        }
        read, write = os.pipe()
        try:
            fork = await server.fork(_CANARY, order, [write])
            os.close(write)
            write = -1
            has_cgroup = fork.cgroup
            kind = f"cgroup version {has_cgroup.version}" if has_cgroup else ""
            await fork.wait(30.0)
            text = os.read(read, 1 << 16)
            await fork.release()
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
    try:
        evidence = json.loads(text)
    except ValueError:
        raise ProcessError("the sandbox says nothing of its walls") from None
    return tuple(_judged(evidence, server, kind, why))


def _judged(evidence: dict[str, Any], server: ForkServer, cgroup: str, why: str) -> list[WallFound]:
    limits = server.limits
    nested = server.kind == "nested"
    because = f" ({why.splitlines()[0]})" if why else ""

    def wall(name: str, stands: bool, how: str, lacking: str) -> WallFound:
        return WallFound(name, stands, how if stands else lacking + because)

    alone = evidence["processes"] == [evidence["pid"]] == [1]
    foreign = [n for n in evidence["variables"] if n in os.environ and n not in _known(server)]
    found = [
        wall(
            "files",
            not any(evidence[kind] for kind in ("readable", "writable", "handles")),
            "only the interpreter, its packages and an empty /tmp exist; nothing else is writable",
            "a submission can reach the files of whoever grades",
        ),
        wall(
            "network",
            evidence["interfaces"] == ["lo"],
            "no interface but its own loopback",
            "a submission can reach the network",
        ),
        wall(
            "processes",
            not evidence["signalled"],
            "no process outside can be seen or signalled",
            "a submission can see and signal other processes of its user",
        ),
        wall(
            "privileges",
            not evidence["powers"] and not evidence["namespace"],
            f"user {evidence['uid']} with no capabilities, no new privileges, no new namespaces",
            "a submission has the powers of whoever grades",
        ),
        wall(
            "neighbours",
            alone or server.kind == "single",
            "each submission in namespaces of its own"
            + ("" if nested else ", by a sandbox of its own"),
            "submissions that run at the same time can see each other",
        ),
        wall(
            "system calls",
            not evidence["hidden"],
            "those that nobody needs are refused (seccomp)",
            "all system calls are open, those that hide memory too",
        ),
        wall(
            "environment",
            not foreign,
            "variables built from nothing",
            f"variables of whoever grades: {', '.join(foreign[:3])}",
        ),
    ]
    return found + _limits(limits, cgroup)


def _known(server: ForkServer) -> set[str]:
    return {*server.world.environment(), *_FOREIGN}


def _limits(limits: Limits, cgroup: str) -> list[WallFound]:
    memory = f"{limits.memory // MIB} MB"
    counted = sys.platform == "linux"
    return [
        WallFound(
            "memory",
            True,
            f"{memory} by {cgroup}" if cgroup else f"{memory}, resident memory watched",
        ),
        WallFound("processor time", True, f"{limits.cpu_s:g} s"),
        WallFound("time", True, f"{limits.wall_s:g} s"),
        WallFound(
            "number of processes",
            counted,
            f"{limits.processes} processes and threads"
            if counted
            else "not limited: this system counts all processes of the user",
        ),
        WallFound(
            "file size",
            True,
            f"{limits.file_size // MIB} MB a file, {limits.files} open files",
        ),
    ]

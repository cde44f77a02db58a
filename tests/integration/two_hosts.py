"""Two hosts on one machine: network namespaces with nothing between them but a pair of veth.

A namespace here has no name. A process holds it, and with the process it is gone, its end of the
pair with it: nothing is left to be removed, also after a failed test or a kill -9 of the tests.
Whoever is not root becomes it in a user namespace around both hosts.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from aiinfra_lab.processes import Child

LIMIT_S = 20.0  # of a single command of ip or tc
AS_ROOT = ("--user", "--map-root-user")


@dataclass(frozen=True)
class Host:
    """One of them.

    Attributes
    ----------
    index : int
        0 or 1.
    address, interface : str
        Its end of the pair.
    pid : int
        The process that holds its namespace.
    enter : tuple of str
        What stands in front of a command that is to run there.
    """

    index: int
    address: str
    interface: str
    pid: int
    enter: tuple[str, ...]

    def command(self, *argv: str) -> list[str]:
        """``argv`` as a process of this host. Files and pids are those of the machine."""
        return [*self.enter, *argv]

    def run(self, *argv: str) -> str:
        """The output of a short command on this host."""
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def living(self) -> list[psutil.Process]:
        """Its processes beside the one that holds it."""
        own, found = _namespace(self.pid), []
        for process in psutil.process_iter(["status"]):
            if process.pid == self.pid or process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if own is not None and _namespace(process.pid) == own:
                found.append(process)
        return found


class TwoHosts:
    """``with TwoHosts(folder) as hosts``: both up, each reaches the other; gone at the end.

    Parameters
    ----------
    folder : Path
        For the logs of the holders.
    user : bool, optional
        Whether to take a user namespace; by default where this process is not root.
    """

    def __init__(self, folder: Path, *, user: bool | None = None) -> None:
        self._folder = folder
        self._user = os.geteuid() != 0 if user is None else user
        self._stack = ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            first = self._host(stack, 0, ("unshare", *(AS_ROOT if self._user else ()), "--net"))
            # Inside the user namespace of the first, if there is one: who owns both may join them.
            within = (*first.enter[:-1], "unshare", "--net") if self._user else ("unshare", "--net")
            second = self._host(stack, 1, within)
            self.hosts = [first, second]
            pair = ("type", "veth", "peer", "name", second.interface, "netns", str(second.pid))
            first.run("ip", "link", "add", first.interface, *pair)
            for host in self.hosts:
                host.run("ip", "link", "set", "lo", "up")
                host.run("ip", "address", "add", f"{host.address}/24", "dev", host.interface)
            self.mend()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in self.hosts:  # what a failed test left behind
            for process in host.living():
                process.kill()
        self._stack.close()

    def cut(self) -> None:
        """Take the link away: packets get lost and nobody is told."""
        # The far end, so that the near one keeps its address and merely loses its carrier.
        self.hosts[1].run("ip", "link", "set", self.hosts[1].interface, "down")

    def mend(self) -> None:
        """Bring the link up, for the first time or again."""
        for host in self.hosts:
            host.run("ip", "link", "set", host.interface, "up")

    def slow(self, rate: str) -> None:
        """Let each end send no faster than ``rate``, in the words of tc: 100mbit."""
        for host in self.hosts:
            # Wider than a packet of the pair, which may be a whole segment of 64 KiB.
            shape = ("tbf", "rate", rate, "burst", "128kb", "latency", "400ms")
            host.run("tc", "qdisc", "replace", "dev", host.interface, "root", *shape)

    def _host(self, stack: ExitStack, index: int, new: Sequence[str]) -> Host:
        log = self._folder / f"host-{index}.log"
        holder = stack.enter_context(Child([*new, "sleep", "infinity"], log=log, name="the host"))
        pid = holder.pid
        assert pid is not None
        deadline = time.monotonic() + LIMIT_S
        # Until then it is still on the way: unshare, then sleep.
        while _program(pid) != "sleep":
            assert holder.returncode is None, holder.tail()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        join = ("--user", "--preserve-credentials") if self._user else ()
        enter = ("nsenter", f"--target={pid}", *join, "--net")
        return Host(index, f"10.77.0.{index + 1}", f"wire{index}", pid, enter)


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()


def _namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:  # it has ended, or is somebody else's
        return None

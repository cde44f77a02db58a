"""The processes of one container, or of one program run in it.

The runtime is a subreaper (Linux): a process whose parent ends becomes its child, so what is left
of a container is always found among the runtime's own children, without a look at every process
of the machine. Whose it is, is told by the container's mount namespace, by the session, or by the
mark in the environment; a cgroup, where there is one, knows exactly. Elsewhere the mark alone has
to do, in a listing of all processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterable
from pathlib import Path

from aiinfra_lab.kube.runtime import namespaces
from aiinfra_lab.processes.reaper import read_table, send, signal_group
from aiinfra_lab.sandbox.cgroups import Cgroup

MARK = "AIINFRA_PROCESS"  # as in processes.order, whose import would cost a megabyte


class Family:
    """A process and all that came from it."""

    def __init__(self, pid: int, mark: str, cgroup: Cgroup | None = None) -> None:
        self.pid, self.mark, self.cgroup = pid, mark, cgroup
        self.namespace = ""  # where it is known to be this family's alone
        self.reaped = False
        self.known: Collection[int] = ()  # children that somebody else looks after

    def orphans(self) -> list[int]:
        """Those whose parents have ended, among this process's children."""
        children = own_children()
        if children is None:
            mark = self.mark.encode()
            return [row[0] for row in read_table(mark) if row[3] and row[0] != self.pid]
        unknown = (pid for pid in children if pid != self.pid and pid not in self.known)
        return [pid for pid in unknown if self._has(pid)]

    def _has(self, pid: int) -> bool:
        if self.namespace and namespaces.of(pid) == self.namespace:
            return True
        with contextlib.suppress(OSError, ProcessLookupError):
            if os.getsid(pid) == self.pid:
                return True
        with contextlib.suppress(OSError):
            return self.mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def members(self) -> list[int]:
        """All that can be found now."""
        if self.cgroup is not None and (pids := self.cgroup.pids()):
            return pids
        heads = self.orphans() + ([] if self.reaped else [self.pid])
        return [pid for head in heads for pid in (head, *descendants(head))]

    def terminate(self) -> None:
        """TERM to the group."""
        # A stopped process takes TERM only once it continues.
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal_group(self.pid, number)

    def kill_group(self) -> None:
        """KILL to the group, in one call that no fork escapes; while its number is not reused."""
        if not self.reaped:
            signal_group(self.pid, signal.SIGKILL)

    def kill(self) -> bool:
        """KILL all that can be found; whether there was anything beside the first process."""
        self.kill_group()
        others = {pid for head in self.orphans() for pid in (head, *descendants(head))}
        if not self.reaped:
            others.update(descendants(self.pid))
        if self.cgroup is not None:
            self.cgroup.kill()
            others.update(self.cgroup.pids())
        others.discard(self.pid)
        for pid in others:
            send(pid, signal.SIGKILL)
        return bool(others)


def own_children() -> list[int] | None:
    """The pids of this process's children; None where the system keeps no list."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return None
    return [int(pid) for pid in text.split()]


def descendants(pid: int) -> Iterable[int]:
    """The pids below ``pid``, as far as they can be seen."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = _children(waiting.pop())
        waiting += below
        found += below
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found

"""What a tree of processes uses, read from outside."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.sandbox.limits import MIB, Limits

_TICKS = os.sysconf("SC_CLK_TCK")
_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")
_FAIR = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


@dataclass(frozen=True)
class Usage:
    """What the processes use together.

    Attributes
    ----------
    memory : int
        Bytes that are not mapped from files, at most: what a process shares with the one that it
        was forked from counts in both.
    cpu_s : float
        Seconds.
    """

    memory: int = 0
    cpu_s: float = 0.0
    processes: int = 0

    def beyond(self, limits: Limits) -> str:
        """The limit of processor time, in words, if it is exceeded."""
        if self.cpu_s > limits.cpu_s:
            return cpu_sentence(limits)
        return ""


def cpu_sentence(limits: Limits) -> str:
    """What is said of a run that wanted too much processor time."""
    return f"processor time: more than {limits.cpu_s:g} s"


def memory_sentence(limits: Limits) -> str:
    """What is said of a run that wanted too much memory."""
    return f"memory: more than {limits.memory // MIB} MB"


def usage_below(pid: int) -> Usage:
    """What the descendants of ``pid`` use; ended ones count as far as their parents know."""
    if sys.platform != "linux":
        return _portable(pid)
    below = _descendants(pid)
    memory = sum(map(_own_memory, below))
    return Usage(memory, sum(map(_ticks, below)) / _TICKS, len(below))


def fair_memory_below(pid: int) -> int:
    """As ``Usage.memory``, but with a page that n processes share counted 1/n in each.

    Exact where ``Usage.memory`` is an upper bound, and ten times dearer.
    """
    if sys.platform != "linux":
        return _portable(pid).memory
    return sum(map(_fair_memory, _descendants(pid)))


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = _children(pid)
    while waiting:
        child = waiting.pop()
        waiting += _children(child)
        found.append(child)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _own_memory(pid: int) -> int:
    """Bytes: what is mapped from files is not the process's own, what it wrote in memory is."""
    return _sum_of_lines(Path(f"/proc/{pid}/status"), _COUNTED)


def _fair_memory(pid: int) -> int:
    # Unreadable where the system forbids it to other users' processes: then the upper bound.
    return _sum_of_lines(Path(f"/proc/{pid}/smaps_rollup"), _FAIR) or _own_memory(pid)


def _sum_of_lines(path: Path, names: tuple[str, ...]) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(names):
                total += int(line.split()[1]) * 1024
    return total


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        # The name in brackets may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))
    return 0


def _portable(pid: int) -> Usage:
    import psutil

    memory, cpu_s, count = 0, 0.0, 0
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                times = child.cpu_times()
                memory += child.memory_info().rss
                cpu_s += times.user + times.system
                count += 1
    return Usage(memory, cpu_s, count)

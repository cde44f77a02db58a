"""What of this machine a process may use: a container's limits count, not the host's sizes.

``os.cpu_count()`` and ``psutil`` tell what the host has; a learner in a container with two
cores and 4 GB on a host of 64 would be promised too much. The limits are read from the
control groups, version 2 or 1, of this process and of every group above it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

# Version 1 says "no limit" with the largest number of pages.
_NO_LIMIT = 2**60


class Memory(NamedTuple):
    """Bytes: ``total`` is the least of the machine's and the limits', ``available`` likewise."""

    total: int
    available: int
    limited: bool


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that this process may keep busy at once: affinity and CPU quota, so 1.5 is possible.

    ``root`` is where ``proc`` and ``sys`` are looked for.
    """
    if sys.platform == "linux":
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    for group in _groups(root, "cpu"):
        words = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        # No limit is "max" in version 2 and -1 in version 1.
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            cores = min(cores, int(words[0]) / int(words[1]))
    return cores


def memory(root: Path = Path("/")) -> Memory:
    """Memory that this process may use, in bytes.

    What a group holds as file cache that nobody has touched lately counts as available, as it
    does in the kernel's own MemAvailable. ``root`` is where ``proc`` and ``sys`` are looked for.
    """
    machine = psutil.virtual_memory()
    total, available, limited = int(machine.total), int(machine.available), False
    for group in _groups(root, "memory"):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        if limit is None or limit >= min(_NO_LIMIT, machine.total):
            continue
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        free = max(0, limit - used + _reclaimable(group))
        total, available, limited = min(total, limit), min(available, free), True
    return Memory(total, available, limited)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups that may limit ``controller``, upwards."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            bases = [root / "sys/fs/cgroup" / name for name in (controllers, controller)]
        else:
            continue
        for base in bases:
            # Inside a container the path may be the host's, of which only the base is seen.
            group = base / path.lstrip("/")
            while group != base and base in group.parents:
                yield group
                group = group.parent
            yield base


def _reclaimable(group: Path) -> int:
    try:
        text = (group / "memory.stat").read_text()
    except OSError:
        return 0
    values = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    # Version 1 counts its sub-groups only in the total_ values, version 2 always.
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None

"""A container's memory and processor time: by a cgroup where one may be made, else watched.

Without a cgroup memory is watched: what is resident in all processes together, each shared page
counted once. A program that allocates fast is then ended a moment late. The processor's time is
left unlimited there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from aiinfra_lab.sandbox.cgroups import Cgroup

WATCH: Final = 0.2  # seconds between two looks at the memory of a container without a cgroup
_PERIOD: Final = 100_000  # microseconds over which a cgroup counts processor time by default
_SHORTEST: Final = 1_000  # microseconds: the kernel takes no smaller share
_BOUND: Final = ("RssAnon:", "RssShmem:", "VmSwap:")
_FAIR: Final = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


def make_group(memory: int | None, cpus: float | None) -> Cgroup | None:
    """A cgroup with these limits, or with those of them that the system lets us set.

    Parameters
    ----------
    memory : int, optional
        Bytes.
    cpus : float, optional
        Processors' worth of time.
    """
    wanted = {}
    if memory is not None:
        wanted["memory"] = memory
    if cpus is not None:
        wanted["cpu"] = max(_SHORTEST, round(cpus * _PERIOD))
    for names in (list(wanted), ["memory"], ["cpu"]):
        chosen = {name: wanted[name] for name in names if name in wanted}
        group = Cgroup.with_limits(chosen) if chosen else None
        if group is not None:
            with contextlib.suppress(OSError):  # version 2: all of it ends, not one process
                (group.folders[0] / "memory.oom.group").write_text("1")
            return group
    return None


def memory_of(pids: Iterable[int], limit: int) -> int:
    """Bytes that the processes hold, exact where the cheap upper bound is above ``limit``."""
    if sys.platform != "linux":
        return _portable(pids)
    known = list(pids)
    bound = sum(_sum(Path(f"/proc/{pid}/status"), _BOUND) for pid in known)
    if bound <= limit:
        return bound
    # Not readable where the system forbids it: then the bound has to do.
    return sum(_sum(Path(f"/proc/{pid}/smaps_rollup"), _FAIR) for pid in known) or bound


def _sum(path: Path, names: tuple[str, ...]) -> int:
    with contextlib.suppress(OSError, ValueError):
        lines = path.read_text(errors="replace").splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(names))
    return 0


def _portable(pids: Iterable[int]) -> int:
    import psutil

    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total

"""What one sandbox may use. Applied from within, before any strange code runs."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import dataclass

from aiinfra_lab.errors import InputError

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Hard limits of one sandbox.

    Parameters
    ----------
    memory : int
        Bytes resident in all its processes together. Not address space: importing torch alone
        maps 3 GB of it.
    cpu_s : float
        Processor seconds of all its processes together.
    wall_s : float
        Seconds by the clock.
    processes : int
        Processes and threads. A kernel and numpy need about a dozen.
    file_size, files : int
        Bytes of one file, and files open at once in one process.
    scratch : int
        Bytes of /tmp and, by themselves, of /dev/shm.
    """

    memory: int = 1024 * MIB
    cpu_s: float = 120.0
    wall_s: float = 300.0
    processes: int = 128
    file_size: int = 64 * MIB
    files: int = 256
    scratch: int = 128 * MIB

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"the limit {name} is {value}; it must be positive")

    def apply(self) -> None:
        """Put the limits that the system counts by itself on this process and its children.

        The number of processes is counted per user in a user namespace (Linux 5.14), which a
        sandbox has for itself; before, and on macOS, per user of the machine.
        """
        # One second more than the watcher's limit, which counts the whole tree and says why.
        seconds = int(self.cpu_s) + 1
        _set(resource.RLIMIT_CPU, seconds, seconds + 1)
        _set(resource.RLIMIT_FSIZE, self.file_size)
        _set(resource.RLIMIT_NOFILE, self.files)
        _set(resource.RLIMIT_CORE, 0)
        if sys.platform == "linux":
            _set(resource.RLIMIT_NPROC, self.processes)
            # Locked memory and message queues are memory that no watcher of a tree sees.
            _set(resource.RLIMIT_MEMLOCK, 0)
            _set(resource.RLIMIT_MSGQUEUE, 0)


def _set(kind: int, soft: int, hard: int | None = None) -> None:
    _, highest = resource.getrlimit(kind)
    wanted = [value if highest == resource.RLIM_INFINITY else min(value, highest)
              for value in (soft, soft if hard is None else hard)]  # fmt: skip
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted[0], wanted[1]))

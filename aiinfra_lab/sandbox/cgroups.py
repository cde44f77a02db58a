"""A cgroup for one sandbox or container, where this process may make one.

It is the kernel's own count: of memory it sees what no watcher of processes sees (files in memory,
buffers of sockets), and it acts at once. Version 1 and 2; None where neither lets us.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from aiinfra_lab.sandbox.limits import Limits

# By version: the controllers' files for the limits, and where an out-of-memory kill is counted.
_FILES: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        "pids": ("pids.max",),
        "cpu": ("cpu.cfs_quota_us",),
    },
    2: {"memory": ("memory.max",), "pids": ("pids.max",), "cpu": ("cpu.max",)},
}
_EVENTS = {1: "memory.oom_control", 2: "memory.events"}


class Cgroup:
    """One group of processes with its limits; ``remove`` it when they have ended."""

    def __init__(self, version: int, folders: list[Path]) -> None:
        self.version, self.folders = version, folders

    @classmethod
    def make(cls, limits: Limits) -> Cgroup | None:
        """A group with the limits of a sandbox; None where that is not allowed."""
        return cls.with_limits({"memory": limits.memory, "pids": limits.processes})

    @classmethod
    def with_limits(cls, limits: Mapping[str, int]) -> Cgroup | None:
        """A new group below this process's own, or beside it; None where that is not allowed.

        Parameters
        ----------
        limits : mapping
            By controller: ``memory`` in bytes, ``pids`` in processes and threads, ``cpu`` in
            microseconds of processor time in each tenth of a second. Where some of them cannot be
            had in version 1, the first alone has to do.
        """
        for version in (1, 2):
            folders = []
            for controller in limits:
                folder = _new_folder(version, controller, limits)
                if folder is not None:
                    folders.append(folder)
                if version == 2:  # one folder has all controllers
                    break
            # A plain folder takes the limits and counts nothing.
            proof = _EVENTS[version] if "memory" in limits else "cgroup.procs"
            if folders and (folders[0] / proof).exists():
                return cls(version, folders)
            cls(version, folders).remove()
        return None

    def add(self, pid: int) -> bool:
        """Put a process, and whatever it starts from now on, into the group."""
        try:
            for folder in self.folders:
                (folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            return False
        return True

    def pids(self) -> list[int]:
        """The living processes in the group."""
        with contextlib.suppress(OSError, IndexError):
            return [int(pid) for pid in (self.folders[0] / "cgroup.procs").read_text().split()]
        return []

    def kill(self) -> None:
        """KILL every process of the group: in version 2 at once, else those that are seen now."""
        with contextlib.suppress(OSError, IndexError):
            file = self.folders[0] / "cgroup.kill"
            if file.exists():  # Linux 5.14; a write to a folder without it must make no file
                file.write_text("1")
                return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the group for want of memory."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = (self.folders[0] / _EVENTS[self.version]).read_text()
            counts = dict(line.split() for line in text.splitlines() if line.count(" ") == 1)
            return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> bool:
        """Remove the group; False while a process is left in it."""
        for folder in list(self.folders):
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                continue
            self.folders.remove(folder)
        return not self.folders


def _sweep(parent: Path) -> None:
    """Remove the empty groups of graders that were killed; a name says whose group it was."""
    for folder in parent.glob("aiinfra-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _new_folder(version: int, controller: str, limits: Mapping[str, int]) -> Path | None:
    name = f"aiinfra-{os.getpid()}-{os.urandom(6).hex()}"
    for parent in _parents(version, controller):
        folder = parent / name
        try:
            _sweep(parent)
            folder.mkdir()
        except OSError:
            continue
        try:
            _write_limits(folder, version, controller, limits)
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        return folder
    return None


def _write_limits(folder: Path, version: int, controller: str, limits: Mapping[str, int]) -> None:
    for kind in limits if version == 2 else (controller,):
        first, *others = _FILES[version][kind]
        (folder / first).write_text(str(limits[kind]))
        for other in others:  # swap is counted on some systems only
            with contextlib.suppress(OSError):
                (folder / other).write_text(str(limits[kind]))
    if version == 2 and "memory" in limits:
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")


def _parents(version: int, controller: str) -> Iterator[Path]:
    """This process's own group and the one above, in the hierarchy that has ``controller``."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    own = None
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "" if version == 2 else controller in controllers.split(","):
            own = path
    if own is None:
        return
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        fits = kind == "cgroup2" if version == 2 else controller in options.split(",")
        if fits and kind.startswith("cgroup"):
            folder = Path(point) / os.path.relpath(own, root)
            yield folder
            if own != root:
                yield folder.parent
            return

"""What a container sees of the machine: its files, with the container's own mounts in them.

A target that does not exist is made without touching the machine: its deepest existing ancestor
is covered by a small file system in memory, with the old entries bound back into it. For ``/``
that is a new root. Inside a volume that the container may write, the folder is made in the
volume, as every runtime does.
"""

# ruff: noqa: PTH102, PTH103, PTH110, PTH112, PTH115, PTH116, PTH118, PTH119, PTH120, PTH208, PTH211
# (os.path says no where Path raises: of what may not be looked into)
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import Literal

from aiinfra_lab.kube.runtime import namespaces
from aiinfra_lab.kube.runtime.spec import Mount
from aiinfra_lab.sandbox import system

_MS_REMOUNT = 32
# statvfs(3)'s flag and mount(2)'s: what a mount has, and a remount must not lose.
_KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
_MOST_ENTRIES = 5_000

# Who has what lies below a path: the machine, a volume that may be written, one that may not,
# or a file system of ours.
_Owner = Literal["machine", "volume", "frozen", "ours"]


class MountProblem(Exception):
    """A mount cannot be made; the text says which and why."""


class View:
    """The files of the container that this process is about to become.

    Parameters
    ----------
    staging : str
        An empty folder of the runtime, on which a new root is put together.
    """

    def __init__(self, staging: str) -> None:
        self._staging = staging
        self._owners: dict[str, _Owner] = {"/": "machine"}

    def add(self, mounts: Sequence[Mount]) -> None:
        """Make ``mounts``, outer targets first.

        Raises
        ------
        MountProblem
            One cannot be made.
        """
        for mount in sorted(mounts, key=lambda m: os.path.normpath(m.target).split("/")):
            try:
                self._mount(mount)
            except OSError as error:
                raise MountProblem(
                    f"{mount.source} cannot be mounted at {mount.target}: {error.strerror}"
                ) from None

    def _mount(self, mount: Mount) -> None:
        source = os.fspath(mount.source)
        if not os.path.exists(source):
            raise MountProblem(
                f"{source}, which is to be mounted at {mount.target}, does not exist"
            )
        if os.path.normpath(mount.target) == "/":
            raise MountProblem("a volume cannot be mounted at /")
        target = self.place(mount.target, folder=os.path.isdir(source))
        bind(source, target)
        if mount.read_only:
            _freeze(target)
        self._owners[target] = "frozen" if mount.read_only else "volume"

    def place(self, path: str, *, folder: bool) -> str:
        """Where ``path`` really is, after it was made where it did not exist."""
        path = os.path.realpath(path)
        if os.path.exists(path):
            if os.path.isdir(path) != folder:
                have, want = ("folder", "file") if not folder else ("file", "folder")
                raise MountProblem(f"{path} is a {have}; a {want} cannot be mounted there")
            return path
        ancestor = os.path.dirname(path)
        while not os.path.exists(ancestor):
            ancestor = os.path.dirname(ancestor)
        if not os.path.isdir(ancestor):
            raise MountProblem(f"{path} cannot be made: {ancestor} is a file")
        if self._owner(ancestor) in ("machine", "frozen"):
            self._cover(ancestor)
        os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
        if not folder:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        return path

    def _owner(self, path: str) -> _Owner:
        while path not in self._owners:
            path = os.path.dirname(path)
        return self._owners[path]

    def _cover(self, path: str) -> None:
        entries = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        if len(entries) > _MOST_ENTRIES:
            raise MountProblem(
                f"nothing can be added to {path} for this container alone: "
                f"it has more than {_MOST_ENTRIES} entries"
            )
        state = os.stat(path)
        old = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        # Once covered, the old entries are reached by the descriptor; "/" cannot be covered in
        # place, because a process's root is not looked up.
        new = self._staging if path == "/" else path
        system.mount("tmpfs", new, "tmpfs", data=f"mode={stat.S_IMODE(state.st_mode):o},size=64m")
        with contextlib.suppress(OSError):
            os.chown(new, state.st_uid, state.st_gid)
        owner = self._owner(path)
        for entry in entries:
            name = os.path.basename(entry)
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                _bind_back(f"/proc/self/fd/{old}/{name}", os.path.join(new, name))
            self._owners.setdefault(entry, owner)
        os.close(old)
        self._owners[path] = "ours"
        if path == "/":
            namespaces.detach(new + self._staging)  # its picture in what was bound back
            namespaces.pivot(new)


def bind(source: str, target: str) -> None:
    """Show ``source``, with what is mounted in it, at ``target`` too."""
    system.mount(source, target, flags=system.MS_BIND | system.MS_REC)


def _bind_back(source: str, target: str) -> None:
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT))
    bind(source, target)


def _freeze(target: str) -> None:
    """Make a bind mount read-only: the kernel ignores the wish at the first call."""
    has = os.statvfs(target).f_flag
    kept = sum(flag for known, flag in _KEPT.items() if has & known)
    flags = system.MS_BIND | _MS_REMOUNT | system.MS_RDONLY | kept
    system.mount("none", target, flags=flags)

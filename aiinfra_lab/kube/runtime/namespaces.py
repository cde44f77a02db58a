"""A mount namespace for each container, where the system allows it.

As root by ``unshare`` alone; else in a user namespace too, in which the user is the same as
outside. No namespace of processes and none of the network: a pod of this node is a process of
this machine, and its pids and ports are the machine's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal

from aiinfra_lab.sandbox import system

Isolation = Literal["root", "user", "none"]


def enter(kind: Isolation) -> None:
    """Put this process into a mount namespace of its own, from which nothing spreads."""
    user, group = os.geteuid(), os.getegid()
    system.unshare(system.CLONE_NEWNS | (system.CLONE_NEWUSER if kind == "user" else 0))
    if kind == "user":
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path("/proc/self", name).write_text(text)
    system.mount("none", "/", flags=system.MS_REC | system.MS_PRIVATE)


def join(pid: int, kind: Isolation) -> None:
    """Put this process where the living process ``pid`` is: its mounts and its root.

    Raises
    ------
    OSError
        It has ended.
    """
    names = (["user"] if kind == "user" else []) + ["mnt"]
    spaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in names]
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY)
    flags = {"user": system.CLONE_NEWUSER, "mnt": system.CLONE_NEWNS}
    for name, space in zip(names, spaces, strict=True):
        if _libc().setns(space, flags[name]) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}")
    os.fchdir(root)
    os.chroot(".")


def of(pid: int | str = "self") -> str:
    """The name of a process's mount namespace; empty where it cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115  (Path is twice as dear)
    except OSError:
        return ""


def probe() -> Isolation:
    """What this system allows, by a child that tries it."""
    if sys.platform != "linux":
        return "none"
    tries: list[Isolation] = ["root", "user"] if os.geteuid() == 0 else ["user"]
    for kind in tries:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                enter(kind)
                system.mount("tmpfs", "/", "tmpfs")
                code = 0
            except OSError:
                pass
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return kind
    return "none"


def detach(path: str) -> None:
    """Take away the mount at ``path``; nothing where there is none."""
    _libc().umount2(os.fsencode(path), _MNT_DETACH)


def pivot(folder: str) -> None:
    """Make ``folder``, a mount, this namespace's root, and let go of the old one."""
    os.chdir(folder)
    libc = _libc()
    if libc.syscall(_PIVOT_ROOT.get(os.uname().machine, -1), b".", b".") == 0:
        detach(".")
    else:  # the first root of a machine cannot be let go of, only covered
        system.mount(".", "/", flags=system.MS_MOVE)
        os.chroot(".")
    os.chdir("/")


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # its number; the C library has no name for it
_MNT_DETACH = 2


def die_with_parent() -> None:
    """Be killed when the parent ends; Linux only. To be said again after a change of user."""
    if sys.platform == "linux":
        system.die_with_parent(signal.SIGKILL)

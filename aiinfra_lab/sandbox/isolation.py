"""Walls around one fork of a server that is itself behind bubblewrap's.

The server has no capability and never needs one: whoever may open a user namespace owns a full
set *inside* it, and that is enough to unshare everything else. So each fork opens its own, builds
its walls with the powers it has there, then closes the way by which it came (no namespace can be
made below it any more) and drops all of them, before it runs a line of anybody's code. A user
namespace of its own also makes RLIMIT_NPROC count its own processes only (Linux 5.14).

``open_namespaces`` runs in the fork, which stays outside the new process namespace and keeps
watch; ``close_walls`` runs in its first child, which is process 1 inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from aiinfra_lab.sandbox import syscalls, system
from aiinfra_lab.sandbox.limits import Limits
from aiinfra_lab.sandbox.world import HOME

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_NAMESPACES = (
    system.CLONE_NEWUSER
    | system.CLONE_NEWNS
    | system.CLONE_NEWPID
    | system.CLONE_NEWIPC
    | system.CLONE_NEWNET
    | system.CLONE_NEWUTS
)


def open_namespaces() -> None:
    """Put this process and its next children into namespaces of their own.

    Raises
    ------
    OSError
        The system refuses; nothing strange may be run then.
    """
    user, group = os.geteuid(), os.getegid()
    system.unshare(_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def close_walls(limits: Limits, *, hide: Sequence[str] = ()) -> None:
    """Give this process an empty /tmp, its own /proc and nothing by which it could get more.

    Parameters
    ----------
    limits : Limits
        Applied at the end.
    hide : sequence of str
        Folders of the server that the fork must not see.

    Raises
    ------
    OSError
        A wall could not be built; nothing strange may be run then.
    """
    system.mount("none", "/", flags=system.MS_REC | system.MS_PRIVATE)
    flags = system.MS_NOSUID | system.MS_NODEV
    system.mount("proc", "/proc", "proc", flags | system.MS_NOEXEC)
    for folder in (HOME, "/dev/shm"):
        _renew(folder, flags, limits.scratch)
    for folder in hide:
        system.mount("tmpfs", folder, "tmpfs", flags | system.MS_RDONLY, "size=4k,mode=0555")
    raise_loopback()
    _forbid_namespaces()
    os.chdir(HOME)
    shut(limits)


def shut(limits: Limits) -> None:
    """Drop what is left of privileges, and apply the limits that the system counts."""
    system.refuse_new_privileges()
    system.drop_capabilities()
    limits.apply()
    with contextlib.suppress(OSError):  # the canary will say that they are not refused
        syscalls.refuse()


def _renew(folder: str, flags: int, size: int) -> None:
    """Put an empty folder of memory over ``folder``, and back into it what is mounted below.

    A course that lies in /tmp is such a mount.
    """
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in table]
    below: dict[str, int] = {}
    for point in sorted(point for point in points if point.startswith(f"{folder}/")):
        if not any(point.startswith(f"{other}/") for other in below):
            below[point] = os.open(point, os.O_PATH | os.O_CLOEXEC)
    system.mount("tmpfs", folder, "tmpfs", flags, f"size={size},mode=1777")
    for point, handle in below.items():
        source, target = Path(f"/proc/self/fd/{handle}"), Path(point)
        if source.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        system.mount(str(source), point, flags=system.MS_BIND | system.MS_REC)
        os.close(handle)


def _forbid_namespaces() -> None:
    """No namespace of any kind below this user namespace, also not by a later set-uid program."""
    for setting in sorted(Path("/proc/sys/user").glob("max_*_namespaces")):
        _write(str(setting), "0")


def raise_loopback() -> None:
    """Switch the loopback of this network namespace on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        _, flags, _ = struct.unpack("16sH14s", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))
        request = struct.pack("16sH14s", b"lo", flags | _IFF_UP, b"")
        fcntl.ioctl(handle, _SIOCSIFFLAGS, request)


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode())
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)

"""System calls that Python has no name for, or not before 3.12; Linux only, nothing on import."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache
from typing import Any

# linux/sched.h
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# linux/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 4096, 8192, 16384, 1 << 18

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x2008_0522
_MOST_CAPABILITIES = 64


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *words: Any) -> None:
    if getattr(_libc(), name)(*words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Put this process (with NEWPID: its next children) into new namespaces."""
    _call("unshare", ctypes.c_int(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """``mount(2)``."""
    words = [os.fsencode(word) or None for word in (source, target, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), os.fsencode(data) or None)


def die_with_parent(signal: int) -> None:
    """Be sent ``signal`` when the parent (the thread that forked) ends."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def refuse_new_privileges() -> None:
    """From now on no program gains privileges by its set-uid bit or its file's capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability in all five sets, the bounding set included where allowed."""
    for capability in range(_MOST_CAPABILITIES):
        # EINVAL: this system has no capability of that number; EPERM: without CAP_SETPCAP the
        # bounding set stays, and no_new_privs is what keeps it useless.
        with contextlib.suppress(OSError):
            _prctl(_PR_CAPBSET_DROP, capability)
    with contextlib.suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _call("capset", header, nothing)


def set_filter(head: bytes) -> None:
    """Install a seccomp filter; ``head`` is a ``struct sock_fprog``. Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(head, len(head))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(buffer))


def _prctl(option: int, value: int, more: int = 0) -> None:
    words = [ctypes.c_ulong(word) for word in (value, more, 0, 0)]
    _call("prctl", ctypes.c_int(option), *words)

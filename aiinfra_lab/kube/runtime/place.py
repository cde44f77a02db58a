"""Where a runtime listens: a socket in its folder, which one runtime at a time may hold."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Final

from aiinfra_lab.errors import InputError

_LONGEST: Final = 100  # bytes of a path that every system takes for a socket (macOS: 104)
_BACKLOG: Final = 128


def socket_of(folder: Path) -> Path:
    """The path of the socket of the runtime in ``folder``: in it, unless that is too long."""
    folder = folder.resolve()
    path = folder / "runtime.sock"
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    import hashlib
    import tempfile

    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"aiinfra-runtime-{os.getuid()}" / f"{name}.sock"


def hold(folder: Path) -> int:
    """Make ``folder`` this runtime's own, until it ends; gives the descriptor of the lock.

    Raises
    ------
    InputError
        Another runtime has it, or it cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        fd = os.open(folder / "runtime.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(
            f"the runtime's folder {folder} cannot be used", found=error.strerror
        ) from None
    try:
        # A lock of the process, which its forks do not hold when it is gone.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise InputError(
            f"a runtime already works in {folder}", fix="Stop it, or choose another folder."
        ) from None
    return fd


def listen(folder: Path) -> socket.socket:
    """The listening socket; what a killed runtime left is replaced. ``folder`` is held.

    Raises
    ------
    InputError
        The socket cannot be made.
    """
    path = socket_of(folder)
    if path.parent != folder.resolve():
        _make_private(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InputError(f"the socket {path} cannot be made", found=error.strerror) from None
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _make_private(folder: Path) -> None:
    """A folder in the common temporary one, which must be ours: others can write there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise InputError(
            f"{folder} cannot hold the runtime's socket", found="a folder open to others"
        )

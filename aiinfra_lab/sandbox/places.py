"""Private folders: short enough for sockets, and gone even after a kill.

A folder holds a file that its process keeps locked for as long as it lives: ``flock`` ends with the
process however that ends, and it holds between containers that share a folder, where a process
number says nothing. A folder whose file can be locked belongs to nobody any more, and the first use
by the next process removes it. One without such a file was not made here and is left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path

from aiinfra_lab.errors import InputError

LOCK = ".aiinfra-lock"
# A socket's path ends at 107 characters, on macOS at 103; what is in the folder takes the rest.
_LONGEST = 80
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class PrivateFolder(tempfile.TemporaryDirectory[str]):
    """A new temporary folder, removed at exit at the latest, or by the next process."""

    def __init__(self, prefix: str, parent: str | None = None) -> None:
        handle = -1
        while handle < 0:
            super().__init__(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
            handle = _lock(Path(self.name, LOCK), os.O_CREAT)
            if handle < 0:  # another process swept between the file and its lock
                super().cleanup()
        self._unlock = weakref.finalize(self, os.close, handle)

    def cleanup(self) -> None:
        """Remove the folder."""
        super().cleanup()
        self._unlock()


def private_folder(prefix: str) -> PrivateFolder:
    """A new folder with a path short enough for sockets in it.

    The first call in a process removes what killed processes have left under this prefix.

    Raises
    ------
    InputError
        Every temporary folder has too long a path.
    """
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        _sweep(parent, prefix)
        folder = PrivateFolder(prefix, parent)
        if len(os.fsencode(folder.name)) < _LONGEST:
            return folder
        folder.cleanup()
    raise InputError("the temporary folder has too long a path", fix="Set TMPDIR to a short one.")


@cache
def _sweep(parent: str, prefix: str) -> None:
    for file in Path(parent).glob(f"{prefix}*/{LOCK}"):
        with suppress(OSError):
            # Another user's folder is that user's to remove.
            if file.parent.lstat().st_uid == os.geteuid() and (handle := _lock(file)) >= 0:
                shutil.rmtree(file.parent, ignore_errors=True)
                os.close(handle)


def _lock(file: Path, flags: int = 0) -> int:
    """A handle that holds the lock; -1 where another process holds it, or removed the file."""
    handle = -1
    with suppress(OSError):
        handle = os.open(file, _OPEN | flags, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), file.lstat()):
            return handle
    if handle >= 0:
        os.close(handle)
    return -1

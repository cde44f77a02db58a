"""A private folder for sockets."""

from __future__ import annotations

import os
import tempfile

from aiinfra_lab.errors import InputError

# A socket's path ends at 107 characters, on macOS at 103; what is in the folder takes the rest.
_LONGEST = 80


def private_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A new folder for sockets, with a path short enough for them; removed at exit at the latest.

    Raises
    ------
    InputError
        Every temporary folder has too long a path.
    """
    for parent in (None, "/tmp"):
        folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
        if len(os.fsencode(folder.name)) < _LONGEST:
            return folder
        folder.cleanup()
    raise InputError("the temporary folder has too long a path", fix="Set TMPDIR to a short one.")

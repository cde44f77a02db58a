"""A child's log, read from outside: its last lines, and its lines as they come."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_TAIL_BYTES, _TAIL_WIDTH = 64 << 10, 500
_LINE = 1 << 20  # bytes; of a longer line only the end is looked at
_CHUNK, _CHUNKS = 1 << 16, 64  # what is read before a pause, so that a loud child ends no wait
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\t\n\x20-\x7e\xa0-\U0010ffff]")


def read_tail(log: Path, lines: int, since: float) -> str:
    """The last ``lines`` lines of a log, also right after its rotation; no control characters."""
    data = b""
    for path in (log.with_name(log.name + ".1"), log):
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                # What was rotated before this run began belongs to another run.
                if path == log or path.stat().st_mtime >= since:
                    file.seek(max(0, size - _TAIL_BYTES))
                    data += file.read()
        except OSError:
            continue
    text = data.decode("utf-8", "replace").replace("\r", "\n")
    kept = [line for line in _ESCAPES.sub("", text).split("\n") if line.strip()]
    return "\n".join(line[-_TAIL_WIDTH:] for line in kept[-lines:]) if lines > 0 else ""


def follow(log: Path) -> Iterator[str | None]:
    """The complete lines of a growing log, and None each time there is no more yet.

    A rotated log is read to its end through the open file before the new one is begun.
    """
    pieces, reads = b"", 0
    while True:
        try:
            file = log.open("rb")
        except OSError:
            yield None
            continue
        with file:
            while True:
                data = file.read(_CHUNK)
                reads += 1
                if data:
                    *lines, pieces = (pieces + data).split(b"\n")
                    yield from (line.decode("utf-8", "replace") for line in lines)
                    pieces = pieces[-_LINE:]
                    if reads % _CHUNKS == 0:
                        yield None
                elif _replaced(log, file.fileno()):
                    break
                else:
                    yield None


def _replaced(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(fd).st_ino
    except OSError:
        return False

"""Which processes of a cluster still live."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil


def living(root: Path) -> list[str]:
    """The processes that name the cluster's folder on their command line, or run in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and any(str(root) in w for w in words):
                found.append(f"{process.pid} {words[0]}")
    return found


def seconds_until_gone(root: Path, limit: float = 30.0) -> float:
    """How long it takes until none lives any more."""
    begin = time.monotonic()
    while left := living(root):
        assert time.monotonic() < begin + limit, left
        time.sleep(0.05)
    return time.monotonic() - begin

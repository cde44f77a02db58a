"""The numbers of a run by step: lines of JSON in ``metrics.jsonl``, each step once.

A run that resumes does some steps again. Lines from after the checkpoint are dropped then, so the
file reads as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiinfra_lab.files import write_text

FILE = "metrics.jsonl"


class Journal:
    """Appends to the file in ``folder``; where not ``enabled`` (on other ranks) it does nothing.

    Parameters
    ----------
    step : int
        Steps that are done: what the file says about later ones is dropped.
    """

    def __init__(self, folder: Path, *, enabled: bool, step: int) -> None:
        self._file = folder / FILE
        self._enabled = enabled
        if enabled and self._file.exists():
            kept = [json.dumps(entry) for entry in read_journal(folder) if entry["step"] <= step]
            write_text(self._file, "".join(f"{line}\n" for line in kept))

    def write(self, **entry: Any) -> None:
        """Append one entry."""
        if self._enabled:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(entry)}\n")


def read_journal(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The entries of the run in ``folder``; a line that was cut off by a crash ends them."""
    with (Path(folder) / FILE).open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return

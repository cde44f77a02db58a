"""What of a batch is finished: one JSON line a learner, on the disk before the next is graded.

After a kill nothing is graded twice. A line that was cut off in the middle is no line; a line
counts only for the same answers, and the file only for the same lab, master and seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.results import SubmissionResult

VERSION = 1


class Batch(BaseModel):
    """What a ledger is of; the first line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ledger: int = VERSION
    lab: str
    master: str
    seed: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    answers: str
    row: SubmissionResult


class Ledger:
    """The open ledger of one batch; ``add`` is on the disk when it returns."""

    def __init__(self, path: Path, batch: Batch, rows: dict[tuple[str, str], SubmissionResult]):
        self.path, self.batch = path, batch
        self._rows = rows
        self._descriptor = -1

    @classmethod
    def read(cls, path: Path) -> Ledger | None:
        """The ledger at ``path``; None where there is none, or only its cut-off beginning.

        Raises
        ------
        InputError
            The file is something else, or is damaged in the middle.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        # What follows the last line end was being written when the grader was killed.
        whole = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
        if not whole:
            return None
        rows = {}
        try:
            batch = Batch.model_validate_json(whole[0])
            for text in whole[1:]:
                line = _Line.model_validate_json(text)
                rows[line.row.id, line.answers] = line.row
        except ValidationError:
            raise InputError(
                f"{path} is damaged, or no ledger of this grader",
                fix="Name another folder, or remove the file; then everything is graded again.",
            ) from None
        if batch.ledger != VERSION:
            raise InputError(f"{path} was written by another version of the grader")
        return cls(path, batch, rows)

    @property
    def rows(self) -> int:
        """How many rows are finished."""
        return len(self._rows)

    def find(self, learner: str, answers: str) -> SubmissionResult | None:
        """The finished row of this learner for these answers."""
        return self._rows.get((learner, answers))

    def open(self) -> Self:
        """Begin the file, or go on where its last whole line ends."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        if not end:
            self._write([self.batch.model_dump(mode="json")])
        return self

    def add(self, rows: Iterable[tuple[str, SubmissionResult]]) -> None:
        """Append finished rows, each with the digest of its answers."""
        lines = []
        for answers, row in rows:
            self._rows[row.id, answers] = row
            lines.append({"answers": answers, "row": row.model_dump(mode="json")})
        self._write(lines)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, lines: list[dict[str, Any]]) -> None:
        left = "".join(json.dumps(line) + "\n" for line in lines).encode()
        while left:
            left = left[os.write(self._descriptor, left) :]
        os.fsync(self._descriptor)

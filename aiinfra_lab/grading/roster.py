"""The class list: who should have handed in, as CSV with the columns id, name and email."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.errors import InputError
from aiinfra_lab.grading.names import folded, learner_id, one_line


@dataclass(frozen=True)
class Learner:
    """One line of the class list."""

    id: str
    name: str = ""
    email: str = ""


class Roster:
    """The class list, searched by id and by name."""

    def __init__(self, learners: Iterable[Learner] = ()) -> None:
        self.learners = tuple(learners)
        self._by_id = {folded(learner.id): learner for learner in self.learners}
        names = Counter(folded(learner.name) for learner in self.learners if learner.name)
        # A name that two learners share tells nobody apart.
        self._by_name = {
            folded(learner.name): learner
            for learner in self.learners
            if names[folded(learner.name)] == 1
        }

    def find(self, identifier: str, name: str = "") -> Learner | None:
        """The learner with this id, else with this name or this id for a name."""
        by_name = self._by_name
        return (
            self._by_id.get(folded(identifier))
            or by_name.get(folded(name))
            or by_name.get(folded(identifier))
        )


def read_roster(path: Path) -> Roster:
    """Read a class list; the byte order mark and the semicolons that Excel writes are taken.

    Raises
    ------
    InputError
        It cannot be read, lacks a column, or lists a learner twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is not written in UTF-8", fix='Save it as "CSV UTF-8" and give that file.'
        ) from None
    except OSError as error:
        raise InputError(f"the roster {path} cannot be read: {error.strerror}") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if any(line)]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    header = [column.strip().lower() for column in lines[0]] if lines else []
    if not {"id", "name"} <= set(header):
        raise InputError(
            f"{path} lacks a column",
            needed="the columns id and name, and email if you like",
            found=", ".join(header) or "nothing",
        )
    learners = [
        _learner(dict(zip(header, line, strict=False)), path, number)
        for number, line in enumerate(lines[1:], start=2)
    ]
    counts = Counter(folded(learner.id) for learner in learners)
    if twice := [learner.id for learner in learners if counts[folded(learner.id)] > 1]:
        raise InputError(f"{path} lists {twice[0]!r} twice", fix="Keep one line for each learner.")
    if not learners:
        raise InputError(f"{path} lists no learners")
    return Roster(learners)


def _learner(fields: dict[str, str], path: Path, number: int) -> Learner:
    identifier = learner_id(fields.get("id", ""))
    if not identifier:
        raise InputError(f"{path}: line {number} has no id")
    return Learner(identifier, one_line(fields.get("name", "")), one_line(fields.get("email", "")))

"""Lab masters: notebooks with solutions and hidden checks, and what learners get of them.

The marks and the metadata are nbgrader's, schema version 3, so that its users can read them. One
of its kinds of cells is refused: a *task* is answered in cells that the learner adds, and those are
not handed in, for a submission's answers are the sources of the master's own cells.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiinfra_lab.course.exercises import CHECK_SUFFIX
from aiinfra_lab.course.judgement import is_check
from aiinfra_lab.course.metadata import KEY
from aiinfra_lab.course.notebooks import Cell, Notebook, code_cells, dumps, stripped
from aiinfra_lab.errors import InputError
from aiinfra_lab.files import digest_bytes

SCHEMA_VERSION = 3
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
TEXT_STUB = ("YOUR ANSWER HERE",)
_MARK = re.compile(r"###\s*(BEGIN|END)\s+(SOLUTION|HIDDEN TESTS)")
# What was meant as a mark; misspelt it would publish what it should hide.
_LIKE_MARK = re.compile(r"#\s*(BEGIN|END)[\W_]*(SOLUTION|HIDDEN)", re.IGNORECASE)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lab: its answer cells and its check, by ``grade_id``."""

    name: str
    points: float
    answers: tuple[str, ...]

    @property
    def check(self) -> str:
        """The check cell's ``grade_id``."""
        return self.name + CHECK_SUFFIX


def grade_id(cell: Cell) -> str:
    """The cell's ``grade_id``, or nothing."""
    grading = cell["metadata"].get("nbgrader")
    return str(grading.get("grade_id", "")) if isinstance(grading, dict) else ""


def is_answer(cell: Cell) -> bool:
    """Whether a learner writes in this cell."""
    return bool(cell["metadata"].get("nbgrader", {}).get("solution"))


def is_manual(cell: Cell) -> bool:
    """Whether a learner writes in this cell, code or text, and a person gives its points."""
    return is_answer(cell) and bool(cell["metadata"]["nbgrader"].get("grade"))


def marked_by_hand(master: Notebook) -> dict[str, float]:
    """The points of the answers that a person marks, by ``grade_id``."""
    cells = filter(is_manual, master["cells"])
    return {grade_id(cell): float(cell["metadata"]["nbgrader"]["points"]) for cell in cells}


def exercises(master: Notebook, name: str = "the lab") -> list[Exercise]:
    """The exercises of a lab in order: the answer cells before a check belong to it.

    Answers that a person marks belong to none, wherever they stand.

    Raises
    ------
    InputError
        The lab breaks the protocol; the sentence names the cell.
    """
    found: list[Exercise] = []
    answers: list[str] = []
    graded = [cell for cell in master["cells"] if grade_id(cell)]
    counts = Counter(map(grade_id, graded))
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise InputError(f"{name}: two cells have the grade_id {repeated[0]!r}")
    for cell in graded:
        key = grade_id(cell)
        if cell["metadata"]["nbgrader"].get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{name}: cell {key!r} needs nbgrader schema_version {SCHEMA_VERSION}")
        if cell["metadata"]["nbgrader"].get("task"):
            raise InputError(
                f"{name}: cell {key!r} is a task, whose answer would not be handed in",
                fix="Make it an answer that is marked by hand: grade and solution.",
            )
        if is_manual(cell):
            _points(name, cell, "answer")
        elif is_answer(cell):
            if cell["cell_type"] != "code":
                raise InputError(f"{name}: the answer {key!r} is text, which no check can run")
            answers.append(key)
        elif is_check(cell):
            found.append(_exercise(name, cell, answers))
            answers = []
    if answers:
        raise InputError(f"{name}: the answer {answers[0]!r} has no check after it")
    manual = set(marked_by_hand(master))
    if twice := [exercise.name for exercise in found if exercise.name in manual]:
        raise InputError(f"{name}: {twice[0]!r} has a check and is marked by hand too")
    return found


def _points(name: str, cell: Cell, kind: str) -> float:
    points = cell["metadata"]["nbgrader"].get("points", 0)
    if not points > 0:
        raise InputError(f"{name}: {kind} {grade_id(cell)!r} needs points", found=str(points))
    return float(points)


def _exercise(name: str, cell: Cell, answers: list[str]) -> Exercise:
    key = grade_id(cell)
    exercise = key.removesuffix(CHECK_SUFFIX)
    if exercise == key:
        raise InputError(f"{name}: the grade_id of a check ends in {CHECK_SUFFIX}", found=repr(key))
    points = _points(name, cell, "check")
    if not answers:
        raise InputError(f"{name}: check {key!r} has no answer cell before it")
    if f'exercise("{exercise}", seed)' not in cell["source"]:
        raise InputError(f'{name}: check {key!r} needs `with exercise("{exercise}", seed) as ex:`')
    return Exercise(exercise, points, tuple(answers))


def without_solutions(source: str, stub: Sequence[str] = STUB) -> str:
    """An answer cell as it is released: each solution becomes ``stub`` at the same indent."""
    kept = []
    for line, mark in _marked_lines(source, "SOLUTION"):
        if mark == "BEGIN":
            indent = line[: len(line) - len(line.lstrip())]
            kept += [indent + text for text in stub]
        elif mark is None:
            kept.append(line)
    return "\n".join(kept)


def _blank(cell: Cell) -> str:
    return without_solutions(cell["source"], STUB if cell["cell_type"] == "code" else TEXT_STUB)


def without_hidden(source: str) -> str:
    """A check cell as it is released: the hidden checks are gone."""
    return "\n".join(line for line, mark in _marked_lines(source, "HIDDEN TESTS") if mark is None)


def _marked_lines(source: str, kind: str) -> list[tuple[str, str | None]]:
    """Each line with None outside a region, ``BEGIN`` for its first line, else ``inside``."""
    lines: list[tuple[str, str | None]] = []
    inside = False
    for line in source.splitlines():
        mark = _MARK.search(line)
        if mark is None:
            if _LIKE_MARK.search(line):
                raise InputError(f"a mark is misspelt: {line.strip()!r}")
            lines.append((line, "inside" if inside else None))
            continue
        if mark[2] != kind or (mark[1] == "BEGIN") == inside:
            raise InputError(f"a mark stands in the wrong place: {line.strip()!r}")
        inside = mark[1] == "BEGIN"
        lines.append((line, "BEGIN" if inside else "inside"))
    if inside:
        raise InputError(f"### BEGIN {kind} has no ### END {kind}")
    return lines


def released(master: Notebook, name: str = "the lab") -> Notebook:
    """What learners get: solutions and hidden checks taken out, cells locked, no outputs.

    Raises
    ------
    InputError
        The master breaks the protocol or its marks are misplaced.
    """
    exercises(master, name)
    lab = stripped(master)
    for cell in lab["cells"]:
        grading = cell["metadata"].get("nbgrader")
        try:
            if is_answer(cell):
                if not _MARK.search(cell["source"]):
                    raise InputError("an answer cell has no solution marks")
                cell["source"] = _blank(cell)
            elif is_check(cell):
                cell["source"] = without_hidden(cell["source"])
            elif _LIKE_MARK.search(cell["source"]):
                raise InputError("a mark stands outside answers and checks")
        except InputError as error:
            raise InputError(
                f"{name}: cell {grade_id(cell) or cell.get('id')!r}: {error}"
            ) from None
        if grading:
            cell["metadata"]["deletable"] = False
            if grading.get("locked"):
                cell["metadata"]["editable"] = False
    lab["metadata"][KEY] = {**lab["metadata"][KEY], "release": ""}
    lab["metadata"][KEY]["release"] = digest_bytes(dumps(lab).encode())
    return lab


def public(master: Notebook) -> Notebook:
    """The master with its solutions and without its hidden checks."""
    result = copy.deepcopy(master)
    for cell in code_cells(result):
        if is_check(cell):
            cell["source"] = without_hidden(cell["source"])
    return result


def blanked(master: Notebook, names: Mapping[str, Any] | set[str]) -> Notebook:
    """The master with the answers of these exercises taken out, as a learner would leave them."""
    result = copy.deepcopy(master)
    blank = {
        a for exercise in exercises(master) if exercise.name in names for a in exercise.answers
    }
    for cell in result["cells"]:
        if grade_id(cell) in blank:
            cell["source"] = _blank(cell)
    return result

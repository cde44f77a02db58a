"""The results as tables: ``results.csv``, and the files that Canvas and Moodle import.

A cell that begins as a formula would be run by a spreadsheet; it gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from enum import StrEnum

from aiinfra_lab.grading.intake import lms_name
from aiinfra_lab.grading.names import one_line
from aiinfra_lab.grading.results import BatchResult, ExerciseResult, SubmissionResult
from aiinfra_lab.grading.roster import Roster


class Format(StrEnum):
    """A learning management system whose gradebook takes a CSV file."""

    CANVAS = "canvas"
    MOODLE = "moodle"


def results_csv(result: BatchResult) -> str:
    """One line a learner: id, name, points, of, the points of each exercise, state, reason."""
    names = exercise_names(result)
    rows = [
        [
            row.id,
            row.name,
            f"{row.points:g}",
            f"{row.of:g}",
            *_by_exercise(row, names),
            row.state,
            one_line(row.reason),
        ]
        for row in result.submissions
    ]
    return _csv(["id", "name", "points", "of", *names, "state", "reason"], rows)


def exercise_names(result: BatchResult) -> list[str]:
    """The exercises of the lab, as the first judged row has them."""
    judged = [row for row in result.submissions if row.exercises]
    return [mark.exercise for mark in judged[0].exercises] if judged else []


def _by_exercise(row: SubmissionResult, names: Sequence[str]) -> list[str]:
    earned = {mark.exercise: _earned(mark) for mark in row.exercises}
    return [earned.get(name, "") for name in names]


def _earned(mark: ExerciseResult) -> str:
    """Pending points are neither earned nor lost, so they are no number."""
    return "pending" if mark.status == "pending" else f"{mark.earned:g}"


def gradebook(result: BatchResult, form: Format, roster: Roster | None = None) -> str:
    """The CSV file that the gradebook of an LMS imports.

    Only full verdicts are in it: an empty grade leaves what stands in the gradebook as it is.
    """
    return (_canvas if form is Format.CANVAS else _moodle)(result, roster or Roster())


def _canvas(result: BatchResult, roster: Roster) -> str:
    """Canvas's gradebook import finds a learner by ID, else by login, else by name.

    The columns and the second line are those of its own export (``gradebook_importer.rb``).
    """
    header = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", result.title]
    rows = [["    Points Possible", "", "", "", "", f"{result.of:g}"]]
    for row in result.submissions:
        number = _number(row)
        login = "" if number == row.id else row.id
        rows.append([_name(row, roster), number, "", login, "", _grade(row)])
    return _csv(header, rows)


def _moodle(result: BatchResult, roster: Roster) -> str:
    """Moodle's "Upload grading worksheet" finds a learner by Identifier.

    It needs the columns Identifier, Grade and Last modified (grade), and takes Feedback comments
    (``mod/assign/feedback/offline/importgradeslib.php``).
    """
    header = [
        "Identifier",
        "Full name",
        "Email address",
        "Grade",
        "Maximum Grade",
        "Last modified (grade)",
        "Feedback comments",
    ]
    rows = []
    for row in result.submissions:
        learner = roster.find(row.id)
        identifier = f"Participant {number}" if (number := _number(row)) else row.id
        email = learner.email if learner else ""
        most = f"{result.of:g}"
        # Moodle reads the comments as HTML.
        comments = html.escape(_comments(row), quote=False)
        rows.append([identifier, _name(row, roster), email, _grade(row), most, "-", comments])
    return _csv(header, rows)


def _name(row: SubmissionResult, roster: Roster) -> str:
    learner = roster.find(row.id)
    return row.name or (learner.name if learner else "") or row.id


def _number(row: SubmissionResult) -> str:
    """What the LMS calls the learner: in the file's name, also where a roster gave another id."""
    named = [match["id"] for path in row.files if (match := lms_name(path))]
    return named[-1] if named else row.id if row.id.isdecimal() else ""


def _grade(row: SubmissionResult) -> str:
    return f"{row.points:g}" if row.state == "graded" else ""


def _comments(row: SubmissionResult) -> str:
    marks = [
        f"{mark.exercise} {_earned(mark)}/{mark.points:g}"
        + (f": {one_line(mark.reason)}" if mark.reason else "")
        for mark in row.exercises
    ]
    return "; ".join([*marks, *([one_line(row.reason)] if row.reason else [])])


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # The mark at the beginning tells Excel that this is UTF-8; Canvas and Moodle skip it.
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for line in (header, *rows):
        writer.writerow([no_formula(cell) for cell in line])
    return "\ufeff" + text.getvalue()


def no_formula(cell: str) -> str:
    """The cell, with an apostrophe before it where a spreadsheet would take it for a formula."""
    # Blanks before it do not keep a spreadsheet from running it; a lone dash is none.
    return f"'{cell}" if cell != "-" and cell.lstrip().startswith(("=", "+", "-", "@")) else cell

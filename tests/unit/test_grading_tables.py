"""The tables: what a spreadsheet or a gradebook would make of them."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest

from aiinfra_lab.grading.results import BatchResult, SubmissionResult
from aiinfra_lab.grading.roster import Learner, Roster
from aiinfra_lab.grading.tables import Format, gradebook, no_formula, results_csv


def mark(name, points, status="passed", reason=""):
    earned = points if status == "passed" else 0
    return {
        "exercise": name,
        "points": points,
        "earned": earned,
        "status": status,
        "reason": reason,
    }


def row(learner, *marks, state="graded", **fields):
    points = sum(m["earned"] for m in marks)
    fields = {
        "id": learner,
        "state": state,
        "points": points,
        "of": 7.5,
        "exercises": marks,
    } | fields
    return SubmissionResult.model_validate(fields)


def batch(*rows):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return BatchResult(
        lab="03",
        title="Breaker",
        course_version="1",
        master="sha256:m",
        seed="0a",
        started=now,
        ended=now,
        walls=(),
        of=7.5,
        submissions=rows,
    )


ADA = row("ada", mark("one", 5), mark("two", 2.5, "not yet", "your <code>\nraised"), name="Ada L")
BOB = row("123", mark("one", 5), mark("two", 2.5))
EVE = row("eve", mark("one", 5), mark("two", 2.5, "pending"), state="pending")
ZOE = row("zoe", state="missing", reason="on the roster, and no file")
BATCH = batch(ADA, BOB, EVE, ZOE)


def lines(text):
    assert text.startswith("\ufeff")  # else Excel takes it for another encoding
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def test_the_results_have_a_column_for_each_exercise():
    assert lines(results_csv(BATCH)) == [
        ["id", "name", "points", "of", "one", "two", "state", "reason"],
        ["ada", "Ada L", "5", "7.5", "5", "0", "graded", ""],
        ["123", "", "7.5", "7.5", "5", "2.5", "graded", ""],
        ["eve", "", "5", "7.5", "5", "pending", "pending", ""],
        ["zoe", "", "0", "7.5", "", "", "missing", "on the roster, and no file"],
    ]


def test_a_comment_gives_no_number_for_points_that_wait():
    waits = row("eve", mark("essay", 4, "pending", "marked by hand"), state="pending")
    (line,) = lines(gradebook(batch(waits), Format.MOODLE))[1:]
    assert (line[3], line[-1]) == ("", "essay pending/4: marked by hand")


def test_results_without_any_verdict_are_a_table_too():
    assert lines(results_csv(batch(ZOE)))[0] == ["id", "name", "points", "of", "state", "reason"]


def test_canvas_reads_who_it_is_and_full_verdicts_only():
    assert lines(gradebook(BATCH, Format.CANVAS)) == [
        ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Breaker"],
        ["    Points Possible", "", "", "", "", "7.5"],
        ["Ada L", "", "", "ada", "", "5"],
        ["123", "123", "", "", "", "7.5"],
        ["eve", "", "", "eve", "", ""],
        ["zoe", "", "", "zoe", "", ""],
    ]


def test_moodle_reads_the_participant_the_grade_and_comments():
    roster = Roster([Learner("123", "Bob", "bob@x")])
    header, ada, bob, eve, zoe = lines(gradebook(BATCH, Format.MOODLE, roster))
    assert {"Identifier", "Grade", "Last modified (grade)", "Feedback comments"} <= set(header)
    assert bob[:5] == ["Participant 123", "Bob", "bob@x", "7.5", "7.5"]
    assert ada[0] == "ada"
    assert ada[-1] == "one 5/5; two 0/2.5: your &lt;code&gt; raised"
    assert (eve[3], zoe[3]) == ("", "")
    assert zoe[-1] == "on the roster, and no file"


@pytest.mark.parametrize(
    ("form", "path", "found"),
    [
        (Format.MOODLE, "Ada L_77_assignsubmission_file_/x.ipynb", ["Participant 77", "Ada L"]),
        (Format.CANVAS, "ladal_77_88_x.ipynb", ["Ada L", "77", "", "ada"]),
    ],
)
def test_the_number_of_the_lms_is_kept_where_a_roster_gave_another_id(form, path, found):
    result = batch(row("ada", mark("one", 5), name="Ada L", files=(path,)))
    assert lines(gradebook(result, form))[-1][: len(found)] == found


@pytest.mark.parametrize(
    ("cell", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1+2", "'-1+2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ("-", "-"),
        ("ada", "ada"),
        ("1=1", "1=1"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(cell, safe):
    assert no_formula(cell) == safe


def test_names_and_reasons_of_strangers_are_no_formulas():
    result = batch(row("=cmd|' /C calc'!A0", name="@x", reason="-2+3", state="unreadable"))
    for text in (results_csv(result), *(gradebook(result, form) for form in Format)):
        for line in lines(text):
            assert not any(cell.startswith(("=", "+", "@", "-2")) for cell in line)

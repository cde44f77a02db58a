"""Answers that differ from a master's, marked as a learner's would be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aiinfra_lab.course.checking import Lab, Mark, judge
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.masters import grade_id
from aiinfra_lab.course.notebooks import Notebook, code_cells, read_notebook
from aiinfra_lab.course.runner import LocalExecutor
from aiinfra_lab.course.submissions import read_submission, rebuilt

COURSE = Course(Path(__file__).resolve().parents[2])


def read_master(name: str) -> Notebook:
    """The master of the lab called ``name``."""
    return read_notebook(COURSE.masters / f"{name}.ipynb")


def edited(master: Notebook, exercise: str, mistake: str, edits: Mapping[str, str]) -> str:
    """The master's answer to ``exercise`` with ``edits`` (old → new), each of which must fit."""
    source: str = next(c["source"] for c in master["cells"] if grade_id(c) == exercise)
    for old, new in edits.items():
        assert old in source, f"{mistake}: the master has no {old!r} any more"
        source = source.replace(old, new)
    return source


def marks_of(
    name: str, master: Notebook, answers: Mapping[str, tuple[str, str]]
) -> dict[str, Mark]:
    """The mark of every answer (its name → its exercise and source), by its name.

    All are tried in one kernel, one after the other: the answer is defined, then its check runs.
    """
    lab = Lab.load(COURSE, name)
    submission = read_submission(master, master)
    notebook = rebuilt(master, submission.answers, seed=lab.seed, blocked=lab.metadata.answers)
    cells = {grade_id(cell): cell for cell in code_cells(notebook)}
    tried = copy.deepcopy(notebook)
    for i, (exercise, source) in enumerate(answers.values()):
        answer, check = cells[exercise], cells[f"{exercise}-check"]
        tried["cells"] += [
            {**answer, "id": f"answer-{i}", "source": source},
            {**check, "id": f"check-{i}"},
        ]
    runs = LocalExecutor().run({name: tried})[name]
    found = {}
    for i, (title, (exercise, _)) in enumerate(answers.items()):
        replaced = {
            cells[exercise]["id"]: runs[f"answer-{i}"],
            cells[f"{exercise}-check"]["id"]: runs[f"check-{i}"],
        }
        one = tuple(e for e in lab.exercises if e.name == exercise)
        report = judge(replace(lab, exercises=one), submission, notebook, {**runs, **replaced})
        (found[title],) = report.marks
    return found

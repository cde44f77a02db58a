"""Lab 06 finds the mistakes that people make with many ranks, and names them.

Each wrong answer differs from the master in one idea. Its exercise must fail in the record that is
about this idea, so that the first thing the learner reads is the right hint.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from lab06_answers import ALL, ANOTHER_WAY, RAISES, WRONG, Wrong

from aiinfra_lab.course.checking import Lab, Mark, judge
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.masters import grade_id
from aiinfra_lab.course.notebooks import code_cells, read_notebook
from aiinfra_lab.course.runner import LocalExecutor
from aiinfra_lab.course.submissions import read_submission, rebuilt

COURSE = Course(Path(__file__).resolve().parents[2])
NAME = "06_distributed_training"
MASTER = read_notebook(COURSE.masters / f"{NAME}.ipynb")


def _edited(exercise: str, mistake: str, edits: dict[str, str]) -> str:
    if ALL in edits:
        return edits[ALL]
    source: str = next(c["source"] for c in MASTER["cells"] if grade_id(c) == exercise)
    for old, new in edits.items():
        assert old in source, f"{mistake}: the master has no {old!r} any more"
        source = source.replace(old, new)
    return source


def _answers() -> dict[str, tuple[str, str]]:
    """Every answer that is tried: its name, its exercise and its source."""
    wrong = {
        f"{w.exercise}: {w.mistake}": (w.exercise, _edited(w.exercise, w.mistake, w.edits))
        for w in WRONG
    }
    right = {f"{name}: in another way": (name, source) for name, source in ANOTHER_WAY.items()}
    raises = {
        name: (exercise, _edited(exercise, name, edits))
        for name, (exercise, edits, _) in RAISES.items()
    }
    return wrong | right | raises


@pytest.fixture(scope="module")
def marks() -> dict[str, Mark]:
    """The mark of every answer, by its name.

    All are tried in one kernel, one after the other: the answer is defined, then its check runs.
    """
    lab = Lab.load(COURSE, NAME)
    submission = read_submission(MASTER, MASTER)
    notebook = rebuilt(MASTER, submission.answers, seed=lab.seed, blocked=lab.metadata.answers)
    cells = {grade_id(cell): cell for cell in code_cells(notebook)}
    tried = copy.deepcopy(notebook)
    for i, (exercise, source) in enumerate(_answers().values()):
        answer, check = cells[exercise], cells[f"{exercise}-check"]
        tried["cells"] += [
            {**answer, "id": f"answer-{i}", "source": source},
            {**check, "id": f"check-{i}"},
        ]
    runs = LocalExecutor().run({NAME: tried})[NAME]
    found = {}
    for i, (name, (exercise, _)) in enumerate(_answers().items()):
        replaced = {
            cells[exercise]["id"]: runs[f"answer-{i}"],
            cells[f"{exercise}-check"]["id"]: runs[f"check-{i}"],
        }
        one = tuple(e for e in lab.exercises if e.name == exercise)
        report = judge(replace(lab, exercises=one), submission, notebook, {**runs, **replaced})
        (found[name],) = report.marks
    return found


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.exercise}: {w.mistake}")
def test_a_mistake_fails_in_the_record_that_is_about_it(
    wrong: Wrong, marks: dict[str, Mark]
) -> None:
    mark = marks[f"{wrong.exercise}: {wrong.mistake}"]

    assert mark.status == "not yet"
    assert mark.differences, mark.reason
    first = mark.differences[0]
    assert (first.record, mark.reason) == (wrong.record, mark.reason)
    assert first.hint
    assert mark.reason.endswith(first.hint)


@pytest.mark.parametrize("exercise", ANOTHER_WAY)
def test_another_right_answer_passes(exercise: str, marks: dict[str, Mark]) -> None:
    mark = marks[f"{exercise}: in another way"]

    assert (mark.status, mark.reason) == ("passed", "")


@pytest.mark.parametrize("name", RAISES)
def test_an_error_of_the_learner_is_told_in_its_own_words(
    name: str, marks: dict[str, Mark]
) -> None:
    _, _, words = RAISES[name]

    assert marks[name].status == "not yet"
    for word in words:
        assert word in marks[name].reason

"""Verdicts on what a submission left behind: a dead kernel, messages without their fields."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import cell_of, code, graded, markdown, master

from aiinfra_lab.course.checking import Lab
from aiinfra_lab.course.judgement import exercise_output
from aiinfra_lab.course.masters import exercises
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import code_cells
from aiinfra_lab.course.records import Record
from aiinfra_lab.course.runner import CellRun
from aiinfra_lab.course.submissions import read_submission, rebuilt
from aiinfra_lab.grading.runs import Run
from aiinfra_lab.grading.verdicts import verdict

MASTER = master()
MASTER["cells"].insert(-2, graded(code("own", "the_labs_own = 1")))
SUBMISSION = read_submission(MASTER, MASTER)
NOTEBOOK = rebuilt(MASTER, SUBMISSION.answers, seed=99, blocked=())
GIVEN = {
    f"{name}-check": [exercise_output(name, [Record("visible", 1).to_json()], "")]
    for name in ("double", "half")
}
LAB = Lab(read_metadata(MASTER, "m"), MASTER, tuple(exercises(MASTER)), 99, GIVEN, {})


def verdict_on(limit="", **changed):
    cells = {c["id"]: CellRun(c["id"], GIVEN.get(c["id"], [])) for c in code_cells(NOTEBOOK)}
    for cell_id, (outputs, failure) in changed.items():
        cells[cell_id.replace("_", "-")] = CellRun(cell_id, outputs, failure)
    return verdict(LAB, "ada", SUBMISSION, NOTEBOOK, Run(cells, limit=limit))


def test_everything_in_order_has_all_points():
    row = verdict_on()
    assert (row.points, row.of, row.state, row.reason) == (10, 10, "graded", "")


def test_a_kernel_that_died_costs_what_came_after_it_and_is_not_the_labs_fault():
    died = ([], "the kernel died")
    row = verdict_on(own=died, half=died, half_check=died, limit="it took all its memory")
    assert [(e.exercise, e.earned) for e in row.exercises] == [("double", 5), ("half", 0)]
    assert row.exercises[1].reason == "the kernel died"
    assert row.reason == "the run was ended: it took all its memory"


def test_an_error_in_the_labs_own_cell_is_not_the_learners_fault():
    error = {"output_type": "error", "ename": "OSError", "evalue": "disk"}
    row = verdict_on(own=([error], "failed"), half_check=([], "failed"))
    assert row.points == 5
    assert row.exercises[1].reason == (
        "the lab's own cell 'own' failed, which is not your fault: OSError: disk"
    )


@pytest.mark.parametrize("cell", ["half", "own"])
@pytest.mark.parametrize(
    "error", [{"output_type": "error"}, {"output_type": "error", "ename": [1], "evalue": None}]
)
def test_an_error_without_its_description_costs_its_check_only(cell, error):
    row = verdict_on(**{cell: ([error], "failed"), "half_check": ([], "failed")})
    assert (row.points, row.state) == (5, "graded")
    assert row.exercises[1].status == "not yet"


def test_what_cannot_be_compared_waits_for_a_person(monkeypatch):
    from aiinfra_lab.grading import verdicts

    def failing(*_):
        raise RecursionError

    monkeypatch.setattr(verdicts, "judge", failing)
    row = verdict_on()
    assert (row.points, row.of, row.state) == (0, 10, "pending")
    assert {e.status for e in row.exercises} == {"pending"}


def _differing(public):
    hidden = exercise_output("half", [Record("hidden", 2).to_json()], "")
    given = {**GIVEN, "half-check": [hidden]}
    cells = {c["id"]: CellRun(c["id"], GIVEN.get(c["id"], [])) for c in code_cells(NOTEBOOK)}
    lab = replace(LAB, reference=given, public=public)
    return verdict(lab, "ada", SUBMISSION, NOTEBOOK, Run(cells)).exercises[1]


def test_a_lab_without_visible_results_does_not_say_that_they_agree():
    unseen = _differing({})
    assert unseen.reason == ("a result that the lab does not show differs: think of unusual inputs")
    seen = _differing({"half": [{"name": "another"}]})
    assert seen.reason.startswith("the visible results agree, a hidden one differs")


def test_a_row_that_was_not_run_took_no_time():
    cells = {c["id"]: CellRun(c["id"], GIVEN.get(c["id"], [])) for c in code_cells(NOTEBOOK)}
    run = Run(cells, seconds=2.0, cpu_s=1.5)
    own = verdict(LAB, "ada", SUBMISSION, NOTEBOOK, run)
    same = verdict(LAB, "bob", SUBMISSION, NOTEBOOK, run, same_as="ada")
    assert (own.seconds, own.cpu_s) == (2.0, 1.5)
    assert (same.seconds, same.cpu_s, same.points) == (0.0, 0.0, 10)


@pytest.mark.parametrize("place", [0, 4, 6, None])
@pytest.mark.parametrize("make", [code, markdown])
def test_an_answer_that_a_person_marks_is_pending_in_its_place(make, place):
    made = master()
    essay = graded(
        make("essay", "### BEGIN SOLUTION\nwhy\n### END SOLUTION"),
        solution=True,
        grade=True,
        points=4,
        locked=False,
    )
    made["cells"].insert(len(made["cells"]) if place is None else place, essay)
    lab = replace(LAB, master=made, exercises=tuple(exercises(made)))
    submission = read_submission(made, made)
    notebook = rebuilt(made, submission.answers, seed=99, blocked=())
    cells = {c["id"]: CellRun(c["id"], GIVEN.get(c["id"], [])) for c in code_cells(notebook)}
    row = verdict(lab, "ada", submission, notebook, Run(cells))
    assert (row.state, row.points, row.of) == ("pending", 10, 14)
    order = {0: ["essay", "double", "half"], 4: ["essay", "double", "half"]}
    assert [e.exercise for e in row.exercises] == order.get(
        place, ["double", *(["essay", "half"] if place == 6 else ["half", "essay"])]
    )
    pending = next(e for e in row.exercises if e.exercise == "essay")
    assert (pending.status, pending.earned, pending.points) == ("pending", 0, 4)
    assert pending.reason == "marked by hand"
    assert [e.answers for e in lab.exercises] == [("double",), ("half",)]


def test_of_a_lab_counts_what_a_person_marks():
    from aiinfra_lab.grading.verdicts import points_of

    made = master()
    grading = cell_of(made, "double")["metadata"]["nbgrader"]
    grading.update(grade=True, points=4)
    assert points_of(replace(LAB, master=made)) == 14

"""From a run to a row: the verdict on one submission, in words that are safe to show."""

from __future__ import annotations

from aiinfra_lab.course.checking import Lab, Mark, judge
from aiinfra_lab.course.masters import grade_id, marked_by_hand
from aiinfra_lab.course.notebooks import Notebook
from aiinfra_lab.course.submissions import Submission
from aiinfra_lab.grading.names import plain_text
from aiinfra_lab.grading.results import ExerciseResult, ShownDifference, SubmissionResult
from aiinfra_lab.grading.runs import Run

_BY_HAND = "marked by hand"


def verdict(
    lab: Lab, learner: str, submission: Submission, notebook: Notebook, run: Run, same_as: str = ""
) -> SubmissionResult:
    """The row of ``learner``, whose answers were run as ``notebook``.

    Answers that a person marks are pending, and so is a run that cannot be compared. A row that
    is ``same_as`` another took no time of its own.
    """
    reason = ""
    try:
        marks = [_result(mark) for mark in judge(lab, submission, notebook, run.cells).marks]
    except Exception as error:
        # A comparison must not fail, whatever it is given; if it does, a person has to look.
        reason = f"the grader could not compare the results ({type(error).__name__})"
        marks = [_pending(exercise.name, exercise.points) for exercise in lab.exercises]
    marks = _in_order(lab, marks + by_hand(lab.master))
    pending = any(mark.status == "pending" for mark in marks)
    limit = plain_text(run.limit)
    return SubmissionResult(
        id=learner,
        state="pending" if pending else "graded",
        same_as=same_as,
        points=sum(mark.earned for mark in marks),
        of=sum(mark.points for mark in marks),
        exercises=tuple(marks),
        reason=reason or (f"the run was ended: {limit}" if limit else ""),
        limit=limit,
        seconds=0.0 if same_as else run.seconds,
        cpu_s=0.0 if same_as else run.cpu_s,
    )


def points_of(lab: Lab) -> float:
    """The points of a lab, those included that a person gives."""
    return sum(e.points for e in lab.exercises) + sum(m.points for m in by_hand(lab.master))


def by_hand(master: Notebook) -> list[ExerciseResult]:
    """The answers that a person marks: nbgrader's cells that are graded and hold an answer."""
    return [_pending(name, points, _BY_HAND) for name, points in marked_by_hand(master).items()]


def _in_order(lab: Lab, marks: list[ExerciseResult]) -> list[ExerciseResult]:
    """The marks as their cells stand in the lab."""
    checks = {exercise.name: exercise.check for exercise in lab.exercises}
    places = {grade_id(cell): place for place, cell in enumerate(lab.master["cells"])}
    return sorted(marks, key=lambda mark: places[checks.get(mark.exercise, mark.exercise)])


def _pending(name: str, points: float, reason: str = "") -> ExerciseResult:
    return ExerciseResult(exercise=name, points=points, earned=0, status="pending", reason=reason)


def _result(mark: Mark) -> ExerciseResult:
    shown = tuple(
        ShownDifference(
            record=plain_text(d.record),
            where=plain_text(d.where),
            expected=plain_text(d.expected),
            found=plain_text(d.found),
            hint=plain_text(d.hint),
        )
        for d in mark.differences
    )
    return ExerciseResult(
        exercise=mark.exercise,
        points=mark.points,
        earned=mark.earned,
        status=mark.status,
        reason=plain_text(mark.reason),
        differences=shown,
    )

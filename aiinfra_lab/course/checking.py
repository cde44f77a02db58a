"""``check``: the verdict on one submission, by the master's checks and its results.

The submission's answers are put into the master, the master is run, and what its checks emit is
compared here, in a process in which no submitted code runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiinfra_lab.course.comparison import Difference
from aiinfra_lab.course.exercises import Raised
from aiinfra_lab.course.judgement import differences_in, exercise_output, is_check, raised_in
from aiinfra_lab.course.layout import Course
from aiinfra_lab.course.masters import Exercise, exercises, grade_id, is_answer
from aiinfra_lab.course.metadata import NotebookMetadata, read_metadata
from aiinfra_lab.course.notebooks import Cell, Notebook, code_cells, read_notebook
from aiinfra_lab.course.runner import CellRun, Executor, LocalExecutor
from aiinfra_lab.course.submissions import Submission, read_submission, rebuilt
from aiinfra_lab.errors import InputError, NotebookError

Status = Literal["passed", "not yet", "not started"]
Outputs = dict[str, list[dict[str, Any]]]

PUBLIC_ONLY = "these are the checks that you can see in the lab; grading has more"


@dataclass(frozen=True)
class Mark:
    """The verdict on one exercise; all of its points or none.

    ``differences`` are those of visible results: what is hidden stays so.
    """

    exercise: str
    points: float
    status: Status
    reason: str = ""
    differences: tuple[Difference, ...] = ()

    @property
    def earned(self) -> float:
        """The points this exercise brings."""
        return self.points if self.status == "passed" else 0.0


@dataclass(frozen=True)
class CheckReport:
    """The verdict on a submission."""

    lab: str
    marks: tuple[Mark, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def points(self) -> float:
        """Points earned."""
        return sum(mark.earned for mark in self.marks)

    @property
    def of(self) -> float:
        """Points that can be earned."""
        return sum(mark.points for mark in self.marks)

    @property
    def passed(self) -> bool:
        """Whether every exercise is right."""
        return all(mark.status == "passed" for mark in self.marks)

    def to_json(self) -> dict[str, Any]:
        """The report as one JSON document."""
        marks = [dataclasses.asdict(mark) | {"earned": mark.earned} for mark in self.marks]
        totals = {"points": self.points, "of": self.of, "passed": self.passed}
        return {"lab": self.lab, **totals, "marks": marks, "notes": list(self.notes)}


@dataclass(frozen=True)
class Lab:
    """A lab as its grader knows it: the master, and what it gives under one seed.

    With ``public_only`` the released lab stands for the master: nothing hidden is checked.
    """

    metadata: NotebookMetadata
    master: Notebook
    exercises: tuple[Exercise, ...]
    seed: int
    reference: Outputs
    public: Mapping[str, list[Any]]
    public_only: bool = False

    @classmethod
    def load(
        cls,
        course: Course,
        identifier: str,
        seed: int | None = None,
        executor: Executor | None = None,
    ) -> Lab:
        """Read lab ``identifier``; with another seed than the public one its master is run.

        In a release, which has no masters, the public checks and results stand in for it.

        Raises
        ------
        InputError
            There is no such lab; or a release is asked for another seed, or lacks results.
        """
        folder = course.labs if course.is_release else course.masters
        path = course.notebook(folder, identifier)
        master = read_notebook(path)
        metadata = read_metadata(master, path.name)
        found = tuple(exercises(master, path.name))
        chosen = metadata.seed if seed is None else seed
        public = course.results(path)
        if course.is_release:
            if chosen != metadata.seed:
                raise InputError("another seed needs the masters, which a release does not have")
            if missing := [e.name for e in found if e.name not in public]:
                raise InputError(
                    f"the public results of {missing[0]} are not there",
                    fix=f"Take {course.expected(path).relative_to(course.root)} anew.",
                )
            reference = {e.check: [exercise_output(e.name, public[e.name], "")] for e in found}
        elif chosen == metadata.seed:
            reference = {grade_id(cell): cell["outputs"] for cell in code_cells(master)}
        else:
            reference = _executed(master, metadata, chosen, executor or LocalExecutor())
        return cls(metadata, master, found, chosen, reference, public, course.is_release)


def _executed(
    master: Notebook, metadata: NotebookMetadata, seed: int, executor: Executor
) -> Outputs:
    """The master's outputs under another seed, by ``grade_id``."""
    notebook = with_own_answers(master, seed)
    runs = executor.run({metadata.stem: notebook})[metadata.stem]
    return outputs_of_master(metadata.stem, notebook, runs)


def with_own_answers(master: Notebook, seed: int) -> Notebook:
    """The master as a submission to itself, nothing executed yet."""
    answers = read_submission(master, master).answers
    return rebuilt(master, answers, seed=seed, blocked=())


def outputs_of_master(name: str, notebook: Notebook, runs: Mapping[str, CellRun]) -> Outputs:
    """What the cells of a master gave, by ``grade_id``.

    Raises
    ------
    NotebookError
        A cell failed, or a check was ended by an error: nothing may be judged by it.
    """
    outputs: Outputs = {}
    for cell in code_cells(notebook):
        run = runs[cell["id"]]
        if run.failure or raised_in(run.outputs):
            tail = run.failure or str(raised_in(run.outputs))
            raise NotebookError(f"{name}: the master itself fails", cell=run.cell, tail=tail)
        outputs[grade_id(cell)] = run.outputs
    return outputs


def check(lab: Lab, notebook: Notebook, *, executor: Executor | None = None) -> CheckReport:
    """The verdict on a learner's notebook."""
    return check_many(lab, {"submission": notebook}, executor=executor)["submission"]


def check_many(
    lab: Lab, notebooks: Mapping[str, Notebook], *, executor: Executor | None = None
) -> dict[str, CheckReport]:
    """The verdicts on several notebooks of one lab, by their keys."""
    submissions = {key: read_submission(n, lab.master) for key, n in notebooks.items()}
    rebuilds = {
        key: rebuilt(lab.master, submission.answers, seed=lab.seed, blocked=lab.metadata.answers)
        for key, submission in submissions.items()
    }
    runs = (executor or LocalExecutor()).run(rebuilds)
    return {key: judge(lab, submissions[key], rebuilds[key], runs[key]) for key in notebooks}


def judge(
    lab: Lab, submission: Submission, notebook: Notebook, runs: Mapping[str, CellRun]
) -> CheckReport:
    """The verdict on what the cells of a rebuilt notebook gave."""
    cells = {grade_id(cell): cell for cell in code_cells(notebook) if grade_id(cell)}
    marks = tuple(_mark(lab, exercise, submission, cells, runs) for exercise in lab.exercises)
    notes = [*submission.notes, *([PUBLIC_ONLY] if lab.public_only else [])]
    return CheckReport(lab.metadata.id, marks, tuple(notes))


def _mark(
    lab: Lab,
    exercise: Exercise,
    submission: Submission,
    cells: Mapping[str, Cell],
    runs: Mapping[str, CellRun],
) -> Mark:
    run = runs[cells[exercise.check]["id"]]
    answers = [runs[cells[key]["id"]] for key in exercise.answers]
    differences = differences_in(lab.reference[exercise.check], run.outputs)
    if not differences and not run.failure:
        return Mark(exercise.name, exercise.points, "passed")
    if own := _own_failure(lab, runs):
        return Mark(exercise.name, exercise.points, "not yet", own)
    raised = _raised(run, answers)
    if raised is not None and raised.is_stub:
        reason = "fill in the answer cell"
        return Mark(exercise.name, exercise.points, "not started", reason)
    shown = {record["name"] for record in lab.public.get(exercise.name, [])}
    public = tuple(d for d in differences if d.record in shown)
    reason = _reason(exercise, submission, run, shown, public, raised)
    return Mark(exercise.name, exercise.points, "not yet", reason, public)


def _own_failure(lab: Lab, runs: Mapping[str, CellRun]) -> str:
    """What went wrong in a cell that is not the learner's; their answers are not to blame."""
    for cell in code_cells(lab.master):
        run = runs.get(cell["id"])
        # A kernel that died, or was ended by a limit, is not the fault of the cells after it.
        if run and (error := run.error) and not is_answer(cell) and not is_check(cell):
            return (
                f"the lab's own cell {cell['id']!r} failed, which is not your fault: "
                f"{_error(error)}"
            )
    return ""


def _error(output: Mapping[str, Any], where: str = "") -> Raised:
    """An error as Jupyter describes it; a stranger's kernel may leave the description out."""
    ename, evalue = (str(output.get(key, "")) for key in ("ename", "evalue"))
    return Raised(ename or "an error", evalue, where=where)


def _raised(run: CellRun, answers: list[CellRun]) -> Raised | None:
    """The error to blame: that of an answer cell comes before what it caused in the check."""
    for answer in answers:
        if error := answer.error:
            return _error(error, where="the answer cell")
    try:
        return raised_in(run.outputs)
    except ValueError:
        return None


def _reason(
    exercise: Exercise,
    submission: Submission,
    run: CellRun,
    shown: set[str],
    differences: tuple[Difference, ...],
    raised: Raised | None,
) -> str:
    if raised is not None and raised.name in submission.stray_names:
        return (
            f"{raised.name} is defined in cell {submission.stray_names[raised.name]!r}, which is "
            f"not handed in: move it into the answer cell {exercise.answers[-1]!r}"
        )
    if raised is not None:
        where = f" ({raised.where})" if raised.where else ""
        return f"your code raised {raised}{where}"
    if run.failure:
        return run.failure.splitlines()[0]
    if differences:
        return f"{differences[0]}. {differences[0].hint}".strip()
    if not shown:
        return "a result that the lab does not show differs: think of unusual inputs"
    return "the visible results agree, a hidden one differs: think of unusual inputs"


def lab_of(path: Path) -> tuple[NotebookMetadata, Notebook]:
    """The lab that the notebook at ``path`` belongs to, and the notebook.

    Raises
    ------
    InputError
        It is no notebook of a lab.
    """
    notebook = read_notebook(path, strict=False)
    metadata = read_metadata(notebook, path.name)
    if metadata.kind != "lab":
        raise InputError(f"{path.name} is a {metadata.kind}, not a lab")
    return metadata, notebook

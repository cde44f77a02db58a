"""What a batch of grading has found: the schema of ``results.json``, version 1.

Everything a report shows is in here, and nothing of a hidden check: its data, its results and
its hints never leave the grader.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1

Status = Literal["passed", "not yet", "not started", "pending"]
"""``pending`` waits for a person: a cell that is marked by hand."""

State = Literal["graded", "pending", "missing", "unreadable"]
"""``missing``: on the roster, no file. ``unreadable``: a file that is no submission of this lab."""

Points = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wall(_Model):
    """One wall of the sandbox, and whether it stood; ``detail`` says how, or why not."""

    name: str
    stood: bool
    detail: str = ""


class ShownDifference(_Model):
    """A visible result that differed."""

    record: str
    where: str
    expected: str
    found: str
    hint: str


class ExerciseResult(_Model):
    """The verdict on one exercise: all of its points or none."""

    exercise: str
    points: Points
    earned: Points
    status: Status
    reason: str = ""
    differences: tuple[ShownDifference, ...] = ()

    @model_validator(mode="after")
    def _all_or_none(self) -> ExerciseResult:
        if self.earned != (self.points if self.status == "passed" else 0.0):
            raise ValueError("an exercise earns all of its points or none")
        return self


class SubmissionResult(_Model):
    """One learner's row; ``of`` counts pending points too.

    Attributes
    ----------
    id : str
        The learner, as the file name, the folder or the roster has it.
    files : tuple of str
        Relative to the folder of submissions; the last one counts.
    digest : str
        SHA-256 of the file that counts; empty where there is none.
    same_as : str
        The learner whose identical file was run instead; empty where it was run itself.
    reason : str
        Why there is no full verdict; empty where there is one.
    limit : str
        The limit of the sandbox that ended the run; empty where none did.
    seconds, cpu_s : float
        Wall and processor time of the run.
    """

    id: str
    name: str = ""
    state: State
    files: tuple[str, ...] = ()
    digest: str = ""
    same_as: str = ""
    points: Points
    of: Points
    exercises: tuple[ExerciseResult, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    limit: str = ""
    seconds: float = 0.0
    cpu_s: float = 0.0


class BatchResult(_Model):
    """One batch: what was graded by which master, under which seed, behind which walls."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    lab: str
    title: str
    course_version: str
    master: str
    """SHA-256 of the master's file."""
    seed: str
    """Hexadecimal; with it and the master every grade can be had again."""
    started: datetime
    ended: datetime
    walls: tuple[Wall, ...]
    of: Points
    submissions: tuple[SubmissionResult, ...]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

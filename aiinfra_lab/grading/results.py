"""What a batch of grading has found: the model of ``results.json``, version 1.

Whoever reads the file finds its JSON Schema in ``results.schema.json`` beside this module
(``schema``). A new version is one in which a field of the old one has gone or means something else.
Everything a report shows is in here, and nothing of a hidden check: its data, its results and
its hints never leave the grader.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1

Status = Literal["passed", "not yet", "not started", "pending"]
"""``pending`` waits for a person: a cell that is marked by hand."""

State = Literal["graded", "pending", "missing", "unreadable"]
"""``missing``: on the roster, no file. ``unreadable``: a file that is no submission of this lab."""

Points = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Model(BaseModel):
    # Every field is written, the default too: in the schema none is optional.
    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_serialization_defaults_required=True
    )


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
    """One learner's row."""

    id: Annotated[str, Field(description="as the file name, the folder or the roster has it")]
    name: Annotated[str, Field(description="from the roster or the LMS's file name")] = ""
    state: State
    files: Annotated[
        tuple[str, ...],
        Field(description="relative to the folder of submissions; the last one counts"),
    ] = ()
    digest: Annotated[str, Field(description="SHA-256 of the file that counts")] = ""
    same_as: Annotated[
        str, Field(description="the learner whose equal answers were run instead of these")
    ] = ""
    points: Annotated[Points, Field(description="earned; pending ones are not in it")]
    of: Annotated[Points, Field(description="of the lab, the pending ones included")]
    exercises: Annotated[
        tuple[ExerciseResult, ...], Field(description="in the order of the lab")
    ] = ()
    notes: Annotated[
        tuple[str, ...], Field(description="what was unusual about the file; it costs nothing")
    ] = ()
    reason: Annotated[str, Field(description="why there is no full verdict")] = ""
    limit: Annotated[str, Field(description="the limit of the sandbox that ended the run")] = ""
    seconds: Annotated[
        float, Field(ge=0, description="of the run by the clock; 0 where there was none")
    ] = 0.0
    cpu_s: Annotated[
        float, Field(ge=0, description="processor seconds of the run; 0 where there was none")
    ] = 0.0


class BatchResult(_Model):
    """One batch: what was graded by which master, under which seed, behind which walls."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    lab: str
    title: str
    course_version: str
    master: Annotated[str, Field(description="SHA-256 of the master's file")]
    seed: Annotated[
        str,
        Field(description="hexadecimal; with it and the master every grade can be had again"),
    ]
    started: AwareDatetime
    ended: AwareDatetime
    walls: tuple[Wall, ...]
    of: Annotated[Points, Field(description="of the lab, the pending ones included")]
    submissions: tuple[SubmissionResult, ...]

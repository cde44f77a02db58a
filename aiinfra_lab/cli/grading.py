"""``grade``: a folder of submissions by the lab's master, for an instructor."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aiinfra_lab.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from aiinfra_lab.grading.results import BatchResult, SubmissionResult


class Gradebook(StrEnum):
    """Whose gradebook is to import the results."""

    CANVAS = "canvas"
    MOODLE = "moodle"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(grade)


def _print_schema(wanted: bool) -> None:
    if wanted:
        from aiinfra_lab.grading.schema import schema_text

        print(schema_text(), end="")
        raise typer.Exit


def grade(
    lab: Annotated[str, typer.Argument(metavar="LAB", help="A number such as 03.")],
    submissions: Annotated[
        Path,
        typer.Argument(
            metavar="SUBMISSIONS",
            help="A folder with <learner>.ipynb or <learner>/*.ipynb, or an LMS's zip.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="A new folder for the results.")
    ],
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Submissions side by side; a core each by default.")
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="ID", help="Grade this learner alone.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the batch in DIR; nothing is graded twice.")
    ] = False,
    seed: Annotated[
        str, typer.Option("--seed", metavar="HEX", help="Of an earlier batch; secret by default.")
    ] = "",
    roster: Annotated[
        Path | None,
        typer.Option(
            "--roster", metavar="CSV", help="Columns id, name and email: who should be there."
        ),
    ] = None,
    id_from: Annotated[
        str,
        typer.Option(
            "--id-from", metavar="REGEX", help="Whose group id, or first group, is the learner."
        ),
    ] = "",
    require_sandbox: Annotated[
        bool,
        typer.Option("--require-sandbox", help="Refuse where a wall of the sandbox is missing."),
    ] = False,
    gradebook: Annotated[
        Gradebook | None, typer.Option("--format", help="Also write what this gradebook imports.")
    ] = None,
    similar: Annotated[
        bool, typer.Option("--similar", help="Also look for pairs whose answers are alike.")
    ] = False,
    emit_nbval: Annotated[
        Path | None,
        typer.Option(
            "--emit-nbval",
            metavar="DIR",
            help="Also write the notebooks that pytest --nbval judges.",
        ),
    ] = None,
    as_json: JsonOption = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_print_schema,
            is_eager=True,
            help="Print the JSON Schema of results.json, and grade nothing.",
        ),
    ] = False,
) -> None:
    """Grade submissions: every one gets a row, whatever is wrong with it.

    Exit code 0 when all were graded, whatever their points. DIR gets results.json, results.csv,
    report.html, junit.xml and feedback/. Example: aiinfra grade 03 handed-in/ --out graded/
    """
    import asyncio

    from aiinfra_lab.course.layout import Course
    from aiinfra_lab.grading.batch import grade as run
    from aiinfra_lab.grading.orders import Order
    from aiinfra_lab.grading.tables import Format

    order = Order(
        lab=lab,
        submissions=submissions,
        out=out,
        jobs=jobs,
        only=only,
        resume=resume,
        seed=seed,
        roster=roster,
        id_from=id_from,
        require_sandbox=require_sandbox,
        gradebook=Format(gradebook) if gradebook else None,
        similar=similar,
        emit_nbval=emit_nbval,
    )
    result = asyncio.run(run(order, Course.find()))
    for wall in result.walls:
        if not wall.stood:
            print(f"note: missing wall: {wall.name}: {wall.detail}", file=sys.stderr)
    if as_json:
        print_json(result.model_dump(mode="json", by_alias=True))
    else:
        _print(result, out)


def _print(result: BatchResult, out: Path) -> None:
    rows = [
        [row.id, row.state, f"{row.points:g}/{row.of:g}", _why(row)] for row in result.submissions
    ]
    print_table(["id", "state", "points", "why"], rows, status="state")
    graded = sum(row.state in ("graded", "pending") for row in result.submissions)
    print(f"{graded} of {len(rows)} graded; {out / 'report.html'}")


def _why(row: SubmissionResult) -> str:
    """What keeps a row from full points, in a few words; the report says it in full."""
    open_marks = [mark for mark in row.exercises if mark.status != "passed"]
    words = [row.reason] if row.reason else []
    words += [f"{mark.exercise} {mark.status}" for mark in open_marks]
    if row.notes:
        words.append(f"{len(row.notes)} note{'s' if len(row.notes) > 1 else ''}")
    return ", ".join(words)

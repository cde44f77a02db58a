"""``list`` and ``run``: the chapters, and executing one headlessly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aiinfra_lab.cli.output import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from aiinfra_lab.course.layout import Course


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("list")(list_chapters)
    app.command("run")(run)


def list_chapters(as_json: JsonOption = False) -> None:
    """List the chapters and their labs, as their notebooks describe themselves.

    Example: aiinfra list --json
    """
    from aiinfra_lab.course.catalogue import catalogue
    from aiinfra_lab.course.layout import Course

    entries = catalogue(Course.find())
    if as_json:
        print_json([entry.model_dump() for entry in entries])
        return
    print_table(
        ["id", "title", "minutes", "lab", "needs", "status"],
        [
            [e.id, e.title, str(e.minutes or ""), e.lab, " ".join(e.needs), e.status]
            for e in entries
        ],
    )


def run(
    chapter: Annotated[str, typer.Argument(help="A number such as 03, a page's name, or all.")],
    parameters: Annotated[
        list[str],
        typer.Option("-p", "--parameter", help="name=value, checked before anything runs."),
    ] = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the executed notebook is kept.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="A set of parameters from the notebook, such as test.")
    ] = "",
    as_json: JsonOption = False,
) -> int:
    """Execute a chapter headlessly and print its records.

    Example: aiinfra run 00 -p seed=7 -o /tmp/00.ipynb
    """
    from aiinfra_lab.course.layout import Course, notebook_names
    from aiinfra_lab.errors import InputError, NotebookError

    course = Course.find()
    if chapter != "all":
        records = _run_one(course, chapter, parameters, output, preset)
        _print_records(records, as_json)
        return 0
    if parameters or output:
        raise InputError("-p and -o belong to one chapter, not to all")
    results = {}
    for name in notebook_names(course.chapters):
        try:
            results[name] = len(_run_one(course, name, [], None, preset))
            print(f"{name}: {results[name]} records", file=sys.stderr)
        except NotebookError as error:
            results[name] = -1
            print(f"{name}: {error}\n{error.tail}", file=sys.stderr)
    failed = [name for name, count in results.items() if count < 0]
    if as_json:
        print_json({"passed": not failed, "failed": failed})
    else:
        rows = [[n, "failed" if c < 0 else "ok", str(max(c, 0))] for n, c in results.items()]
        print_table(["chapter", "status", "records"], rows)
    return 1 if failed else 0


def _run_one(
    course: Course, chapter: str, assignments: list[str], output: Path | None, preset: str
) -> list[dict[str, Any]]:
    from aiinfra_lab import needs
    from aiinfra_lab.course.execution import execute
    from aiinfra_lab.course.metadata import read_metadata
    from aiinfra_lab.course.notebooks import code_cells, read_notebook
    from aiinfra_lab.course.parameters import parse_assignments, read_parameters, validate
    from aiinfra_lab.course.records import records_in
    from aiinfra_lab.errors import InputError

    given = parse_assignments(assignments)
    path = (
        Path(chapter) if chapter.endswith(".ipynb") else course.notebook(course.chapters, chapter)
    )
    metadata = read_metadata(read_notebook(path), path.name)
    if preset and preset not in metadata.params:
        there = ", ".join(metadata.params) or "none"
        raise InputError(f"there is no preset {preset}", fix=f"There is: {there}.")
    chosen = validate(read_parameters(path), {**metadata.params.get(preset, {}), **given})
    needs.require(*metadata.needs)
    executed = execute(
        path,
        chosen,
        budget_s=metadata.budget_s,
        progress=sys.stderr.isatty(),
        keep=output,
    )
    return [
        {"cell": cell["id"], **record.to_json()}
        for cell in code_cells(executed)
        for record in records_in(cell["outputs"])
    ]


def _print_records(records: list[dict[str, Any]], as_json: bool) -> None:
    from aiinfra_lab.course.records import Record

    if as_json:
        print_json(records)
        return
    for fields in records:
        print(Record.from_json({k: v for k, v in fields.items() if k != "cell"}).text())

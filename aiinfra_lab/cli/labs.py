"""``start``, ``check``, ``reset``, ``submit``: a learner's way through a lab."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from aiinfra_lab.cli.output import JsonOption, print_json, print_table

LabArgument = Annotated[str, typer.Argument(metavar="LAB", help="A number such as 00.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (start, check, reset, submit):
        app.command()(command)


def start(lab: LabArgument) -> None:
    """Copy a lab into work/ and say where it is. A started lab is left as it is.

    Example: aiinfra start 00
    """
    from aiinfra_lab.course import workspace
    from aiinfra_lab.course.layout import Course

    path, new = workspace.start(Course.find(), lab)
    print(_short(path))
    number = path.stem.partition("_")[0]
    print(
        f"Open it in JupyterLab; then: aiinfra check {number}"
        if new
        else "It was already started.",
        file=sys.stderr,
    )


def check(
    lab: Annotated[str, typer.Argument(metavar="LAB", help="A number such as 00, or a notebook.")],
    as_json: JsonOption = False,
) -> int:
    """Check your work: every exercise of the lab, in a fresh kernel, with every check there is.

    Exit code 0 when all are right, else 1. Example: aiinfra check 00
    """
    from aiinfra_lab.course import workspace
    from aiinfra_lab.course.checking import Lab, lab_of
    from aiinfra_lab.course.checking import check as judge
    from aiinfra_lab.course.layout import Course

    course = Course.find()
    path = Path(lab) if lab.endswith(".ipynb") else workspace.worked(course, lab)
    metadata, notebook = lab_of(path)
    with _status(f"checking {path.name}"):
        report = judge(Lab.load(course, metadata.id), notebook)
    if as_json:
        print_json(report.to_json())
    else:
        rows = [
            [m.exercise, m.status, f"{m.earned:g}/{m.points:g}", m.reason] for m in report.marks
        ]
        print_table(["exercise", "status", "points", "why"], rows)
        for note in report.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"{report.points:g} of {report.of:g} points")
    return 0 if report.passed else 1


def reset(lab: LabArgument) -> None:
    """Restore a lab; your version is put aside in work/backup/.

    Example: aiinfra reset 00
    """
    from aiinfra_lab.course import workspace
    from aiinfra_lab.course.layout import Course

    path, backup = workspace.reset(Course.find(), lab)
    print(_short(path))
    print(f"Your version is kept as {_short(backup)}", file=sys.stderr)


def submit(
    lab: LabArgument,
    to: Annotated[
        Path | None, typer.Option("--to", help="A file or a folder; work/submitted by default.")
    ] = None,
) -> None:
    """Write the file to hand in: your cells without outputs.

    Example: aiinfra submit 00 --to ~/hand-in/
    """
    from aiinfra_lab.course import workspace
    from aiinfra_lab.course.layout import Course

    print(_short(workspace.submit(Course.find(), lab, to)))


def _short(path: Path) -> str:
    """The path as seen from here, where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _status(text: str) -> AbstractContextManager[object]:
    """A spinner on a terminal, nothing elsewhere."""
    from rich.console import Console

    return Console(stderr=True).status(text)

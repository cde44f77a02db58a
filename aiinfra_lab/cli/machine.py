"""``doctor``: what this machine can do, and one line to get what it cannot."""

from __future__ import annotations

import typer

from aiinfra_lab.cli.output import JsonOption, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Look at this machine: cores, memory, disk, tools, and which chapters run here.

    Example: aiinfra doctor --json
    """
    from aiinfra_lab.course.catalogue import catalogue
    from aiinfra_lab.course.doctor import examine
    from aiinfra_lab.course.layout import Course

    chapters = [entry for entry in catalogue(Course.find()) if entry.status == "ready"]
    report = examine(chapters)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    print_table(
        ["what", "status", "found", "to get it"],
        [[row.name, row.status, row.detail, row.fix] for row in report.rows()],
    )

"""``build`` and ``release``: what is generated in the repository, and what leaves it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aiinfra_lab.cli import readme
from aiinfra_lab.cli.output import JsonOption, print_json

if TYPE_CHECKING:
    from aiinfra_lab.course.building import Generator
    from aiinfra_lab.course.layout import Course
    from aiinfra_lab.course.releases import Release


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (build, release):
        app.command()(command)


def build(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if anything is not current.")
    ] = False,
    execute: Annotated[
        list[str],
        typer.Option("--execute", help="Execute this chapter and its lab's master first; or all."),
    ] = [],  # noqa: B006 - typer copies it
    fresh: Annotated[
        bool, typer.Option(help="With --execute: replace every output, changed or not.")
    ] = False,
) -> int:
    """Make labs/, their public results and the tables again from their sources.

    Example: aiinfra build --execute 00, then aiinfra build --check
    """
    from aiinfra_lab.course.building import stale, write_stale
    from aiinfra_lab.course.layout import Course
    from aiinfra_lab.errors import InputError

    course = Course.find()
    if course.is_release:
        raise InputError(
            f"{course.root} is a release: it has no masters to build from",
            fix="Run it in the course's repository.",
        )
    if check and execute:
        raise InputError("--check writes nothing, so it cannot go with --execute")
    if execute:
        # A master's own checks show their verdict only beside the public results.
        write_stale(course, _generators())
    for identifier in execute:
        _execute(course, identifier, fresh)
    if not check:
        for path in write_stale(course, _generators()):
            print(path.relative_to(course.root))
        return 0
    found = list(stale(course, _generators()))
    for name, path, _ in found:
        print(f"{path.relative_to(course.root)} is not current ({name})")
    if found:
        print("aiinfra: run `aiinfra build` and look at the diff", file=sys.stderr)
    return 1 if found else 0


def release(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder outside the course.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace DIR, if an earlier release made it.")
    ] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Also with changes that are not committed.")
    ] = False,
    archive: Annotated[bool, typer.Option("--archive", help="Also write DIR.tar.gz.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the course for learners into DIR: without the masters, and proved current.

    Example: aiinfra release ../for-learners --archive
    """
    from rich.console import Console

    from aiinfra_lab.course.layout import Course
    from aiinfra_lab.course.releases import release as make

    # Every master runs once, to prove that the labs are current.
    with Console(stderr=True).status("releasing"):
        made = make(Course.find(), folder, force=force, allow_dirty=allow_dirty, archive=archive)
    for name in made.manifest.changed:
        print(f"note: {name} differs from the commit", file=sys.stderr)
    for name in made.untracked:
        print(f"note: {name} is not tracked by git and was left out", file=sys.stderr)
    if as_json:
        print_json(_release_json(made))
    else:
        _print_release(made)


def _release_json(made: Release) -> dict[str, object]:
    return made.manifest.model_dump(mode="json", by_alias=True) | {
        "folder": str(made.folder),
        "archive": str(made.archive) if made.archive else None,
        "files": len(made.manifest.files),
        "left_out": dict(made.left_out),
        "untracked": list(made.untracked),
    }


def _print_release(made: Release) -> None:
    about = made.manifest
    origin = f"version {about.version}, commit {about.commit[:7]} of {about.date[:10]}"
    left = [f"{name} ({count})" for name, count in sorted(made.left_out.items())]
    print(f"{made.folder}: {len(about.files)} files of {origin}")
    if made.archive:
        print(f"{made.archive}: the same in one file")
    print(f"labs: {', '.join(sorted(about.labs)) or 'none'}")
    print(f"left out: {', '.join(left) or 'nothing'}")


def _generators() -> dict[str, Generator]:
    from aiinfra_lab.course.building import GENERATORS

    return {**GENERATORS, **readme.TABLES}


def _execute(course: Course, identifier: str, fresh: bool) -> None:
    """Execute notebooks and store what changed."""
    from aiinfra_lab.course.building import refreshed
    from aiinfra_lab.course.execution import execute
    from aiinfra_lab.course.layout import notebook_names
    from aiinfra_lab.course.metadata import read_metadata
    from aiinfra_lab.course.notebooks import read_notebook, write_notebook

    folders = (course.chapters, course.masters)
    every = [folder / f"{name}.ipynb" for folder in folders for name in notebook_names(folder)]
    if identifier == "all":
        paths = every
    else:
        stem = course.notebook(course.chapters, identifier).stem
        paths = [path for path in every if path.stem == stem]
    for path in paths:
        print(f"executing {path.relative_to(course.root)}", file=sys.stderr)
        stored = read_notebook(path)
        budget = read_metadata(stored, path.name).budget_s
        executed = execute(path, budget_s=budget, progress=sys.stderr.isatty())
        write_notebook(path, refreshed(stored, executed, keep=not fresh))

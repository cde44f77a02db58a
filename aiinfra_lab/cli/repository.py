"""``build`` and ``release``: what is generated in the repository, and what leaves it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

    return {**GENERATORS, "chapters table": _chapters_table, "breaker table": _breaker_table}


def _chapters_table(course: Course) -> dict[Path, str]:
    """The README with the table of chapters made anew."""
    from aiinfra_lab.course.catalogue import catalogue

    lines = ["| | chapter | minutes | lab | status |", "|---|---|---|---|---|"]
    for e in catalogue(course):
        title = f"[{e.title}]({e.notebook})" if e.notebook else e.title
        lines.append(f"| {e.id} | {title} | {e.minutes or ''} | {e.lab} | {e.status} |")
    return _readme(course, "chapters", lines)


def _breaker_table(course: Course) -> dict[Path, str]:
    """The README with the breaker's measurement made anew from its committed JSON."""
    import json

    path = course.root / "tests" / "benchmarks" / "results" / "breaker.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    measured = ("µs over a bare await", "ours is")
    situations = (
        "probes let through of 200",
        "opens at 50 % failures",
        "counts outer timeouts",
        "counts refused connections",
    )
    columns = ("", *measured, *situations)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, behaviour in found["behaviour"].items():
        price = found["price"]["over_bare"][name]
        times = ""
        if "ours_ratio" in price:
            low, high = price["interval"]
            times = f"{price['ours_ratio']:.2f} × [{low:.2f}, {high:.2f}]"
        said = {True: "yes", False: "no"}
        # 1 is True to a dict, and 200 probes are a number.
        words = [said[v] if isinstance(v, bool) else str(v) for v in behaviour.values()]
        title = "**ours**" if name == "aiinfra_lab" else name
        lines.append(f"| {title} | {price['overhead_us']:.2f} | {times} | {' | '.join(words)} |")
    return _readme(course, "breaker", lines)


def _readme(course: Course, mark: str, lines: list[str]) -> dict[Path, str]:
    """The README with these lines between the comments of that name."""
    from aiinfra_lab.errors import InputError

    path = course.root / "README.md"
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(opening)
    _, end, after = rest.partition(closing)
    if not end:
        raise InputError(f"README.md needs the lines {opening} and {closing}")
    return {path: before + opening + "\n" + "\n".join(lines) + "\n" + closing + after}


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

"""``release``: the course as learners get it, made from a commit.

What goes out is named here, so that a new folder stays at home until somebody adds it to the list.
Of what is named, only files that git tracks are copied: no cache, no draft and no learner's work.
Nothing in a release depends on the time or the machine it was made on, so that two releases of one
commit are the same bytes and anybody can prove where a copy comes from.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aiinfra_lab import __version__
from aiinfra_lab.course.building import Generator, expectations, labs, stale
from aiinfra_lab.course.commits import Commit
from aiinfra_lab.course.layout import FIRST_CHAPTER, RELEASE_FILE, Course
from aiinfra_lab.course.metadata import read_metadata
from aiinfra_lab.course.notebooks import read_notebook
from aiinfra_lab.course.runner import Executor
from aiinfra_lab.errors import InputError
from aiinfra_lab.files import atomic_writer, digest_file, write_json

# Files and whole folders. Of the tests a learner gets the measurements alone: the README's numbers
# can be measured anywhere, and the other tests hold answers.
RELEASED = (
    ".devcontainer", ".dockerignore", ".gitattributes", ".gitignore",
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md",
    "aiinfra_lab", "cluster", "docker", "labs", "notebooks", "scripts", "tests/benchmarks",
    "environment.yml", "pyproject.toml", "requirements-start.lock", "requirements.lock",
)  # fmt: skip
# Of what is released, what needs more than a release has: instructors' pages grade by the masters.
AT_HOME = ("notebooks/instructor_*.ipynb",)
# What using a release leaves in it, and what using it again makes anew.
_REMADE = {".venv", ".venv.lock", "__pycache__", ".ipynb_checkpoints"}
_MODES = {"100644": 0o644, "100755": 0o755}


class Manifest(BaseModel):
    """The content of ``RELEASE.json``: where a release comes from, and what is in it.

    Attributes
    ----------
    commit, date : str
        The commit, and when it was made, in UTC. There is no other date.
    changed : tuple of str
        Files that differed from the commit (``--allow-dirty``).
    labs : dict
        By a lab's id the digest that `aiinfra submit` writes into what is handed in.
    files : dict
        By path the SHA-256 of the file; of all files but ``RELEASE.json``.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str
    commit: str
    date: str
    changed: tuple[str, ...]
    labs: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Release:
    """What was made, and what was not: tracked files by their top folder, and untracked ones."""

    folder: Path
    archive: Path | None
    manifest: Manifest
    left_out: Mapping[str, int]
    untracked: tuple[str, ...]


def release(
    course: Course,
    folder: Path,
    *,
    force: bool = False,
    allow_dirty: bool = False,
    archive: bool = False,
    executor: Executor | None = None,
) -> Release:
    """Copy the course without its masters into ``folder``, which appears whole or not at all.

    Parameters
    ----------
    force : bool
        Replace ``folder``, if an earlier release made it and nobody has worked in it.
    allow_dirty : bool
        Release files that differ from the commit, and name them in the manifest.
    archive : bool
        Also write ``folder``.tar.gz, whose bytes depend on the commit and on the folder's name.
    executor : Executor, optional
        Where the masters run to prove that the labs are current.

    Raises
    ------
    InputError
        The course cannot be released as it is, or not to there; nothing was written.
    MissingNeed
        There is no git.
    """
    if course.is_release:
        raise InputError(
            f"{course.root} is a release: it has no masters to release from",
            fix="Run it in the course's repository.",
        )
    target = folder.resolve()
    packed = target.with_name(f"{target.name}.tar.gz") if archive else None
    _check_target(course, target, force)
    if packed and packed.exists() and not force:
        raise InputError(f"{packed} exists", fix="Name another folder, or replace it with --force.")
    commit = Commit.read(course.root)
    if f"{course.chapters.name}/{FIRST_CHAPTER}" not in commit.tracked:
        raise InputError(f"git does not track the course in {course.root}", fix="Use a clone.")
    names = {name: mode for name, mode in commit.tracked.items() if _is_released(name)}
    _check_changes(commit, allow_dirty)
    _check_labs(course, commit, executor)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as place:
        new, old = Path(place) / "new", Path(place) / "old"
        digests = _copy(course.root, names, new)
        manifest = Manifest(
            version=__version__,
            commit=commit.name,
            date=datetime.fromtimestamp(commit.seconds, UTC).isoformat(),
            changed=tuple(filter(_is_released, commit.changed)),
            labs=_lab_digests(Course(new)),
            files=digests,
        )
        write_json(new / RELEASE_FILE, manifest.model_dump(mode="json", by_alias=True))
        (new / RELEASE_FILE).chmod(0o644)
        if packed is None:
            _put(new, target, old)
        else:
            with atomic_writer(packed, mode=0o644) as file:
                _pack(new, target.name, commit.seconds, file)
                _put(new, target, old)
    tops = (name.partition("/")[0] for name in commit.tracked if not _is_released(name))
    return Release(
        target, packed, manifest, Counter(tops), tuple(filter(_is_released, commit.untracked))
    )


def _is_released(name: str) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in AT_HOME):
        return False
    return any(name == path or name.startswith(f"{path}/") for path in RELEASED)


# --- what is refused


def _check_target(course: Course, target: Path, force: bool) -> None:
    if target.is_relative_to(course.root.resolve()):
        raise InputError(f"{target} lies inside the course", fix="Name a folder outside of it.")
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}")
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file", fix="Name a folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not force:
        raise InputError(
            f"{target} is not empty",
            fix="Name another folder, or replace an earlier release with --force.",
        )
    try:
        earlier = Manifest.model_validate_json((target / RELEASE_FILE).read_bytes())
    except (OSError, ValidationError):
        raise InputError(
            f"{target} was not made by a release: it has no {RELEASE_FILE} that can be read",
            fix="Name another folder.",
        ) from None
    for name in _files(target):
        if name != RELEASE_FILE and name not in earlier.files:
            raise InputError(
                f"{target} holds {name}, which the earlier release did not put there",
                fix="Move it away, or name another folder.",
            )


def _files(folder: Path) -> Iterator[str]:
    """The files under a folder, without what is made anew."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _REMADE]
        for name in names:
            if name not in _REMADE:
                yield (Path(place) / name).relative_to(folder).as_posix()


def _check_changes(commit: Commit, allow_dirty: bool) -> None:
    changed = [name for name in commit.changed if _is_released(name)]
    if changed and not allow_dirty:
        others = f" and {len(changed) - 1} more differ" if len(changed) > 1 else " differs"
        raise InputError(
            f"{changed[0]}{others} from the commit",
            fix="Commit first, or release it so with --allow-dirty.",
        )
    for name, mode in commit.tracked.items():
        if _is_released(name) and mode not in _MODES:
            raise InputError(f"{name} is a link or a repository; a release holds plain files")


def _check_labs(course: Course, commit: Commit, executor: Executor | None) -> None:
    """Refuse a lab that is not what its master gives: it may hold what the master would hide."""
    masters = [
        path
        for path in (course.root / name for name in commit.tracked)
        if path.parent == course.masters and path.suffix == ".ipynb" and path.is_file()
    ]
    folder = course.labs.relative_to(course.root).as_posix()
    wanted = {course.labs / path.name for path in masters} | set(map(course.expected, masters))
    names = {path.relative_to(course.root).as_posix(): path for path in wanted}
    there = {name for name in commit.tracked if name.startswith(f"{folder}/")}
    for name in sorted(there - names.keys()):
        raise InputError(
            f"{name} has no master in {course.masters.name}/",
            fix="A release holds only labs that are proved against their master.",
        )
    for name in sorted(names.keys() - there):
        raise InputError(
            f"{name} is not tracked by git", fix=f"Run: aiinfra build; git add {folder}"
        )
    # The quick generator first: the other runs every master.
    generators: dict[str, Generator] = {
        "labs": labs,
        "expected": partial(expectations, executor=executor),
    }
    for _, path, _ in stale(course, generators):
        if path in wanted:
            raise InputError(
                f"{path.relative_to(course.root)} is not what its master gives",
                fix="Run: aiinfra build. Then look at the diff and commit it.",
            )


# --- what is written


def _copy(root: Path, names: Mapping[str, str], new: Path) -> dict[str, str]:
    """Copy the files, with git's permissions rather than this system's; their digests."""
    digests = {}
    for name in sorted(names):
        source, copy = root / name, new / name
        if not source.is_file():  # deleted, and the change was allowed
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        copy.chmod(_MODES[names[name]])
        digests[name] = digest_file(copy)
    return digests


def _lab_digests(course: Course) -> dict[str, str]:
    found = (read_metadata(read_notebook(path), path.name) for path in course.notebooks())
    return {about.id: about.release for about in found if about.kind == "lab"}


def _pack(folder: Path, name: str, seconds: int, file: BinaryIO) -> None:
    """Write the folder as a tar file that says nothing of this machine, user and time."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
            status = path.stat()
            entry.size, entry.mode, entry.mtime = status.st_size, status.st_mode & 0o777, seconds
            with path.open("rb") as content:
                tar.addfile(entry, content)


def _put(new: Path, target: Path, old: Path) -> None:
    """Rename ``new`` to ``target``; what stood there goes to ``old``, or back at an error."""
    try:
        if target.exists():
            target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise

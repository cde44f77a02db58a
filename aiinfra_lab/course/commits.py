"""A commit as git describes it: which files it has, and what in the working tree is not of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiinfra_lab.errors import InputError, MissingNeed

# Where a hook's repository lies says nothing of the folder that is asked about.
_PLACES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"}


@dataclass(frozen=True)
class Commit:
    """The commit that is checked out, and what of the working tree is not it.

    Attributes
    ----------
    name, seconds : str, int
        Its hash, and when it was made, in seconds since 1970.
    tracked : mapping
        By path, relative to the folder that was asked about, git's mode such as ``100755``.
    changed, untracked : tuple of str
        Tracked files that differ from the commit, and files that git neither tracks nor ignores.
    """

    name: str
    seconds: int
    tracked: Mapping[str, str]
    changed: tuple[str, ...]
    untracked: tuple[str, ...]

    @classmethod
    def read(cls, root: Path) -> Commit:
        """Ask git about the folder ``root``.

        Raises
        ------
        InputError
            ``root`` is in no repository, or the repository has no commit; in git's own words.
        MissingNeed
            There is no git.
        """
        tracked = {}
        for line in _git(root, "ls-files", "-z", "--stage"):
            about, _, name = line.partition("\t")
            tracked[name] = about.partition(" ")[0]
        (head,) = _git(root, "log", "-1", "-z", "--no-show-signature", "--format=%H %ct")
        name, _, seconds = head.partition(" ")
        return cls(
            name,
            int(seconds),
            tracked,
            tuple(_git(root, "diff", "-z", "--name-only", "--relative", "HEAD")),
            tuple(_git(root, "ls-files", "-z", "--others", "--exclude-standard")),
        )


def _git(root: Path, *arguments: str) -> list[str]:
    """The parts of git's answer, which are separated by a zero byte."""
    environment = {key: value for key, value in os.environ.items() if key not in _PLACES}
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise MissingNeed(
            "a release is made from a commit, and there is no git",
            fix="Install git by your system's package manager.",
        ) from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().splitlines() or ["nothing"]
        raise InputError(
            f"a release is made from a commit, and git says of {root}: {said[0]}",
            fix="Run it in a clone of the course.",
        )
    return [part for part in os.fsdecode(done.stdout).split("\0") if part.strip()]

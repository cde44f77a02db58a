"""The commands in the documents do what the documents say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"<!-- test -->\n```\w*\n(.*?)```", re.DOTALL)
_EXITS = re.compile(r"# exits (\d+)")


def _blocks() -> list[tuple[str, str]]:
    found = []
    for name in ("README.md", "CONTRIBUTING.md"):
        for number, block in enumerate(_BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))):
            found.append(pytest.param(block, id=f"{name}-{number}"))
    return found


@pytest.mark.parametrize("block", _blocks())
def test_every_command_ends_as_the_document_says(block: str, tmp_path: Path) -> None:
    course = tmp_path / "course"
    for name in ("notebooks", "labs", "solutions"):
        shutil.copytree(ROOT / name, course / name)
    if "aiinfra release" in block:
        _commit(course)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    for line in block.strip().splitlines():
        wanted = int(match[1]) if (match := _EXITS.search(line)) else 0
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=course,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == wanted, f"{line}\n{done.stdout}{done.stderr}"


def _commit(course: Path) -> None:
    """Put the folder under git, without anybody's settings: a release is made from a commit."""
    person = ("-c", "user.name=x", "-c", "user.email=x@x")
    for command in (("init", "--quiet"), ("add", "."), (*person, "commit", "--quiet", "-m", "x")):
        subprocess.run(
            ["git", *command],
            cwd=course,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
            check=True,
        )


def test_the_readme_has_commands_to_test() -> None:
    assert len(_blocks()) >= 2

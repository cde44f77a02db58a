"""The processes of a container: found, counted, ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from aiinfra_lab.kube.runtime import family
from aiinfra_lab.kube.runtime.family import Family, descendants, own_children
from aiinfra_lab.processes import order, reaper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    """A session of three: a shell, a child in its group, and one in a session of its own.

    This process adopts what loses its parent, as the runtime does.
    """
    script = "sleep 50 & echo $!; setsid sleep 51 & echo $!; wait"
    assert reaper.prctl(reaper.PR_SET_CHILD_SUBREAPER, 1)
    try:
        with subprocess.Popen(
            ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True,
            env=os.environ | {family.MARK: "outer word"},
        ) as first:  # fmt: skip
            yield first
            group = Family(first.pid, "word")
            group.kill()
            first.wait()
            group.reaped = True
            while orphans := group.orphans():
                group.kill()
                os.waitpid(orphans[0], 0)
    finally:
        reaper.prctl(reaper.PR_SET_CHILD_SUBREAPER, 0)


def pids(first: subprocess.Popen[str]) -> list[int]:
    assert first.stdout is not None
    return [first.pid, int(first.stdout.readline()), int(first.stdout.readline())]


def test_mark_is_the_one_by_which_the_rest_of_the_house_finds_processes() -> None:
    assert family.MARK == order.MARK


def test_descendants_and_members(tree: subprocess.Popen[str]) -> None:
    found = pids(tree)
    assert tree.pid in (own_children() or [])
    assert sorted(descendants(tree.pid)) == sorted(found[1:])
    assert sorted(Family(tree.pid, "word").members()) == sorted(found)


def test_kill_reaches_other_sessions_and_nobody_else(tree: subprocess.Popen[str]) -> None:
    found = pids(tree)
    with subprocess.Popen(["sleep", "52"], start_new_session=True) as stranger:
        group = Family(tree.pid, "word")
        group.kill()
        assert tree.wait(30) == -9
        group.reaped = True
        end = time.monotonic() + 30
        while {row[0] for row in reaper.read_table(b"")} & set(found):
            assert time.monotonic() < end
            group.kill()
            time.sleep(0.01)
        assert stranger.poll() is None
        stranger.kill()


def test_orphans_are_known_by_session_mark_or_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"PATH": os.environ["PATH"]}
    with (
        subprocess.Popen(["sleep", "53"], env=env | {family.MARK: "outer word"}) as marked,
        subprocess.Popen(["sleep", "54"], env=env | {family.MARK: "outer other"}) as other,
        subprocess.Popen(["sleep", "55"], env=env, start_new_session=True) as leader,
    ):
        try:
            wait = time.monotonic() + 10
            while "sleep" not in _command(other.pid) and time.monotonic() < wait:
                time.sleep(0.01)
            group = Family(1 << 22, "word")
            assert group.orphans() == [marked.pid]
            monkeypatch.setattr(os, "getsid", lambda pid: 1 << 22 if pid == leader.pid else 0)
            assert sorted(group.orphans()) == sorted([marked.pid, leader.pid])
            group.known = {marked.pid: None}
            assert group.orphans() == [leader.pid]
            monkeypatch.undo()
            group.namespace = os.readlink("/proc/self/ns/mnt")  # noqa: PTH115
            assert sorted(group.orphans()) == sorted([other.pid, leader.pid])
        finally:
            for process in (marked, other, leader):
                process.kill()


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123
        return file.read()

"""Limits of containers: the files of a cgroup that they go to, and what is counted without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from aiinfra_lab.kube.runtime import limits
from aiinfra_lab.sandbox import cgroups
from aiinfra_lab.sandbox.cgroups import Cgroup

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")


@pytest.mark.parametrize(
    ("version", "controller", "values", "files"),
    [
        (1, "memory", {"memory": 5, "cpu": 7},
         {"memory.limit_in_bytes": "5", "memory.memsw.limit_in_bytes": "5"}),
        (1, "cpu", {"memory": 5, "cpu": 7}, {"cpu.cfs_quota_us": "7"}),
        (2, "memory", {"memory": 5, "cpu": 7},
         {"memory.max": "5", "cpu.max": "7", "memory.swap.max": "0"}),
        (2, "cpu", {"cpu": 7}, {"cpu.max": "7"}),
        (2, "memory", {"memory": 5, "pids": 9},
         {"memory.max": "5", "pids.max": "9", "memory.swap.max": "0"}),
    ],
)  # fmt: skip
def test_limits_are_written_where_each_version_has_them(
    tmp_path: Path, version: int, controller: str, values: dict[str, int], files: dict[str, str]
) -> None:
    cgroups._write_limits(tmp_path, version, controller, values)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def asked(
    monkeypatch: pytest.MonkeyPatch, possible: set[str], folder: Path
) -> list[dict[str, int]]:
    seen: list[dict[str, int]] = []

    def with_limits(values: Mapping[str, int]) -> Cgroup | None:
        seen.append(dict(values))
        return Cgroup(2, [folder]) if set(values) <= possible else None

    monkeypatch.setattr(Cgroup, "with_limits", with_limits)
    return seen


def test_group_has_both_limits_where_both_are_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asked(monkeypatch, {"memory", "cpu"}, tmp_path)
    assert limits.make_group(1 << 20, 0.25) is not None
    assert seen == [{"memory": 1 << 20, "cpu": 25_000}]
    assert (tmp_path / "memory.oom.group").read_text() == "1"


@pytest.mark.parametrize("possible", ["memory", "cpu"])
def test_group_has_the_one_limit_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, possible: str
) -> None:
    seen = asked(monkeypatch, {possible}, tmp_path)
    assert limits.make_group(1 << 20, 1.5) is not None
    assert list(seen[-1]) == [possible]


def test_nothing_asked_nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asked(monkeypatch, set(), tmp_path)
    assert limits.make_group(None, None) is None
    assert seen == []
    assert limits.make_group(None, 0.000001) is None
    assert seen[0] == {"cpu": 1_000}  # the kernel refuses less


def test_group_of_version_2_is_killed_at_once(tmp_path: Path) -> None:
    (tmp_path / "cgroup.kill").touch()
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")  # not sent to each
    Cgroup(2, [tmp_path]).kill()
    assert (tmp_path / "cgroup.kill").read_text() == "1"


def test_group_of_version_1_is_killed_one_by_one(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as two:
        (tmp_path / "cgroup.procs").write_text(f"{one.pid}\n{two.pid}\n")
        group = Cgroup(1, [tmp_path])
        assert group.pids() == [one.pid, two.pid]
        group.kill()
        assert [one.wait(30), two.wait(30)] == [-9, -9]
    assert [path.name for path in tmp_path.iterdir()] == ["cgroup.procs"]


def test_removed_group_has_nobody() -> None:
    group = Cgroup(1, [])
    assert group.pids() == []
    group.kill()


@linux
def test_memory_counts_what_is_held_and_not_what_is_shared(tmp_path: Path) -> None:
    code = (
        "import os, sys\nb = bytearray(b'x' * (40 << 20))\n"
        "if os.fork() == 0: print(os.getpid(), flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        both = [first.pid, int(first.stdout.readline())]
        bound = limits.memory_of(both, 1 << 40)
        exact = limits.memory_of(both, 1 << 20)
        first.communicate()
    assert bound > 80 << 20
    assert 40 << 20 < exact < 70 << 20


@linux
def test_memory_of_ended_processes_is_none() -> None:
    assert limits.memory_of([1 << 22], 1) == 0

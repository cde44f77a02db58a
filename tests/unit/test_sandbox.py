"""The sandbox's parts that need no sandbox: what exists inside, limits, filters, bookkeeping."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiinfra_lab.errors import InputError
from aiinfra_lab.sandbox import Limits, World, cgroups, syscalls
from aiinfra_lab.sandbox.bubblewrap import Bubblewrap
from aiinfra_lab.sandbox.watching import Usage, fair_memory_below, usage_below
from aiinfra_lab.sandbox.world import PACKAGE

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")


# The world.


def test_environment_takes_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    found = World(variables={"LAB": "03"}).environment()
    assert "secret" not in found.values()
    assert found["PYTHONPATH"] == str(PACKAGE.parent)
    assert found["LAB"] == "03"
    assert found["HOME"] == "/tmp"


def test_another_home_moves_what_is_written_and_not_what_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A course in the temporary folder is still found where no wall puts another home there.
    monkeypatch.setattr("aiinfra_lab.sandbox.world.PACKAGE", Path("/tmp/course/aiinfra_lab"))
    inside, bare = World().environment(), World().environment("/elsewhere")
    moved = {name for name in inside if inside[name] != bare[name]}
    assert moved == {"HOME", "TMPDIR", "MPLCONFIGDIR", "AIINFRA_HOME", "AIINFRA_CACHE"}
    assert all(bare[name].startswith("/elsewhere") for name in moved)
    assert bare["PYTHONPATH"] == "/tmp/course"


def test_folders_hold_the_package_and_no_more_of_the_repository(root: Path) -> None:
    folders = World().folders()
    assert PACKAGE in folders or any(PACKAGE.is_relative_to(folder) for folder in folders)
    assert not any(root == folder or root.is_relative_to(folder) for folder in folders)
    assert Path.home() not in folders


@pytest.mark.parametrize(
    "name", ["os", "aiinfra_lab", "aiinfra_lab.", "aiinfra_lab.nothing", "aiinfra_lab..errors", ""]
)
def test_answer_that_is_no_module_of_ours_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be hidden"):
        World(answers=[name])


def test_answers_are_covered_by_stubs_that_raise(tmp_path: Path) -> None:
    world = World(answers=["aiinfra_lab.resilience", "aiinfra_lab.course.comparison"])
    world.write_files(tmp_path)
    places = {place: source for source, place in world.mounts(tmp_path)}
    package = places[str(PACKAGE / "resilience")]
    module = places[str(PACKAGE / "course" / "comparison.py")]
    assert [path.name for path in package.iterdir()] == ["__init__.py"]
    for path, name in ((package / "__init__.py", world.answers[0]), (module, world.answers[1])):
        with pytest.raises(ImportError, match=f"^{name} is the answer of this lab"):
            exec(compile(path.read_text(), str(path), "exec"), {"__name__": name})
    # A compiled answer would be as good as its source.
    assert list(places[str(PACKAGE / "course" / "__pycache__")].iterdir()) == []


def test_stubs_come_after_the_folder_that_they_cover(tmp_path: Path) -> None:
    world = World(answers=["aiinfra_lab.resilience"])
    world.write_files(tmp_path)
    order = [place for _, place in world.mounts(tmp_path)]
    covering = order.index(str(PACKAGE / "resilience"))
    assert covering > max(order.index(str(folder)) for folder in world.folders())


@pytest.mark.needs("sandbox")
def test_command_has_every_wall(tmp_path: Path) -> None:
    for nested in (False, True):
        folder = tmp_path / str(nested)
        folder.mkdir()
        words = Bubblewrap(World(), folder, Limits(), nested=nested).command(["true"])
        for wall in ("user", "pid", "ipc", "net", "uts"):
            assert f"--unshare-{wall}" in words
        assert words[words.index("--cap-drop") + 1] == "ALL"
        assert {"--die-with-parent", "--new-session", "--clearenv"} <= set(words)
        assert ("--disable-userns" in words) != nested
        assert "--bind" not in words
        assert words[-2:] == ["--", "true"]


# Limits.


@pytest.mark.parametrize("name", ["memory", "cpu_s", "wall_s", "processes", "file_size", "files"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limit_that_is_not_positive_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"the limit {name} is"):
        Limits(**{name: value})


def test_limits_are_applied_to_the_process_and_its_children() -> None:
    program = (
        "import resource as r, subprocess, sys\n"
        "from aiinfra_lab.sandbox import Limits\n"
        "Limits(cpu_s=7, file_size=1 << 20, files=99).apply()\n"
        "show = 'import resource as r; print(*[r.getrlimit(k)[0] for k in"
        " (r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE, r.RLIMIT_CORE)])'\n"
        "print(subprocess.run([sys.executable, '-c', show], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["8", str(1 << 20), "99", "0"]


def test_processor_time_beyond_the_limit_is_said() -> None:
    assert Usage(cpu_s=2.0).beyond(Limits(cpu_s=1.5)) == "processor time: more than 1.5 s"
    assert Usage(cpu_s=1.0).beyond(Limits(cpu_s=1.5)) == ""


def test_usage_counts_the_whole_tree() -> None:
    program = (
        "import os, sys, time\n"
        "held = bytearray(40 << 20)\n"
        "if os.fork() == 0:\n"
        "    more = bytearray(40 << 20)\n"
        "    os.write(1, b'x')\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        everything, below = usage_below(os.getpid()), usage_below(child.pid)
        fair = fair_memory_below(os.getpid())
        import psutil

        for process in [*psutil.Process(child.pid).children(), psutil.Process(child.pid)]:
            process.kill()
    assert below.processes == 1
    assert everything.processes >= 2
    assert below.memory >= 40 << 20
    # The 40 MB that the child was forked with count once, however many processes map them.
    assert 80 << 20 <= fair <= everything.memory
    assert everything.memory >= 120 << 20
    assert everything.cpu_s > 0


# Filters.


def _verdict(program: bytes, architecture: int, number: int) -> int:
    """What a kernel would answer: classic BPF, as far as our filters use it."""
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    value, place = 0, 0
    while True:
        kind, true, false, operand = code[place]
        place += 1
        if kind == 0x20:
            value = {0: number, 4: architecture}[operand]
        elif kind == 0x15:
            place += true if value == operand else false
        elif kind == 0x45:
            place += true if value & operand else false
        else:
            return int(operand)


@pytest.mark.parametrize(
    ("machine", "architecture", "column"),
    [("x86_64", 0xC000003E, 0), ("aarch64", 0xC00000B7, 1)],
)
def test_filter_refuses_what_it_lists_and_nothing_else(
    machine: str, architecture: int, column: int
) -> None:
    program = syscalls.program(machine)
    refused = {pair[column] for pair in syscalls.REFUSED.values()}
    found = {n for n in range(500) if _verdict(program, architecture, n) == 0x00050001}
    assert found == refused
    assert all(_verdict(program, 0x40000003, n) == 0x00050001 for n in range(0, 500, 7))
    if machine == "x86_64":  # the x32 way of calling the same
        assert _verdict(program, architecture, 0x40000000) == 0x00050001


def test_filter_of_an_unknown_machine_is_refused() -> None:
    with pytest.raises(OSError, match="riscv64"):
        syscalls.program("riscv64")


# cgroups.


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for a hierarchy of which this process's group may be changed."""
    own = tmp_path / "own"
    own.mkdir()
    wanted = {(1, "memory"), (1, "pids")}
    monkeypatch.setattr(
        cgroups, "_parents", lambda version, kind: [own] if (version, kind) in wanted else []
    )
    return own


def test_cgroup_that_has_no_files_is_not_one(hierarchy: Path) -> None:
    # A plain folder takes the limits and counts nothing.
    assert cgroups.Cgroup.make(Limits()) is None


def test_cgroup_reads_its_own_kills(tmp_path: Path) -> None:
    group = cgroups.Cgroup(1, [tmp_path])
    assert not group.out_of_memory
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    assert not group.out_of_memory
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert group.out_of_memory


def test_groups_of_dead_graders_are_swept(hierarchy: Path) -> None:
    dead, mine = hierarchy / "aiinfra-4999999-ab", hierarchy / f"aiinfra-{os.getpid()}-ab"
    for folder in (dead, mine):
        folder.mkdir()
    cgroups.Cgroup.make(Limits())
    assert [dead.exists(), mine.exists()] == [False, True]


@linux
def test_cgroup_is_made_used_and_removed() -> None:
    group = cgroups.Cgroup.make(Limits(memory=64 << 20))
    if group is None:
        pytest.skip("this process may make no cgroup")
    folders = list(group.folders)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert group.add(child.pid)
        assert not group.remove()
    assert group.remove()
    assert not any(folder.exists() for folder in folders)

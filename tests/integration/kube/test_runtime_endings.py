"""Whatever ends, its containers end with it, and the next runtime finds a clean place."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from runtime_host import Desk, alive, all_gone, child, connected, until

from aiinfra_lab.errors import ProcessError
from aiinfra_lab.kube.runtime.client import Runtime, RuntimeGone
from aiinfra_lab.kube.runtime.place import socket_of
from aiinfra_lab.processes import Child

# Starts four kinds of descendants and prints their pids: in the group, in a session of its own, a
# daemon (its parent has ended), and a daemon that has cleared its environment.
FAMILY = (
    "sleep 101 & echo $!; setsid sleep 102 & echo $!; "
    "sh -c 'setsid sleep 103 & echo $!'; "
    "env -i /bin/sh -c '/usr/bin/setsid /bin/sleep 104 & echo $!'; "
    "echo all; "
)
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1; done"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rt"


@pytest.fixture
async def runtime(folder: Path) -> AsyncIterator[Child]:
    with child(folder) as running:
        yield running


@pytest.fixture
async def desk(runtime: Child, folder: Path) -> AsyncIterator[Desk]:
    async for desk in connected(folder):
        yield desk


async def family(desk: Desk, name: str, then: str) -> list[int]:
    """Run one with its family; the pids, its own first."""
    state = await desk.run(name, FAMILY + then)
    await until(
        lambda: (desk.folder / "logs" / f"{name}.log").exists() and "all" in desk.text(name)
    )
    pids = [state.pid, *map(int, desk.text(name).split()[:-1])]
    assert len(pids) == 5
    return pids


async def test_stop_is_term_first_and_its_whole_tree_ends(desk: Desk) -> None:
    pids = await family(desk, "a", "trap 'echo bye; exit 9' TERM; while :; do sleep 0.05; done")
    await desk.runtime.stop("a", 60)
    state = await desk.ended("a")
    assert (state.exit_code, state.signal, state.reason) == (9, 0, "Error")
    assert desk.text("a").endswith("bye\n")
    assert not any(map(alive, pids))


async def test_tree_ends_when_the_first_process_ends(desk: Desk) -> None:
    pids = await family(desk, "a", "exit 0")
    assert (await desk.ended("a")).reason == "Completed"
    assert not any(map(alive, pids))


async def test_neighbour_outlives_the_end_of_another(desk: Desk) -> None:
    others = await family(desk, "b", "sleep 100")
    await family(desk, "a", "exit 0")
    await desk.ended("a")
    await asyncio.sleep(0.1)
    assert all(map(alive, others))


async def test_grace_is_kept_and_a_shorter_one_later_counts(desk: Desk) -> None:
    await desk.run("a", STUBBORN)
    await desk.line("a")
    await desk.runtime.stop("a", 3600)
    await asyncio.sleep(0.2)
    assert (await desk.state("a")).status == "running"
    await desk.runtime.stop("a", 7200)  # a longer one does not
    begin = time.monotonic()
    await desk.runtime.stop("a", 0.3)
    await desk.runtime.stop("a", 7200)
    state = await desk.ended("a")
    assert (state.exit_code, state.signal) == (137, signal.SIGKILL)
    assert 0.25 < time.monotonic() - begin < 60


async def test_stopped_process_takes_its_term(desk: Desk) -> None:
    state = await desk.run("a", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
    await desk.line("a")
    os.killpg(state.pid, signal.SIGSTOP)
    await desk.runtime.stop("a", 3600)
    assert (await desk.ended("a")).exit_code == 9


async def test_stop_goes_on_without_the_client(desk: Desk, folder: Path) -> None:
    await desk.run("a", STUBBORN)
    await desk.line("a")
    async with await Runtime.connect(folder) as other:
        await other.stop("a", 0.3)
    assert (await desk.ended("a")).signal == signal.SIGKILL


async def test_fork_storm_is_ended(desk: Desk) -> None:
    script = (
        "for i in 1 2 3; do (while :; do sh -c 'setsid sleep 0.02 & sleep 0.01'; done) & done; "
        "(setsid sh -c 'while :; do sleep 0.01; done' &) ; echo up; wait"
    )
    await desk.run("a", script, env={"PATH": "/usr/bin:/bin", "STORM": "here"})
    await desk.line("a")
    await asyncio.sleep(0.3)
    await desk.runtime.stop("a", 0)
    assert (await desk.ended("a")).signal == signal.SIGKILL
    await until(lambda: not _with_variable("STORM=here"))


def _with_variable(text: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if text.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process.pid)
        except OSError:
            continue
    return found


async def test_nothing_is_left_to_reap(desk: Desk) -> None:
    runtime = psutil.Process(desk.runtime.pid)
    logger = runtime.children()
    for n in range(10):
        await desk.finish(f"a{n}", "(setsid true &); (setsid sh -c 'exit 3' &); exit 1")
    await until(lambda: psutil.STATUS_ZOMBIE not in [c.status() for c in runtime.children()])
    assert runtime.children() == logger
    assert len(logger) == 1


async def test_no_descriptor_is_lost(desk: Desk) -> None:
    def count() -> int:
        return psutil.Process(desk.runtime.pid).num_fds()

    before = count()
    for n in range(10):
        await desk.finish(f"a{n}", "true")
        await desk.run(f"b{n}", ("nonesuch",))
        await desk.run(f"c{n}", "sleep 100")
        await desk.runtime.execute(f"c{n}", ["cat"], stdin=b"x")
        await desk.runtime.execute(f"c{n}", ["sleep", "100"], timeout=0.01)
        await desk.runtime.execute(f"c{n}", ["nonesuch"])
        await desk.runtime.stop(f"c{n}", 0)
        await desk.ended(f"c{n}")
    await until(lambda: count() <= before)


async def test_term_during_the_start_is_not_lost(folder: Path) -> None:
    patch = (
        "import time\n"
        "from aiinfra_lab.kube.runtime import start\n"
        "settle = start._settle\n"
        "start._settle = lambda *words: (time.sleep(0.5), settle(*words))\n"
    )
    with child(folder, patch=patch):
        async for desk in connected(folder):
            starting = asyncio.create_task(desk.run("a", "sleep 100"))
            await asyncio.sleep(0.1)
            await desk.runtime.stop("a", 3600)
            await starting
            assert (await desk.ended("a")).exit_code == 143


async def test_what_the_runtime_has_is_not_passed_on(folder: Path) -> None:
    patch = (
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))\n"
        "if os.geteuid() == 0: os.setgroups([7777])\n"
    )
    user = {"user": 1234, "group": 4321} if os.geteuid() == 0 else {}
    with child(folder, patch=patch):
        async for desk in connected(folder):
            _, text = await desk.finish("a", "ulimit -n; id -G", **user)
            assert text.splitlines()[0] == "300"
            assert "7777" not in text


# The runtime's own end.


async def test_term_ends_all_side_by_side(runtime: Child, desk: Desk) -> None:
    pids = [(await desk.run(f"a{n}", STUBBORN)).pid for n in range(20)]
    pids += await family(desk, "b", "sleep 100")
    await desk.line("a19")
    begin = time.monotonic()
    runtime.send_signal(signal.SIGTERM)
    assert await runtime.wait_async(60) == 0
    took = time.monotonic() - begin
    assert not any(map(alive, pids))
    assert took < 20  # one after the other: 20 s and more
    with pytest.raises(RuntimeGone):
        await desk.runtime.list()


async def test_ending_runtime_starts_nothing(runtime: Child, desk: Desk) -> None:
    await desk.run("a", STUBBORN)
    await desk.line("a")
    runtime.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    with pytest.raises(Exception, match=r"ending|ended"):
        await desk.run("b", "sleep 100")


async def test_killed_runtime_leaves_nothing_alive(runtime: Child, desk: Desk) -> None:
    pids = await family(desk, "a", "sleep 100")
    logger = [c.pid for c in psutil.Process(desk.runtime.pid).children() if c.pid not in pids]
    events = desk.runtime.events()
    os.kill(desk.runtime.pid, signal.SIGKILL)
    await runtime.wait_async(60)
    await all_gone([*pids, *logger])
    assert [state async for state in events] == []
    with pytest.raises(RuntimeGone):
        await desk.run("b", "true")


async def test_killed_reaper_and_runtime_leave_nothing_once_the_parent_looks(
    runtime: Child, desk: Desk
) -> None:
    pids = await family(desk, "a", "sleep 100")
    os.kill(psutil.Process(desk.runtime.pid).ppid(), signal.SIGKILL)
    await until(lambda: runtime.returncode is not None or not alive(desk.runtime.pid))
    with pytest.raises(ProcessError):
        await runtime.wait_async(60, check=True)
    # The one without a mark is beyond anybody: its reaper is gone.
    await all_gone(pids[:4])
    if alive(pids[4]):
        os.kill(pids[4], signal.SIGKILL)


async def test_socket_of_a_killed_runtime_is_replaced(folder: Path) -> None:
    with child(folder) as first:
        async with await Runtime.connect(folder) as runtime:
            os.kill(runtime.pid, signal.SIGKILL)
        await first.wait_async(60)
    assert socket_of(folder).exists()
    with child(folder):
        async with await Runtime.connect(folder) as runtime:
            assert await runtime.list() == []


async def test_second_runtime_of_a_folder_is_refused(desk: Desk, folder: Path) -> None:
    command = [sys.executable, "-m", "aiinfra_lab.kube.runtime", str(folder)]
    second = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert second.stderr.startswith("a runtime already works in ")
    assert second.stderr.count("\n") == 1
    assert (await desk.finish("a", "exit 0"))[0].reason == "Completed"


async def test_socket_is_private(desk: Desk, folder: Path) -> None:
    assert socket_of(folder).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_folder_with_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 30) / "rt"
    with tempfile.TemporaryDirectory(dir="/tmp") as short, monkeypatch.context() as patch:
        patch.setenv("TMPDIR", short)
        patch.setattr(tempfile, "tempdir", short)
        await _serves_at_a_short_path(folder)


async def _serves_at_a_short_path(folder: Path) -> None:
    with child(folder):
        async with await Runtime.connect(folder) as runtime:
            assert await runtime.list() == []
        path = socket_of(folder)
        assert len(str(path)) < 100
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_nobody_answers(folder: Path) -> None:
    with pytest.raises(RuntimeGone, match="no container runtime answers in"):
        await Runtime.connect(folder, timeout=0.1)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:  # one that hears and says nothing
        silent.bind(str(socket_of(folder)))
        silent.listen(1)
        with pytest.raises(RuntimeGone):
            await Runtime.connect(folder, timeout=0.1)


async def test_bad_words_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for words in ([], ["a", "b"], [str(tmp_path / "file")]):
        command = [sys.executable, "-m", "aiinfra_lab.kube.runtime", *words]
        ran = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1

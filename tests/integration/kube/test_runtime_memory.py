"""Memory and processor time of containers: by a cgroup where one may be made, else watched."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runtime_host import Desk, all_gone, child, connected, until

from aiinfra_lab.kube.runtime.limits import make_group

MIB = 1 << 20
NO_CGROUP = "from aiinfra_lab.kube.runtime import container\ncontainer.make_group = lambda *_: None"
HOG = "b = []\nwhile True: b.append(bytearray(b'x' * (1 << 20)))"


@pytest.fixture(scope="module", params=["cgroup", "watched"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    if request.param == "cgroup":
        group = make_group(64 * MIB, None)
        if group is None:
            pytest.skip("this process may make no cgroup")
        group.remove()
    folder = tmp_path_factory.mktemp(f"limits-{request.param}") / "rt"
    with child(folder, patch=NO_CGROUP if request.param == "watched" else ""):
        yield folder


@pytest.fixture
async def desk(folder: Path) -> AsyncIterator[Desk]:
    async for desk in connected(folder):
        yield desk
        await desk.clear()


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


async def test_too_much_memory_is_an_oom_kill(desk: Desk) -> None:
    state, _ = await desk.finish("a", python(HOG), memory=64 * MIB)
    assert (state.exit_code, state.signal, state.reason) == (137, 9, "OOMKilled")


async def test_memory_of_a_child_counts(desk: Desk) -> None:
    program = f'{sys.executable} -I -S -c "{HOG}"; exit $?'
    state, _ = await desk.finish("a", program, memory=64 * MIB)
    assert (state.exit_code, state.reason) == (137, "OOMKilled")


async def test_shared_pages_count_once(desk: Desk) -> None:
    code = (
        "import os, time\nb = bytearray(b'x' * (60 << 20))\n"
        "for _ in range(6):\n  if os.fork() == 0: time.sleep(1.5); os._exit(0)\n"
        "for _ in range(6): os.wait()"
    )
    state, _ = await desk.finish("a", python(code), memory=128 * MIB)
    assert (state.exit_code, state.reason) == (0, "Completed")


async def test_kill_by_others_is_no_oom(desk: Desk) -> None:
    await desk.run("a", "sleep 100", memory=64 * MIB)
    await desk.runtime.stop("a", 0)
    assert (await desk.ended("a")).reason == "Error"


async def test_address_space_is_not_memory(desk: Desk) -> None:
    code = "import mmap; m = mmap.mmap(-1, 1 << 30)"
    state, _ = await desk.finish("a", python(code), memory=64 * MIB)
    assert state.reason == "Completed"


async def test_limited_container_ends_whole(desk: Desk) -> None:
    script = "setsid sleep 102 & echo $!; sh -c 'setsid sleep 103 & echo $!'; exit 3"
    state, text = await desk.finish("a", script, memory=64 * MIB, cpus=1.0)
    assert state.exit_code == 3
    await all_gone([int(pid) for pid in text.split()])


async def test_groups_are_removed(desk: Desk) -> None:
    names = [f"a{n}" for n in range(5)]
    for name in names:
        await desk.run(name, "sleep 100", memory=64 * MIB, cpus=0.5)
    pattern = f"aiinfra-{desk.runtime.pid}-*"
    groups = list(Path("/sys/fs/cgroup").rglob(pattern))
    assert bool(groups) == (desk.folder.parent.name.startswith("limits-cgroup"))
    for name in names:
        await desk.runtime.stop(name, 0)
        await desk.ended(name)
    await until(lambda: not any(group.exists() for group in groups))


async def test_processor_time_is_limited_where_it_can_be(desk: Desk) -> None:
    if (group := make_group(None, 0.1)) is None:
        pytest.skip("this process may make no cgroup")
    group.remove()
    state = await desk.run("a", "sleep 100", cpus=0.25)
    quotas = [
        (folder / name).read_text().split()[0]
        for folder in Path("/sys/fs/cgroup").rglob(f"aiinfra-{desk.runtime.pid}-*")
        for name in ("cpu.cfs_quota_us", "cpu.max")
        if (folder / name).exists()
        and str(state.pid) in (folder / "cgroup.procs").read_text().split()
    ]
    assert quotas in (["25000"], [])  # none where groups are left out on purpose


async def test_program_run_in_it_ends_alone(desk: Desk) -> None:
    state = await desk.run("a", "sleep 100", memory=64 * MIB)
    done = await desk.runtime.execute("a", ["sleep", "100"], timeout=0.1)
    assert done.timed_out
    assert (await desk.state("a")).status == "running"
    # It is in the container's group, where there is one.
    done = await desk.runtime.execute(
        "a", ["cat", "/proc/self/cgroup", f"/proc/{state.pid}/cgroup"]
    )
    lines = done.output.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


async def test_group_that_takes_nobody_is_replaced_by_watching(tmp_path: Path) -> None:
    patch = "from aiinfra_lab.sandbox.cgroups import Cgroup\nCgroup.add = lambda self, pid: False\n"
    folder = tmp_path / "rt"
    with child(folder, patch=patch):
        async for desk in connected(folder):
            state, _ = await desk.finish("a", python(HOG), memory=64 * MIB)
            assert (state.exit_code, state.reason) == (137, "OOMKilled")


async def test_ended_runtime_leaves_no_group(tmp_path: Path) -> None:
    folder = tmp_path / "rt"
    with child(folder) as runtime:
        async for desk in connected(folder):
            for n in range(3):
                await desk.run(f"a{n}", "sleep 100", memory=64 * MIB, cpus=1.0)
            pattern = f"aiinfra-{desk.runtime.pid}-*"
        await runtime.stop_async()
    assert list(Path("/sys/fs/cgroup").rglob(pattern)) == []
